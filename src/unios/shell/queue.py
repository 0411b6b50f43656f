"""`unios queue`, `hold`, `release`, `cancel`, `policy`, `quota`: who waits and why, and what is laid down about it."""

import time

import msgspec

from unios.client import processes
from unios.client import queue as client
from unios.errors import NotFound
from unios.shell.ps import command_line, say_stale
from unios.shell.resources import cores, size
from unios.shell.session import Session, shown
from unios.shell.signals import each, pid_of
from unios.shell.table import age, table
from unios.shell.words import Given, Misused, Option, Word
from unios.wire.queueing import QuotaView, Waiting

SHOWN_MAX = 100
"""Rows of a table; the rest is counted. --all and --json show everything."""


def queue(session: Session, given: Given) -> int:
    waiting = client.waiting(session.connection)
    wanted = {pid_of(text) for text in given.arguments}
    if wanted:
        waiting = tuple(each for each in waiting if each.pid in wanted or each.array in wanted)
        _check(session, wanted - {each.pid for each in waiting} - {each.array for each in waiting})
    if session.json:
        session.print_json([describe(each) for each in waiting])
        return 0
    rows = waiting if given.flag("every") or wanted else waiting[:SHOWN_MAX]
    head = ("PID", "USER", "PRIORITY", "WAITED", "BEGINS", "COMMAND", "WHY")
    session.print_table(table(head, [_row(each) for each in rows]))
    if len(waiting) > len(rows):
        session.print(f"... and {len(waiting) - len(rows)} more; --all shows them")
    return 0


def _check(session: Session, others: set[int]) -> None:
    """Say of pids that do not wait what they do instead. Raises NotFound for one that there is not."""
    for pid in sorted(others):
        view = processes.view(session.connection, pid)
        session.note(f"{pid} does not wait: {view.state}{f' on {view.node}' if view.node else ''}")


def describe(waiting: Waiting) -> dict[str, object]:
    """Return one that waits as JSON shows it."""
    fields: dict[str, object] = {name: getattr(waiting, name) for name in waiting.__struct_fields__}
    fields["argv"] = [shown(argument) for argument in waiting.argv]
    return fields


def _row(waiting: Waiting) -> tuple[object, ...]:
    pid = f"{waiting.pid} [{waiting.index}]" if waiting.array else str(waiting.pid)
    return (
        pid,
        waiting.user,
        waiting.priority,
        age(waiting.created_ms),
        about(waiting.begins_ms),
        command_line(waiting.argv),
        waiting.reason,
    )


