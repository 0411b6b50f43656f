"""`unios ps`: the processes of the system, from any node."""

from unios.client import processes
from unios.errors import Unavailable
from unios.shell.session import Session, shown
from unios.shell.table import age, table
from unios.shell.words import Given, Option, Word
from unios.wire.operations import ProcessView

HEAD = ("PID", "STATE", "NODE", "USER", "AGE", "COMMAND")
ARRAY_ROWS_MAX = 10
"""So many waiting elements of an array have rows of their own; of more, one row speaks for all. --json shows each."""


def ps(session: Session, given: Given) -> int:
    views = _listed(session, ended=given.flag("every"), stale=given.flag("stale"))
    if session.json:
        session.print_json([describe(view) for view in views])
    elif given.flag("usage"):
        session.print_table(table((*HEAD[:-1], "CPU", "MEMORY", "ASKED", HEAD[-1]), _with_usage(session, views)))
    else:
        why = given.flag("why")
        head = (*HEAD, *(("WHY THERE",) if why else ()))
        session.print_table(table(head, [(*_row(view), *((view.why or "-",) if why else ())) for view in compact(views)]))
    if not session.json:
        say_stale(session, max((view.stale_ms for view in views), default=0))
    return 0


def _listed(session: Session, *, ended: bool, stale: bool) -> tuple[ProcessView, ...]:
    if stale:
        return processes.list_processes(session.connection, ended=ended, stale=True)
    try:
        return present(session, processes.list_processes(session.connection, ended=ended))
    except Unavailable as error:
        raise Unavailable(f"{error}; `unios ps --stale` shows what this node knows") from error


def say_stale(session: Session, stale_ms: int) -> None:
    """Say how old what was just shown may be; nothing of what is as the store had it a moment ago."""
    if stale_ms:
        session.print(f"stale: {stale_ms / 1000:.1f} s: the store has not answered this node for so long, and what happened since is not in it")


def present(session: Session, views: tuple[ProcessView, ...]) -> tuple[ProcessView, ...]:
    """Return the views, those that wait with why they wait now: their records have the reason of the moment at which they were written."""
    if not any(map(waits, views)):
        return views
    from unios.client import queue

    return with_reasons(views, queue.reasons(session.connection))


def with_reasons(views: tuple[ProcessView, ...], reasons: dict[int, str]) -> tuple[ProcessView, ...]:
    """Return the views, those that wait with these reasons, as far as there are any."""
    import msgspec

    return tuple(msgspec.structs.replace(view, reason=reasons[view.pid]) if waits(view) and view.pid in reasons else view for view in views)


def waits(view: ProcessView) -> bool:
    return view.state == "pending" and not view.node


def compact(views: tuple[ProcessView, ...]) -> list[ProcessView]:
    """Return the views with the waiting elements of a long array as one: the first, which says how many there are."""
    waiting: dict[int, list[ProcessView]] = {}
    for view in views:
        if view.queueing.array and waits(view):
            waiting.setdefault(view.queueing.array, []).append(view)
    long = {array: those for array, those in waiting.items() if len(those) > ARRAY_ROWS_MAX}
    if not long:
        return list(views)
    hidden = {view.pid for those in long.values() for view in those[1:]}
    firsts = {those[0].pid: those for those in long.values()}
    return [_joined(firsts[view.pid]) if view.pid in firsts else view for view in views if view.pid not in hidden]


def _joined(those: list[ProcessView]) -> ProcessView:
    import msgspec

    first, last = those[0], those[-1]
    what = f"and {len(those) - 1} more of array {first.queueing.array}, up to {last.pid}; {first.reason}"
    return msgspec.structs.replace(first, reason=what)


def _with_usage(session: Session, views: tuple[ProcessView, ...]) -> list[tuple[object, ...]]:
    """Return the rows with what each has used; memory is what it uses now, of one that has ended the most that it did."""
    from unios.shell.usage import of_nodes, seconds, size

    live = {process.pid: process for seen in of_nodes(session) for process in seen.processes}
    rows = []
    for view in views:
        now = live.get(view.pid)
        cpu = view.usage.cpu_ms + (now.cpu_ms if now is not None and now.incarnation == view.incarnation and view.state not in processes.ENDED else 0)
        memory = now.memory_bytes if now is not None else view.usage.memory_peak_bytes
        *first, last = _row(view)
        rows.append((*first, seconds(cpu), size(memory), size(view.resources.memory_bytes), last))
    return rows


def describe(view: ProcessView) -> dict[str, object]:
    """Return a process as JSON shows it; every field is always there."""
    fields: dict[str, object] = {name: getattr(view, name) for name in view.__struct_fields__}
    fields["argv"] = [shown(argument) for argument in view.argv]
    for name in ("resources", "queueing", "placing"):
        part = getattr(view, name)
        fields[name] = {each: getattr(part, each) for each in part.__struct_fields__}
    fields["queueing"]["after"] = [{"pid": after.pid, "condition": after.condition} for after in view.queueing.after]  # type: ignore[index]
    return fields


def command_line(argv: tuple[bytes, ...]) -> str:
    """Return argv as a person would type it, on one line."""
    return " ".join(_quoted(shown(argument)) for argument in argv)


def _quoted(argument: str) -> str:
    if argument and not set(argument) & set(" \t\n'\"\\$`*?[](){}<>|&;~#!"):
        return argument
    return "'" + argument.replace("\n", "\\n").replace("'", "'\\''") + "'"


def _row(view: ProcessView) -> tuple[object, ...]:
    state = view.state
    if view.state in processes.ENDED and view.exit_code is not None:
        state = f"{view.state} {view.exit_code}"
    note = f"  ({view.reason})" if view.reason else ""
    return view.pid, state, view.node or "-", view.user, age(view.started_ms, view.ended_ms), command_line(view.argv) + note


WORDS = {
    "ps": Word(
        ps,
        Option("every", "-a", "--all", text="Those that have ended too."),
        Option("usage", "--usage", text="With processor time and memory: used now, at most if it has ended, and asked for."),
        Option("why", "--why", text="Say why each was given its node."),
        Option("stale", "--stale", text="As this node knows them, also while the store does not answer: it is said how old that may be."),
        text="List the processes of the system: from any node, the same.",
    )
}
