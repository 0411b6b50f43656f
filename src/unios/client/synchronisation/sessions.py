"""Sessions: those of this process, one with each system that it uses. A forked child has none; at exit all give back what they hold."""

import atexit
import os
import threading

from unios.client import embedded
from unios.client.connection import Connection
from unios.client.synchronisation.session import Session

_sessions: dict[tuple[str, str], Session] = {}
_making = threading.Lock()
_forks = 0


def forks() -> int:
    """Return how often this process has been forked off another since this was imported there."""
    return _forks


def session(connection: Connection | None = None) -> Session:
    """Return this process's session with a system, by default the one that the program uses (client/embedded.py)."""
    if connection is None:
        connection = Connection(embedded.system().home, role="locks")
    key = (connection._home, connection.node)
    found = _sessions.get(key)
    if found is None:
        with _making:
            found = _sessions.get(key)
            if found is None:
                found = _sessions[key] = Session(Connection(connection._home, connection.node, role="locks"))
    return found


def _end_all() -> None:
    for one in list(_sessions.values()):
        one.close()


def _after_fork() -> None:
    global _making, _forks
    _forks += 1
    for one in _sessions.values():
        one.let_go()
    _sessions.clear()
    _making = threading.Lock()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_after_fork)
