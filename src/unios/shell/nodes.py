"""`unios nodes`: what the system consists of."""

from unios.client import nodes as client
from unios.shell.ps import say_stale
from unios.shell.session import Session
from unios.shell.table import table
from unios.shell.words import Given, Word
from unios.wire.operations import NodeView

HEAD = ("NAME", "STATE", "MACHINE", "CORES", "RUNNING", "INCARNATION", "VERSION", "NOTE")


def nodes(session: Session, given: Given) -> int:
    views = client.list_nodes(session.connection)
    if session.json:
        session.print_json([describe(view) for view in views])
    else:
        session.print_table(table(HEAD, [node_row(view) for view in views]))
        say_stale(session, max((view.stale_ms for view in views), default=0))
    return 0


def describe(view: NodeView) -> dict[str, object]:
    """Return a node as JSON shows it; every field is always there."""
    return {name: getattr(view, name) for name in view.__struct_fields__}


def node_row(view: NodeView) -> tuple[object, ...]:
    """Return the cells of a node under HEAD."""
    return (
        view.name,
        view.state,
        view.machine[:12],
        view.cores or "-",
        view.running,
        view.incarnation,
        view.release or view.version or "-",
        view.reason,
    )


WORDS = {
    "nodes": Word(nodes, text="List the nodes of the system, with what they are and what they run."),
}
