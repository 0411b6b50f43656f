"""`unios nodes` and `unios status`: what the system consists of, and what is wrong with it."""

from unios.client import nodes as client
from unios.shell.session import Session
from unios.shell.table import table
from unios.shell.words import Given, Word
from unios.wire.operations import NodeView

HEAD = ("NAME", "STATE", "MACHINE", "CORES", "RUNNING", "INCARNATION", "NOTE")


def nodes(session: Session, given: Given) -> int:
    views = client.list_nodes(session.connection)
    if session.json:
        session.print_json([describe(view) for view in views])
    else:
        session.print_table(table(HEAD, [_row(view) for view in views]))
    return 0


def status(session: Session, given: Given) -> int:
    view = client.status(session.connection)
    if session.json:
        fields: dict[str, object] = {name: getattr(view, name) for name in view.__struct_fields__}
        fields["nodes"] = [describe(node) for node in view.nodes]
        session.print_json(fields)
        return 0
    machines = {node.machine for node in view.nodes if node.state != "left"}
    session.print(f"system {view.system}, unios {view.version}, store: {view.engine} on machine {view.store_machine[:12]}")
    session.print(f"{_count(len(machines), 'machine')}, {_count(len(view.nodes), 'node')}")
    session.print_table(table(HEAD, [_row(node) for node in view.nodes]))
    counts = ", ".join(f"{count} {state}" for state, count in sorted(view.processes.items()) if count)
    session.print(f"processes: {counts or 'none'}")
    for warning in view.warnings:
        session.print(f"warning: {warning}")
    return 0


def describe(view: NodeView) -> dict[str, object]:
    """Return a node as JSON shows it; every field is always there."""
    return {name: getattr(view, name) for name in view.__struct_fields__}


def _row(view: NodeView) -> tuple[object, ...]:
    return view.name, view.state, view.machine[:12], view.cores or "-", view.running, view.incarnation, view.reason


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


WORDS = {
    "nodes": Word(nodes, text="List the nodes of the system, with what they are and what they run."),
    "status": Word(status, text="Show the system at a glance: machines, nodes, processes, and what is wrong with it."),
}
