"""The kernel's operations on ports: listen, connect, grant, revoke, close, and the relay between kernels.

A port's name is one name space over all nodes. `connect` takes the nearest listener: one here, else any on a node that is alive. To another
node, the far end of the caller's descriptor is this kernel, which relays bytes over the link; the caller cannot tell.
"""

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from unios.core import sequences
from unios.core.gate import is_trusted
from unios.errors import Denied, NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.kernel import relaying
from unios.kernel.callers import Caller, user_of
from unios.kernel.links import Links
from unios.kernel.parts import ON_DEMAND
from unios.kernel.ports import SERVICES, Broker
from unios.kernel.store_gate import StoreGate
from unios.limits import LINK_REQUESTS_KEPT, REQUESTS_PER_PEER_MAX, USER_RELAYS_MAX
from unios.wire.operations import Connect, Connected, Empty, Grant, Listen, Listening, Revoke
from unios.wire.peer import Answer, Call, Stream
from unios.wire.running import become
from unios.wire.transport import UNIX_BUFFER_BYTES

STORE: Final = "store"
"""The store's port is the kernel's own: it has no listener in the broker, and only the privileged may connect. Another kernel that speaks for
ordinary users gets the gate (store_gate.py) instead."""

WANT_AGAIN_S: Final = 0.5
"""So often it is said again that a service is wanted which nobody has, while somebody waits for it."""


class OpenStore(Protocol):
    """`near`: not by way of yet another machine."""

    def __call__(self, *, near: bool = False) -> Awaitable[socket.socket]: ...


class _Refused(Unavailable):
    """Somebody listens on another node, and no connection to it can be made: that may pass."""


