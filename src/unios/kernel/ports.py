"""Ports: the broker. A right to a port is a descriptor.

- `listen` gives a SOCK_SEQPACKET descriptor; each packet on it is an `Accepted` stamp with one connected descriptor.
- `connect` makes a socket pair, hands one end to the listener and one to the caller, and steps aside: bytes go from
  process to process.
- The broker keeps a duplicate of each end. Shutting one down is revocation. Since duplicates suppress end-of-file, the
  broker watches the holders (pidfd) and announces a peer's death by shutting the pair down.
- To another node the far end is the local kernel, which relays bytes over the link.

Never reads what passes between two local processes. Invariant: every descriptor here belongs to exactly one entry and
is closed with it.
"""

import asyncio
import contextlib
import os
import resource
import select
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from unios.errors import CallerError, Denied, NotFound, Unavailable
from unios.kernel.callers import Caller
from unios.limits import (
    DESCRIPTORS_KEPT,
    PORT_CONNECTIONS_KEPT,
    PORT_CONNECTIONS_MAX,
    PORT_CONNECTIONS_PER_USER_MAX,
    PORT_NAME_BYTES_MAX,
    PORTS_MAX,
    PORTS_PER_USER_MAX,
    USER_CONNECTIONS_MAX,
)
from unios.wire.operations import Accepted

SERVICES: Final = frozenset({"placement", "recovery", "locks", "archive", "files"})
"""Names that only the system's own services may take. They have places of their own: no program's ports keep them out."""


class PortRecord(msgspec.Struct, frozen=True):
    """At /ports/<name>/<node>, attached to the node's lease."""

    name: str
    node: str
    owner: str
    mode: int


def port_key(name: str, node: str) -> str:
    return f"/ports/{name}/{node}"


class _Port:
    __slots__ = ("grants", "mode", "name", "owner", "sock")

    def __init__(self, name: str, owner: Caller, mode: int, sock: socket.socket) -> None:
        self.name, self.owner, self.mode, self.sock = name, owner, mode, sock
        self.grants: set[str] = set()


class _Connection(NamedTuple):
    id: int
    port: str
    near: socket.socket
    far: socket.socket
    holders: tuple[int, ...]
    caller: Caller
    listener: _Port
    """Who has it: another one may listen under the name since, and leaves it alone."""


def check_name(name: str) -> None:
    """Raise CallerError unless `name` can name a port: path-like text, bounded, no empty part."""
    parts = name.split("/")
    if not name or len(name.encode(errors="replace")) > PORT_NAME_BYTES_MAX or not name.isprintable() or "" in parts or ".." in parts:
        raise CallerError(f"{name[:80]!r} is no name for a port: use up to {PORT_NAME_BYTES_MAX} printable bytes, parts separated by /")


def may_connect(caller: Caller, owner: str, mode: int, grants: frozenset[str]) -> bool:
    """Decide as a file's mode would: the owner's bits for the owner, the others' for the rest; a grant names one user more."""
    if caller.privileged or caller.user in grants:
        return True
    return bool(mode & (0o200 if caller.user == owner else 0o002))


