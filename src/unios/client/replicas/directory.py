"""Directory: which processes hold an object, as the process table says. A host's label is the object's name and the rank of the copy."""

from typing import Final, NamedTuple

from unios.client.connection import Connection
from unios.client.messages.acceptor import me
from unios.client.processes import ENDED, list_processes
from unios.limits import RESTARTS_MAX
from unios.wire.operations import ProcessView

_PREFIX: Final = "object/"


class Host(NamedTuple):
    """The process of a copy. `incarnation` 0: it has not begun. `node` "": it runs nowhere, and holds nothing."""

    pid: int
    incarnation: int
    node: str


def label_of(name: str, rank: int) -> str:
    """Return the label of the process that holds that copy."""
    return f"{_PREFIX}{name}/{rank}"


def port_of(pid: int) -> str:
    """Return the port of a host: the pid is of the whole system."""
    return f"{_PREFIX}{pid}"


def hosts(connection: Connection, name: str, *, returning: bool = False) -> dict[int, Host]:
    """Return the processes of an object that have not ended, by rank. What the table says is linearizable.

    A process without a node has not begun, so its incarnation is given as 0; one that is pending on a node may have. `returning`: with those that have ended by
    themselves and are going to be started again; they run nowhere and hold nothing, and their incarnation is the one that has ended.
    """
    prefix, user = f"{_PREFIX}{name}/", me()
    found: dict[int, Host] = {}
    for view in list_processes(connection, ended=returning):
        rank = view.placing.label.removeprefix(prefix)
        if rank == view.placing.label or not rank.isdecimal() or view.user != user:
            continue
        if view.state not in ENDED:
            found[int(rank)] = Host(view.pid, view.incarnation if view.node else 0, view.node)
        elif comes_back(view):
            found.setdefault(int(rank), Host(view.pid, view.incarnation, ""))
    return found


def comes_back(view: ProcessView) -> bool:
    """Say whether the process of a copy that has ended is started again: each is with `restart="on-failure"`, unless somebody has ended it."""
    return view.state == "exited" and view.exit_code != 0 and view.wanted != "stopped" and view.restarts < RESTARTS_MAX