def about(at_ms: int) -> str:
    """Return a moment to come as a person would say it."""
    if not at_ms:
        return "-"
    left = max(0, at_ms - time.time_ns() // 1_000_000) / 1_000
    for unit, length in (("h", 3_600), ("min", 60)):
        if left >= 2 * length:
            return f"in about {left / length:.0f} {unit}"
    return f"in about {left:.0f} s" if left >= 1 else "now"


def hold(session: Session, given: Given) -> int:
    return each(session, given.arguments, client.hold, "held")


def release(session: Session, given: Given) -> int:
    return each(session, given.arguments, client.release, "released")


def cancel(session: Session, given: Given) -> int:
    return each(session, given.arguments, client.cancel, "cancelled")


def policy(session: Session, given: Given) -> int:
    if given.arguments and given.flag("stale"):
        raise Misused("--stale is for a look: a policy is laid down in the store or not at all")
    view = (
        client.set_policy(session.connection, given.arguments[0]) if given.arguments else client.policy(session.connection, stale=given.flag("stale"))
    )
    if session.json:
        session.print_json({"name": view.name, "known": view.known, "replaced": view.replaced, "stale_ms": view.stale_ms})
        return 0
    for name in view.known:
        session.print(f"{'*' if name == view.name else ' '} {name}")
    if view.replaced:
        session.note(f"{view.name} was replaced by the default: {view.replaced}; `unios policy {view.name}` tries it again")
    say_stale(session, view.stale_ms)
    return 0


def quota(session: Session, given: Given) -> int:
    changes = [key for key in ("cpus", "memory", "processes") if key in given.values]
    if not given.arguments:
        if changes or given.flag("none"):
            raise Misused("say whose quota it is: unios quota USER --cpus N")
        return _show(session, client.quotas(session.connection, stale=given.flag("stale")))
    user = given.arguments[0]
    if given.flag("stale") and (changes or given.flag("none")):
        raise Misused("--stale is for a look: a quota is laid down in the store or not at all")
    if given.flag("none") and changes:
        raise Misused("--none removes the quota: leave the others out")
    known = {view.user: view for view in client.quotas(session.connection, stale=given.flag("stale"))}
    old = known.get(user, QuotaView(user))
    stranger = user not in known and not _is_user(user)
    if stranger and (not changes or given.flag("none")):
        raise NotFound(f"there is no user {user} on this machine, and none of that name has a quota or a process")
    if not changes and not given.flag("none"):
        return _show(session, (old,))
    cpu = cores("--cpus", given.text("cpus")) if given.text("cpus") else old.cpu_milli
    memory = size("--memory", given.text("memory")) if given.text("memory") else old.memory_bytes
    new = QuotaView(user) if given.flag("none") else QuotaView(user, cpu, memory, given.number("processes", old.processes))
    client.set_quota(session.connection, new)
    if session.json:
        used = {name: getattr(old, name) for name in ("cpu_milli_used", "memory_bytes_used", "processes_used")}
        return _show(session, (msgspec.structs.replace(new, **used),))
    if stranger:
        session.note(f"there is no user {user} on this machine: the quota holds for whoever is called so on another")
    return 0


def _is_user(name: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        return False
    return True


def _show(session: Session, views: tuple[QuotaView, ...]) -> int:
    if session.json:
        session.print_json([{name: getattr(view, name) for name in view.__struct_fields__} for view in views])
        return 0
    rows = [
        (
            view.user,
            _of(view.cpu_milli_used / 1_000, view.cpu_milli / 1_000),
            _of(view.memory_bytes_used >> 20, view.memory_bytes >> 20),
            _of(view.processes_used, view.processes),
        )
        for view in views
    ]
    session.print_table(table(("USER", "CORES", "MEMORY MIB", "PROCESSES"), rows))
    say_stale(session, max((view.stale_ms for view in views), default=0))
    return 0


def _of(used: float, bound: float) -> str:
    return f"{used:g} of {bound:g}" if bound else f"{used:g}"


_STALE = Option("stale", "--stale", text="Show what this node knows, also while the store does not answer: it is said how old that may be.")
WORDS = {
    "queue": Word(
        queue,
        Option("every", "-a", "--all", text=f"All of them, not only the first {SHOWN_MAX}."),
        argument="[PID]...",
        text="Show who waits, in the order in which they go, why, and about until when; with PIDs only those, or those arrays.",
    ),
    "hold": Word(
        hold, argument="PID...", least=1, text="Let what waits wait on until it is released; the first pid of an array means all of it that wait."
    ),
    "release": Word(release, argument="PID...", least=1, text="Let what is held go on."),
    "cancel": Word(
        cancel, argument="PID...", least=1, text="End what waits before it has begun; the first pid of an array means all of it that wait."
    ),
    "policy": Word(
        policy,
        _STALE,
        argument="[POLICY]",
        one=True,
        text="List the placement policies, the system's with a star; with POLICY make that the system's, at once.",
    ),
    "quota": Word(
        quota,
        Option("cpus", "--cpus", metavar="CORES", text="The most cores that he may have set aside at a time; 0: no bound."),
        Option("memory", "--memory", metavar="SIZE", text="The same of memory, as in 8G."),
        Option("processes", "--processes", metavar="N", number=True, text="The most processes that have a node at a time."),
        Option("none", "--none", text="Remove the quota."),
        _STALE,
        argument="[USER]",
        one=True,
        text="Show what users may have at a time, and have; with USER and a bound, lay it down.",
    ),
}