def _pair(name: str, kind: int) -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets for a program's port. OSError; Unavailable if that takes what the kernel itself may need: Linux gives the lowest that
    is free."""
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if name not in SERVICES and far.fileno() >= soft - min(DESCRIPTORS_KEPT, soft // 4):
        near.close()
        far.close()
        raise Unavailable(
            f"this kernel may have {soft} descriptors, and ports and connections have all but those that it needs itself: programs have to close some, "
            "or the node be started with a higher bound (ulimit -n)"
        )
    return near, far


class Broker:
    """The ports of one node. All methods belong to the loop's thread."""

    def __init__(self, node: str, on_closed: Callable[[str], None]) -> None:
        self._node = node
        self._on_closed = on_closed
        self._ports: dict[str, _Port] = {}
        self._connections: dict[int, _Connection] = {}
        self._next = 1
        self._loop = asyncio.get_running_loop()
        # Level-triggered readiness of a duplicate would spin on data that others shall read: only hang-ups are watched.
        self._hangups = select.epoll()
        self._by_descriptor: dict[int, int] = {}
        self._loop.add_reader(self._hangups.fileno(), self._on_hangup)

    def names(self) -> list[str]:
        return sorted(self._ports)

    def has(self, name: str) -> bool:
        return name in self._ports

    def listen(self, name: str, mode: int, owner: Caller) -> socket.socket:
        """Open the port; return the listener's end. Denied if another user holds it here; its owner takes it over (a restart)."""
        check_name(name)
        held = self._ports.get(name)
        if held is not None and not (owner.privileged or held.owner.user == owner.user):
            raise Denied(f"port {name} belongs to {held.owner.user}")
        if held is None and name not in SERVICES and len(self._ports) - sum(map(self.has, SERVICES)) >= PORTS_MAX:
            raise Unavailable(f"this node has {PORTS_MAX} ports, which is its limit: programs that listen here have to close some")
        if held is None and not owner.privileged and self._ports_of(owner.user) >= PORTS_PER_USER_MAX:
            raise Unavailable(
                f"{owner.user} has {PORTS_PER_USER_MAX} ports on this node, which is the limit: a program of that user has to close some"
            )
        ours, theirs = _pair(name, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        if held is not None:
            self._drop_port(held)
        self._ports[name] = _Port(name, owner, mode, ours)
        self._loop.add_reader(ours.fileno(), self._on_listener, name, ours)
        return theirs

    def _ports_of(self, user: str) -> int:
        return sum(port.owner.user == user for port in self._ports.values())

    def _on_listener(self, name: str, sock: socket.socket) -> None:
        """The listener's end says nothing ever; readable means that its last holder closed it."""
        try:
            if sock.recv(1):
                return
        except BlockingIOError:
            return
        except OSError:  # it was closed with connections in it that nobody had taken
            pass
        port = self._ports.get(name)
        if port is not None and port.sock is sock:
            self._drop_port(port)
            del self._ports[name]
            self._on_closed(name)

    def _drop_port(self, port: _Port) -> None:
        self._loop.remove_reader(port.sock.fileno())
        port.sock.close()

    def record(self, name: str) -> PortRecord | None:
        port = self._ports.get(name)
        return PortRecord(name, self._node, port.owner.user, port.mode) if port else None

    def owner(self, name: str) -> str:
        """Return the user who listens, "" if nobody does."""
        port = self._ports.get(name)
        return port.owner.user if port else ""

    def grant(self, name: str, user: str, caller: Caller) -> None:
        """Let one more user connect."""
        self._owned(name, caller).grants.add(user)

    def withdraw(self, name: str, user: str, caller: Caller) -> int:
        """Take a grant back and cut the connections of that user; return how many were cut. Idempotent."""
        self._owned(name, caller).grants.discard(user)
        ids = [c.id for c in self._connections.values() if c.port == name and c.caller.user == user]
        return sum(self.cut(id_) for id_ in ids)

    def _owned(self, name: str, caller: Caller) -> _Port:
        port = self._ports.get(name)
        if port is None:
            raise NotFound(f"nobody listens on port {name} of this node")
        if not caller.privileged and caller.user != port.owner.user:
            raise Denied(f"port {name} belongs to {port.owner.user}")
        return port

    def connect(self, name: str, caller: Caller) -> tuple[int, socket.socket]:
        """Make a connection to a port of this node; return its id and the caller's end, which the caller must close."""
        port = self._ports.get(name)
        if port is None:
            raise NotFound(f"nobody listens on port {name} of this node")
        if not may_connect(caller, port.owner.user, port.mode, frozenset(port.grants)):
            raise Denied(f"{caller.user} may not connect to port {name} of {port.owner.user}")
        self._check_room(name, caller)
        with contextlib.ExitStack() as undo:
            try:
                near, far = (undo.enter_context(sock) for sock in _pair(name, socket.SOCK_STREAM))
                duplicate = undo.enter_context(near.dup())
                holders = self._holders(caller, port.owner, undo)
            except ProcessLookupError as error:
                raise Unavailable(f"port {name} does not take connections at the moment: its owner is gone") from error
            except OSError as error:
                raise Unavailable(f"no connection to port {name} can be made here: {error.strerror}") from error
            id_ = self._next
            self._next += 1
            stamp = Accepted(id_, name, caller.user, caller.privileged, caller.node, caller.pid, caller.incarnation)
            try:
                socket.send_fds(port.sock, [msgspec.msgpack.encode(stamp)], [far.fileno()])
            except OSError as error:
                raise Unavailable(f"port {name} does not take connections at the moment: its owner is busy or gone") from error
            undo.pop_all()
        self._keep(_Connection(id_, name, duplicate, far, holders, caller, port))
        return id_, near

    def _check_room(self, name: str, caller: Caller) -> None:
        """Raise Unavailable over a bound; there is one for each user, so that nobody's connections keep others out."""
        here = [connection.caller for connection in self._connections.values() if connection.port == name]
        if len(here) >= PORT_CONNECTIONS_MAX:
            raise Unavailable(f"port {name} has {PORT_CONNECTIONS_MAX} connections, its limit: some of its callers have to close theirs")
        if caller.privileged:
            return
        if sum(not one.privileged for one in here) >= PORT_CONNECTIONS_MAX - PORT_CONNECTIONS_KEPT:
            most = PORT_CONNECTIONS_MAX - PORT_CONNECTIONS_KEPT
            raise Unavailable(f"port {name} has {most} connections of ordinary users, which is the limit: some of its callers have to close theirs")
        if sum(one.user == caller.user for one in here) >= PORT_CONNECTIONS_PER_USER_MAX:
            raise Unavailable(
                f"{caller.user} has {PORT_CONNECTIONS_PER_USER_MAX} connections to port {name}, which is the limit: a program of that user has to close some"
            )
        if sum(connection.caller.user == caller.user for connection in self._connections.values()) >= USER_CONNECTIONS_MAX:
            raise Unavailable(
                f"{caller.user} has {USER_CONNECTIONS_MAX} connections to ports of this node, which is the limit: "
                "a program of that user has to close some"
            )

    def _holders(self, caller: Caller, owner: Caller, undo: contextlib.ExitStack) -> tuple[int, ...]:
        """Return pidfds of the processes whose death ends the connection; none for a kernel that relays. OSError; ProcessLookupError if the owner is gone."""
        holders = []
        for one in (caller, owner):
            if one.linux_pid:
                try:
                    holder = os.pidfd_open(one.linux_pid)
                except ProcessLookupError:
                    if one is owner:
                        raise
                    continue  # who asks is a child that has it from the one who has ended
                undo.callback(os.close, holder)
                holders.append(holder)
        return tuple(holders)

    def _keep(self, connection: _Connection) -> None:
        self._connections[connection.id] = connection
        for holder in connection.holders:
            self._loop.add_reader(holder, self.cut, connection.id)
        for sock in (connection.near, connection.far):
            self._by_descriptor[sock.fileno()] = connection.id
            self._hangups.register(sock.fileno(), select.EPOLLET)

    def _on_hangup(self) -> None:
        for descriptor, _mask in self._hangups.poll(0):
            if (id_ := self._by_descriptor.get(descriptor)) is not None:
                self.cut(id_)

    def cut(self, id_: int) -> bool:
        """End one connection: both ends see the end after what was queued. Idempotent."""
        connection = self._connections.pop(id_, None)
        if connection is None:
            return False
        for sock in (connection.near, connection.far):
            del self._by_descriptor[sock.fileno()]
            self._hangups.unregister(sock.fileno())
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for holder in connection.holders:
            self._loop.remove_reader(holder)
            os.close(holder)
        return True

    def revoke(self, name: str, connection: int, caller: Caller) -> int:
        """Cut one connection of the port, or with 0 the port and all of its connections; return how many were cut. Idempotent. Those of a listener from whom
        the port was taken over are his: they end with him."""
        if name not in self._ports:
            return 0
        port = self._owned(name, caller)
        if connection:
            found = self._connections.get(connection)
            return int(found is not None and found.port == name and self.cut(connection))
        ids = [c.id for c in self._connections.values() if c.listener is port]
        cut = sum(self.cut(id_) for id_ in ids)
        self._drop_port(port)
        del self._ports[name]
        self._on_closed(name)
        return cut

    def close(self) -> None:
        for id_ in list(self._connections):
            self.cut(id_)
        for port in self._ports.values():
            self._drop_port(port)
        self._ports.clear()
        self._loop.remove_reader(self._hangups.fileno())
        self._hangups.close()
