"""The way to a system: any kernel of this machine that answers, found by its socket in UNIOS_HOME, and found again after a loss.

With a node's name everything is asked of that node: through its own socket if it is of this machine, else through another kernel,
which relays. Nothing is asked twice unless the caller says that it is idempotent.
"""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from unios.client.channel import Asked, Channel
from unios.errors import DiskFull, NodeUnknown, NoRoom, NotFound, OutcomeUnknown, PeerRestarted, Unavailable, UniosError
from unios.limits import CALL_TIMEOUT_MS, CLIENT_RECONNECT_MS, CLIENT_RETRY_MS, CLIENT_TOLD_MS, HELLO_TIMEOUT_MS
from unios.wire.doors import connect_unix
from unios.wire.home import Home, NodeFolder, closed, default_home, door_of, node_names

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
PASSING = (Unavailable, OutcomeUnknown, PeerRestarted)
"""What an idempotent request may be asked again after."""
FULL = (DiskFull, NoRoom)
"""What only a person can end, by making room: it is told while it is waited for."""
_IMPATIENT_S = 0.7
"""The first round over the doors gives each this long to greet, so that one hung kernel does not hold up the others."""
_GLANCE_S: Final = 0.05
"""So long each door gets at the least, however little time is left."""


class Connection:
    """Opens at the first request. Belongs to one thread; a forked child needs its own."""

    def __init__(self, home: "Path | str | None" = None, node: str = "", *, role: str = "client") -> None:
        """`home`: the UNIOS_HOME, by default the environment's. `node`: the node to talk through."""
        self._home = default_home() if home is None else os.path.join(os.getcwd(), os.fspath(home))
        self.node = node
        self.role = role
        self._channel: Channel | None = None
        self._relayed = ""
        self._services: dict[str, Channel] = {}
        self.tell: Callable[[str], None] | None = None
        """Told, once, what a person has to do before this command goes on."""
        self._told = False

    def waits_for_room(self, text: str) -> None:
        """Say that it waits for room on a disk: once in this connection's life, as it may try twenty times a second. Idempotent."""
        if self.tell is not None and not self._told:
            self._told = True
            self.tell(text)

    @property
    def home(self) -> Home:
        """The UNIOS_HOME."""
        from pathlib import Path

        return Home(Path(self._home))

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the next request opens another. Idempotent."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for service in self._services.values():
            service.close()
        self._services.clear()

    def service(self, name: str, connect: Callable[[], Channel]) -> Channel:
        """Return a channel to a service's port, the same one while it lasts."""
        found = self._services.get(name)
        if found is None or found.is_closed:
            found = self._services[name] = connect()
        return found

    def again(self) -> "Connection":
        """Return another connection to the same system and node."""
        return Connection(self._home, self.node, role=self.role)

    def channel(self, until: float | None = None) -> Channel:
        """Return an open channel to a kernel; Unavailable if none answers, by `until` (time.monotonic) if that is given."""
        if self._channel is None or self._channel.is_closed:
            self._channel = self._open(until)
        return self._channel

    def reach(self) -> None:
        """Raise NodeUnknown if the node to talk through is none of the system, Unavailable if it cannot be reached. Asks nothing where it is the one at hand.

        A port is given by the kernel at hand, whatever node is named: without this a program would be run through a node that there is not.
        """
        self.channel()
        if self._relayed:
            try:
                self.call("node.info")
            except NotFound as error:
                raise NodeUnknown(str(error)) from error

    def begin(self, op: str, body: object = None, *, node: str | None = None, until: float | None = None) -> Asked:
        """Ask without waiting for the answer: for streams, and for asking several at once. `node` overrides the connection's; `until` as in `channel`."""
        channel = self.channel(until)
        return channel.begin(op, body, node=self._relayed if node is None else node)

    def call(
        self, op: str, body: object = None, type_: type[T] | Any = Any, *, node: str | None = None, timeout_s: float = CALL_TIMEOUT_MS / 1000
    ) -> Any:
        """Ask once; raise what the kernel raised, OutcomeUnknown if no answer came within `timeout_s`. `node` overrides the connection's."""
        channel = self.channel()
        return channel.call(op, body, type_, node=self._relayed if node is None else node, timeout_s=timeout_s)

    def ask(self, op: str, body: object = None, type_: type[T] | Any = Any, *, timeout_s: float = CALL_TIMEOUT_MS / 1000) -> Any:
        """Ask what is idempotent: asked again of any kernel while none answers, for at most CLIENT_RECONNECT_MS."""
        return self.persist(lambda: self.call(op, body, type_, timeout_s=timeout_s))

    def persist(self, attempt: Callable[[], T], after: tuple[type[UniosError], ...] = PASSING) -> T:
        """Return what `attempt` returns; repeat it after a passing failure while something of a node lives on this machine."""
        begun = time.monotonic()
        deadline = begun + CLIENT_RECONNECT_MS / 1000
        while True:
            try:
                return attempt()
            except after as error:
                self.close()
                now = time.monotonic()
                if now >= deadline or not self.anybody():
                    if isinstance(error, FULL):
                        raise type(error)(f"{error}; given up after {now - begun:.0f} s") from error
                    raise
                if isinstance(error, FULL) and now - begun >= CLIENT_TOLD_MS / 1000:
                    self.waits_for_room(f"{error}; this command tries again for at most {CLIENT_RECONNECT_MS // 1000} s, and nothing is lost")
                time.sleep((CLIENT_TOLD_MS if self._told and isinstance(error, FULL) else CLIENT_RETRY_MS) / 1000)

    def anybody(self) -> bool:
        """Say whether a part of a node of this machine is alive, so that its kernel answers now or will soon."""
        return any(runs(self.home.node(name)) for name in self._doors())

    def _doors(self) -> list[str]:
        """Return the names of the nodes to try, the wanted one first. Denied if none is named and this user may not see which there are."""
        first = self.node or os.environ.get("UNIOS_NODE", "")
        try:
            return sorted(node_names(self._home), key=lambda name: name != first)
        except PermissionError as error:
            if first:
                return [first]
            raise closed(self._home) from error

    def _open(self, until: float | None = None) -> Channel:
        """Try all doors, impatiently and then patiently. When `until` has passed each still gets _GLANCE_S once: a kernel that is well answers within that."""
        doors = self._doors()
        failure: Exception | None = None
        for patience_s in (_IMPATIENT_S, HELLO_TIMEOUT_MS / 1000):
            for name in doors:
                door = door_of(self._home, name)
                left_s = patience_s if until is None else max(_GLANCE_S, min(patience_s, until - time.monotonic()))
                try:
                    channel = Channel(connect_unix(door, timeout_s=left_s), role=self.role, timeout_s=left_s)
                except (FileNotFoundError, ConnectionRefusedError):
                    continue
                except PermissionError as error:
                    failure = Unavailable(f"no right to talk to the node {name}: {door} is another user's")
                    failure.__cause__ = error
                except (OSError, Unavailable) as error:
                    failure = Unavailable(f"the node {name} does not answer: {error}")
                    failure.__cause__ = error
                else:
                    self._relayed = "" if name == self.node else self.node
                    return channel
            if failure is None or (until is not None and time.monotonic() >= until):
                break
        raise failure or Unavailable(f"no unios node runs here (UNIOS_HOME={self._home}): start one with `unios up`")


def runs(folder: NodeFolder) -> bool:
    """Return whether a part of a node is alive that keeps it running."""
    return any(is_alive(*recorded(folder, part)) for part in ("kernel", "supervisor", "guard"))


def recorded(folder: NodeFolder, part: str) -> tuple[int, int]:
    """Return pid and start time of a node's part as its run file says, (0, 0) if that says nothing."""
    import json

    try:
        fields = json.loads((folder.run / f"{part}.json").read_bytes())
        return int(fields["pid"]), int(fields["start"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


def is_alive(pid: int, start: int) -> bool:
    """Return whether that process of Linux lives; `start`: field 22 of its /proc/PID/stat."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            stat = file.read().rsplit(")", 1)[1].split()
        return stat[0] not in "ZX" and int(stat[19]) == start
    except (OSError, ValueError, IndexError):
        return False
