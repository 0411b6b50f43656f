"""Directory: which processes hold an object, as the process table says. A host's label is the object's name and the rank of the copy."""

from typing import Final, NamedTuple

from unios.client.connection import Connection
from unios.client.messages.acceptor import me
from unios.client.processes import ENDED, list_processes

_PREFIX: Final = "object/"


class Host(NamedTuple):
    """The process of a copy. `incarnation` 0: it runs nowhere, and holds nothing."""

    pid: int
    incarnation: int
    node: str


def label_of(name: str, rank: int) -> str:
    """Return the label of the process that holds that copy."""
    return f"{_PREFIX}{name}/{rank}"


def port_of(pid: int) -> str:
    """Return the port of a host: the pid is of the whole system."""
    return f"{_PREFIX}{pid}"


def hosts(connection: Connection, name: str) -> dict[int, Host]:
    """Return the processes of an object that have not ended, by rank. What the table says is linearizable.

    A process without a node has not begun, so its incarnation is given as 0; one that is pending on a node may have.
    """
    prefix, user = f"{_PREFIX}{name}/", me()
    found: dict[int, Host] = {}
    for view in list_processes(connection):
        rank = view.placing.label.removeprefix(prefix)
        if rank != view.placing.label and rank.isdecimal() and view.user == user and view.state not in ENDED:
            found.setdefault(int(rank), Host(view.pid, view.incarnation if view.node else 0, view.node))
    return found
