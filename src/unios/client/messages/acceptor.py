"""Acceptor: takes the connections of all ports of a process in, in one thread, and opens the ports again after the kernel was restarted."""

import contextlib
import heapq
import os
import pwd
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from unios.client.connection import Connection
from unios.client.messages.intake import not_come
from unios.errors import CallerError, NotFound, ProtocolError, UniosError
from unios.limits import CALL_TIMEOUT_MS, CLIENT_RETRY_MS
from unios.undecodable import UNDECODABLE
from unios.wire.doors import receive_descriptors
from unios.wire.operations import Accepted, Grant, Listen, Listening, NodeInfo, Revoke

T = TypeVar("T")
OnAccepted = Callable[[Accepted, socket.socket, str], None]
"""Told: the kernel's stamp, the connection, the node on which the port is open."""
_STAMP_BYTES: Final = 4_096


def me() -> str:
    """Return the name of the user who runs this, as the kernel would stamp it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"#{os.geteuid()}"


class _Listening:
    __slots__ = ("accepted", "grants", "kernel", "lost", "mode", "name", "node", "sock")

    def __init__(self, name: str, mode: int, accepted: OnAccepted, lost: Callable[[], None]) -> None:
        self.name, self.mode, self.accepted, self.lost = name, mode, accepted, lost
        self.sock: socket.socket | None = None
        self.kernel, self.node = 0, ""
        """The Linux pid of the kernel that opened it, and its node."""
        self.grants: set[str] = set()


class Acceptor:
    """That of one process and system."""

    _all: "dict[tuple[int, str, str], Acceptor]" = {}
    _making: threading.Lock = threading.Lock()

    @classmethod
    def after_fork(cls) -> None:
        """Let go of a lock that another thread of the parent held; the parent's ports stay the parent's."""
        cls._making = threading.Lock()
        for acceptor in cls._all.values():
            for port in acceptor._ports.values():
                if port.sock is not None:
                    port.sock.close()  # or the port would seem to be open for as long as this child lives

    @classmethod
    def of(cls, home: "Path | str | None", node: str) -> "Acceptor":
        """Return the one of this process for a system: a forked child has its own."""
        with cls._making:
            connection = Connection(home, node, role="program")
            key = (os.getpid(), str(connection.home.path), node)
            for old in [old for old in cls._all if old[0] != os.getpid()]:
                del cls._all[old]
            if key not in cls._all:
                cls._all[key] = cls(connection)
            return cls._all[key]

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._ports: dict[str, _Listening] = {}
        self._by_descriptor: dict[int, _Listening] = {}
        self._poll = select.epoll()
        self._down: set[str] = set()
        """Ports that the kernel has forgotten, to be opened again."""
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._told: deque[tuple[float, Callable[[], None]]] = deque()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        """What is to be done when, the next first. That of this thread; others tell it by `_told`."""
        threading.Thread(target=self._run, name="unios-acceptor", daemon=True).start()

    def listen(self, name: str, mode: int, accepted: OnAccepted, lost: Callable[[], None]) -> None:
        """Open a port; each connection goes to `accepted`. One of this user is taken over: `lost` is called when that happens to this one."""
        port = _Listening(name, mode, accepted, lost)
        with self._lock:
            before = self._ports.get(name)
            self._open(port)
            self._ports[name] = port
            self._down.discard(name)
            if before is not None:
                self._forget(before)
        if before is not None:
            before.lost()

    def _open(self, port: _Listening) -> None:
        def ask() -> tuple[bytes, list[socket.socket]]:
            asked = self._connection.begin("ports.listen", Listen(port.name, port.mode), node="")
            raw, descriptors = asked.finish(timeout_s=CALL_TIMEOUT_MS / 1000)
            return raw, [socket.socket(fileno=descriptor) for descriptor in descriptors]

        raw, sockets = self._connection.persist(ask)  # to open it twice is to take it over from oneself
        opened = _decoded(raw, Listening)
        if opened is None or len(sockets) != 1:
            for sock in sockets:
                sock.close()
            raise not_come(f"port {port.name}") if not sockets else ProtocolError("the kernel answered ports.listen with something else than a port")
        port.sock = sockets[0]
        port.sock.setblocking(False)
        try:
            if not opened.kernel:  # a kernel of before, which does not say
                info = self._info()
                opened = Listening(info.kernel_pid, info.name)
            port.kernel, port.node = opened.kernel, opened.node
            for user in port.grants:
                self._connection.ask("ports.grant", Grant(port.name, user))
        except BaseException:
            self._give_up(port)
            raise
        self._by_descriptor[port.sock.fileno()] = port
        self._poll.register(port.sock, select.EPOLLIN)

    def _give_up(self, port: _Listening) -> None:
        port.kernel = 0  # or it would seem, when it is opened again, that somebody else has taken it over
        if port.sock is not None:
            port.sock.close()
            port.sock = None

    def _info(self) -> NodeInfo:
        found: NodeInfo = self._connection.ask("node.info", None, NodeInfo)
        return found

    def grant(self, name: str, user: str) -> None:
        """Let one more user connect, after restarts of the kernel too."""
        with self._lock:
            self._connection.ask("ports.grant", Grant(name, user))
            if name in self._ports:
                self._ports[name].grants.add(user)

    def revoke(self, name: str, user: str) -> None:
        """Take back what was granted to a user; the kernel cuts his connections."""
        with self._lock:
            if name in self._ports:
                self._ports[name].grants.discard(user)
            self._connection.ask("ports.revoke", Revoke(name, 0, user))

    def _forget(self, port: _Listening) -> None:
        if port.sock is not None:
            with contextlib.suppress(OSError, ValueError):
                self._poll.unregister(port.sock)
            self._by_descriptor.pop(port.sock.fileno(), None)
            port.sock.close()
            port.sock = None

    def close(self, name: str, accepted: OnAccepted | None = None) -> None:
        """Close a port. `accepted`: only if it is the one that was opened with that, for another may have been opened since."""
        with self._lock:
            port = self._ports.get(name)
            if port is None or (accepted is not None and port.accepted != accepted):
                return
            del self._ports[name]
            self._down.discard(name)
            if port.sock is not None and not _has_ended(port.sock):
                with contextlib.suppress(UniosError):
                    self._connection.call("ports.close", Revoke(name), Any)
            self._forget(port)

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        """Have something short done in so many seconds, by the thread that takes connections in. Takes no lock."""
        self._told.append((time.monotonic() + seconds, work))
        os.eventfd_write(self._wake, 1)

    def _patience_s(self) -> float | None:
        if self._down:
            return CLIENT_RETRY_MS / 1000
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None

    def _do_what_is_due(self) -> None:
        while self._told:
            due_s, work = self._told.popleft()
            heapq.heappush(self._due, (due_s, id(work), work))
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def _run(self) -> None:
        while True:
            for descriptor, _mask in self._poll.poll(self._patience_s()):
                if descriptor == self._wake:
                    os.eventfd_read(self._wake)
                port = self._by_descriptor.get(descriptor)
                if port is not None:
                    with contextlib.suppress(OSError, RuntimeError):  # no descriptors or threads for one more at the moment: this thread goes on
                        self._take(port)
            self._do_what_is_due()
            if self._down:
                self._open_again()

    def _take(self, port: _Listening) -> None:
        sock = port.sock
        if sock is None:
            return
        try:
            packet, descriptors = receive_descriptors(sock, _STAMP_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            packet, descriptors = b"", []
        if not packet:
            with self._lock:
                self._forget(port)
                if self._ports.get(port.name) is port:
                    self._down.add(port.name)  # the kernel has ended, or somebody else of this user listens there now
            return
        stamp = _decoded(packet, Accepted)
        if stamp is None or not descriptors:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        port.accepted(stamp, socket.socket(fileno=descriptors[0]), port.node)

    def _open_again(self) -> None:
        names, failed = list(self._down), False
        try:
            with self._lock:
                now = (
                    self._info().kernel_pid
                )  # asked after they had ended: of each that this kernel opened it is known that it did not end by its death
        except (UniosError, OSError):
            time.sleep(CLIENT_RETRY_MS / 1000)
            return
        for name in names:
            with self._lock:
                port = self._ports.get(name)
                if port is not None and port.sock is None:
                    try:
                        if port.kernel == now:
                            self._lose(port)
                        else:
                            self._open(port)
                    except NotFound:  # that kernel has ended as well, before it heard what had been granted: the next one is asked
                        failed = True
                        continue
                    except CallerError:  # another user has it now
                        self._lose(port)
                    except (UniosError, OSError):
                        failed = True  # the others may be opened all the same
                        continue
                self._down.discard(name)
        if failed:
            time.sleep(CLIENT_RETRY_MS / 1000)

    def _lose(self, port: _Listening) -> None:
        del self._ports[port.name]
        port.lost()


os.register_at_fork(after_in_child=Acceptor.after_fork)


def _has_ended(sock: socket.socket) -> bool:
    """Return whether the kernel has ended a listener: somebody else of this user listens there now, and that port is not to be closed."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _decoded(packet: bytes, type_: type[T]) -> T | None:
    import msgspec

    try:
        return msgspec.msgpack.decode(packet, type=type_)
    except UNDECODABLE:
        return None
