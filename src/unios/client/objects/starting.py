"""Starting: the holder of a user's objects on a node is an ordinary process of the system, so that it outlives the program which needed it first."""

import os
import sys
from typing import Final

from unios.client.connection import Connection
from unios.client.messages.acceptor import me
from unios.client.nodes import list_nodes
from unios.client.processes import ENDED, list_processes, submit
from unios.demands import Placing, Resources
from unios.errors import CallerError
from unios.limits import PORT_CONNECTIONS_PER_USER_MAX
from unios.wire.operations import Program

BOUNDS: Final = ("UNIOS_OBJECTS_DISK", "UNIOS_OBJECTS_MEMORY")
_KEPT: Final = ("HOME", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "TMPDIR", *BOUNDS)
LABEL: Final = "objects"
"""How `unios ps` shows it."""


def start(node: str, system: str) -> None:
    """Start the holder of this user on this node; does not wait for it. One that finds another there ends at once. Unavailable, CallerError."""
    for name in BOUNDS:
        if not os.environ.get(name, "0").isdecimal():
            raise CallerError(f"{name}={os.environ[name]} is no number of bytes")
    program = Program(
        argv=tuple(os.fsencode(word) for word in (sys.executable, "-m", "unios.client.objects", node, system)),
        env=tuple((os.fsencode(name), os.fsencode(os.environ[name])) for name in _KEPT if name in os.environ),
        restart="never",
        on_partition="keep",
        node=node,
        resources=Resources(cpu_milli=0, tasks=4 * PORT_CONNECTIONS_PER_USER_MAX),
        placing=Placing(label=LABEL),
    )
    with Connection(role="program") as connection:
        submit(connection, program)


def runs_on(connection: Connection, node: str) -> bool:
    """Return whether the process table has a holder of this user on a node that is not lost: one that does not answer, maybe, but keeps what it has."""
    user = me()
    if not any(
        view.placing.label == LABEL and view.user == user and view.node == node and view.state not in ENDED for view in list_processes(connection)
    ):
        return False
    return all(view.state != "lost" for view in list_nodes(connection) if view.name == node)