class PortOperations:
    """Serves `ports.*`. `places(name)` gives the other nodes on which a port is said to be open, the nearest first; `speaks_for(node, user)` says
    whether a node is believed that a user of that name listens there."""

    def __init__(
        self,
        node: str,
        broker: Broker,
        links: Links,
        places: Callable[[str], Iterable[str]],
        wait_place: Callable[[str], Awaitable[None]],
        opened: Callable[[str], None],
        open_store: OpenStore,
        gate: StoreGate,
        speaks_for: Callable[[str, str], bool],
        want: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """`opened(name)` is told of each port that is opened. `want(name)` has a service started that is started on demand."""
        self._node, self._broker = node, broker
        self._links = links
        self._places = places
        self._wait_place = wait_place
        self._opened = opened
        self._open_store = open_store
        self._gate = gate
        self._speaks_for = speaks_for
        self._want = want
        self._pumps: set[asyncio.Task[None]] = set()
        self._relayed: Counter[str] = Counter()
        """How many connections to ports of other nodes there are, by user."""
        self._to: Counter[str] = Counter()
        """The same, by node."""

    async def listen(self, caller: Caller, call: Call) -> object:
        """Open a port, and have its name published; the answer carries the listener's descriptor."""
        body = call.decode(Listen)
        if body.name == STORE:
            raise Denied("the port of the store belongs to the kernel")
        if body.name in SERVICES and not caller.privileged:
            raise Denied(f"the port {body.name} belongs to a service of the system")
        listener = self._broker.listen(body.name, body.mode, caller)
        self._opened(body.name)
        return Answer(Listening(os.getpid(), self._node), [listener.detach()])

    async def connect(self, caller: Caller, call: Call) -> object:
        """Connect to a port; the answer carries the descriptor. Waits up to `wait_ms` for somebody to listen."""
        body = call.decode(Connect)
        if body.name == STORE:
            if not caller.privileged:
                raise Denied("only the system's own services may use the store")
            return Answer(Connected(0), [(await self._open_store()).detach()])
        deadline = asyncio.get_running_loop().time() + body.wait_ms / 1000
        while True:
            try:
                id_, near, owner = await self._connect(body.name, caller)
                return Answer(Connected(id_, owner, owner == caller.user), [near.detach()])
            except (NotFound, _Refused):
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    raise
                if body.name in ON_DEMAND:
                    self._want(body.name)
                    left = min(left, WANT_AGAIN_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wait_place(body.name), left)

    async def _connect(self, name: str, caller: Caller) -> tuple[int, socket.socket, str]:
        """Return the connection's id, the caller's end, and the user who listens."""
        if self._broker.has(name):
            return *self._broker.connect(name, caller), self._broker.owner(name)
        if not caller.privileged and self._relayed[caller.user] >= USER_RELAYS_MAX:
            raise Unavailable(
                f"{caller.user} has {USER_RELAYS_MAX} connections to ports of other nodes, which is the limit on one node: "
                "a program of that user here has to close some"
            )
        refused: UniosError | None = None
        for node in self._places(name):
            try:
                near, owner = await self._connect_far(name, node, caller)
            except NotFound:
                continue
            except (Unavailable, OutcomeUnknown) as error:  # nothing was asked yet, so it is known that nothing was done
                refused = refused or _Refused(f"port {name} is open on node {node}, and no connection to it can be made: {error}")
                continue
            return 0, near, owner if self._speaks_for(node, owner) else ""
        raise refused or NotFound(f"nobody listens on port {name}")

    async def _connect_far(self, name: str, node: str, caller: Caller) -> tuple[socket.socket, str]:
        most = REQUESTS_PER_PEER_MAX - LINK_REQUESTS_KEPT * (1 if caller.privileged else 2)
        if self._to[node] >= most:
            whose = "" if caller.privileged else " for an ordinary user"
            raise Unavailable(f"the link to {node} carries {most} connections to ports, which is the limit{whose}: programs here have to close some")
        self._relayed[caller.user] += 1
        self._to[node] += 1
        stream: Stream | None = None
        try:
            asked = Connect(name, pid=caller.pid, incarnation=caller.incarnation)
            stream = await self._links.stream(node, "ports.relay", asked, user=caller.user)
            connected = await stream.next(Connected)
            try:
                near, far = socket.socketpair()
            except OSError as error:
                raise Unavailable(f"no more connections can be made on this node: {error.strerror}") from error
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_BUFFER_BYTES)
        except BaseException:
            if stream is not None:
                stream.close()
            self._relay_ended(caller, node)
            raise
        task = asyncio.ensure_future(_relay_out(far, stream))
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)
        task.add_done_callback(lambda _task: self._relay_ended(caller, node))
        return near, connected.owner if connected is not None else ""

    def _relay_ended(self, caller: Caller, node: str) -> None:
        for counter, key in ((self._relayed, caller.user), (self._to, node)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    async def relay(self, caller: Caller, call: Call) -> object:
        """For another kernel: connect to a port of this node and pass the bytes; the first item says that it is connected."""
        body = call.decode(Connect)
        if body.name == STORE:
            if not caller.users:
                raise Denied("only kernels reach the store over another kernel")
            if not (caller.privileged and is_trusted(caller.users, user_of(os.geteuid()))):
                call.become(sequences.STORE)
                await self._gate.serve(caller, call)
                return Empty()
            call.become(sequences.STORE)  # a node's lease comes this way
            near = await self._open_store(near=True)
        else:
            _id, near = self._broker.connect(body.name, caller._replace(pid=body.pid, incarnation=body.incarnation) if caller.users else caller)
        with near:
            try:
                await call.send(Connected(0, "" if body.name == STORE else self._broker.owner(body.name)))
                await relaying.relay_asked(near, call)
            finally:
                with contextlib.suppress(OSError):
                    near.shutdown(socket.SHUT_RDWR)  # the broker's duplicates keep it open, and whoever listens would never see the end
        return Empty()

    async def grant(self, caller: Caller, call: Call) -> object:
        """Let one more user connect to a port of the caller's. Idempotent."""
        body = call.decode(Grant)
        self._broker.grant(body.name, body.user, caller)
        return Empty()

    async def revoke(self, caller: Caller, call: Call) -> object:
        """Cut one connection of a port, those of a user who loses his grant, or the port with all of its connections; answers how many were cut. Idempotent."""
        body = call.decode(Revoke)
        if body.user:
            return self._broker.withdraw(body.name, body.user, caller)
        return self._broker.revoke(body.name, body.connection, caller)

    def close(self) -> None:
        for task in list(self._pumps):
            task.cancel()


async def _relay_out(sock: socket.socket, stream: Stream) -> None:
    become(sequences.PORT)
    await relaying.relay_stream(sock, stream)
