"""`unios ps`: the processes of the system, from any node."""

from unios.client import processes
from unios.shell.session import Session, shown
from unios.shell.table import age, table
from unios.shell.words import Given, Option, Word
from unios.wire.operations import ProcessView


def ps(session: Session, given: Given) -> int:
    views = processes.list_processes(session.connection, ended=given.flag("every"))
    if session.json:
        session.print_json([describe(view) for view in views])
    else:
        head = ("PID", "STATE", "NODE", "USER", "AGE", "COMMAND")
        session.print_table(table(head, [_row(view) for view in views]))
    return 0


def describe(view: ProcessView) -> dict[str, object]:
    """Return a process as JSON shows it; every field is always there."""
    fields: dict[str, object] = {name: getattr(view, name) for name in view.__struct_fields__}
    fields["argv"] = [shown(argument) for argument in view.argv]
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
    note = f"  ({view.reason})" if view.reason and view.state not in ("running", "frozen") else ""
    return view.pid, state, view.node or "-", view.user, age(view.started_ms, view.ended_ms), command_line(view.argv) + note


WORDS = {
    "ps": Word(
        ps,
        Option("every", "-a", "--all", text="Those that have ended too."),
        text="List the processes of the system: from any node, the same.",
    )
}
