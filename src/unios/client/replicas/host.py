"""Host: the program of a process that holds one copy of a long-lived object: `python -m unios.client.replicas.host NAME RANK`.

It is started by `distribute` as a process of the system, and again by the system on another node when its node is lost.
"""

import os
import sys

from unios.client.messages.acceptor import me
from unios.client.messages.port import Port
from unios.client.messages.server import Server, caller
from unios.client.replicas.config import Config
from unios.client.replicas.counting import Counted
from unios.client.replicas.directory import port_of
from unios.client.replicas.leader import Leader
from unios.client.replicas.standby import Standby
from unios.core.outcomes import Request
from unios.core.replication import Message, Reply
from unios.errors import Denied, NotFound, UniosError
from unios.limits import OBJECT_LOOK_MS


class Door:
    """What a host answers, to processes of its own user only: what they send are programs."""

    def __init__(self, copy: Leader | Standby, counted: Counted) -> None:
        self._copy = copy
        self._counted = counted

    def _leader(self, kind: str) -> Leader:
        self._mine()
        if not isinstance(self._copy, Leader):
            raise NotFound("this is not the first copy")
        if kind:
            self._counted.add(kind)
        return self._copy

    def _mine(self) -> None:
        if caller().user != me():
            raise Denied("a long-lived object answers processes of its own user only")

    def describe(self) -> Config:
        """Return how the object is configured."""
        return self._leader("").config

    def create(self, config: Config, call: bytes) -> bytes | None:
        """Make the object; return what prevents it."""
        return self._leader("").create(config, call)

    def withdraw(self, token: str) -> bool:
        """Make no object here."""
        return self._leader("").withdraw(token)

    def look(self) -> None:
        """A copy has come back."""
        self._leader("").look()

    def write(self, request: Request, cache: str, dropped: int) -> bytes:
        """Do a call that may change the object."""
        return self._leader("write").write(request, cache, dropped)

    def read(self, call: bytes) -> bytes | None:
        """Do a call that changes nothing; None: ask the first copy."""
        self._mine()
        self._counted.add("read")
        return self._copy.read(call)

    def fetch(self, token: str, session: str, have: int) -> tuple[int, int, bytes | None]:
        """Give a cache the state."""
        return self._leader("fetch").fetch(token, session, have)

    def invalidation(self, session: str, dropped: int) -> int:
        """Tell a cache what to drop, when there is something."""
        number = self._leader("").invalidation(session, dropped)
        self._counted.add("invalidate" if number else "idle")
        return number

    def retire(self) -> None:
        """Let no cache keep it any more."""
        self._leader("").retire()

    def hear(self, message: Message) -> Reply:
        """Take what the first copy says."""
        self._mine()
        if not isinstance(self._copy, Standby):
            raise NotFound("this is the first copy")
        kind = type(message).__name__.lower()
        self._counted.add(kind, 1 if kind == "commit" else 2)
        return self._copy.hear(message)

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return what was counted here."""
        self._mine()
        return self._counted.read()


def serve(name: str, rank: int, environment: "os._Environ[str]") -> None:
    """Hold a copy until the process is ended."""
    pid, incarnation = int(environment["UNIOS_PID"]), int(environment["UNIOS_INCARNATION"])
    copy = Standby(incarnation) if rank else Leader(name, pid, incarnation)
    with Server(port_of(pid), Door(copy, Counted(environment["UNIOS_NODE"]))) as server:
        while isinstance(copy, Standby) and copy.config is None and not server.wait(OBJECT_LOOK_MS / 1000):
            _announce(name)
        server.wait()


def _announce(name: str) -> None:
    """Have the first copy notice that this one has come back, empty."""
    from unios.client.connection import Connection
    from unios.client.replicas.directory import hosts

    try:
        with Connection(role="program") as connection:
            first = hosts(connection, name).get(0)
        if first is not None:
            with Port(port_of(first.pid), timeout=OBJECT_LOOK_MS / 1000) as port:
                port.options(timeout=OBJECT_LOOK_MS / 1000, idempotent=True).look()
    except UniosError:
        pass  # it is away too, and looks when it comes back


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), os.environ)
