"""Links: the authenticated connection of this kernel to each other kernel, made and kept by itself; and the door through which they come in.

Which way to try is decided by core/routing.py. A link is TLS 1.3 with certificates of the system's authority on both sides; through a relay the session is
still end to end. A peer without a certificate may only ask to join. A link that does not answer pings is closed: that is news, not proof.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from unios.core.addresses import split_address
from unios.core.nodes import may_speak_for
from unios.core.routing import Attempt, Route, keeps_new
from unios.core.sequences import ARRIVAL, PING
from unios.errors import Denied, NotFound, ProtocolError, Unavailable, UniosError
from unios.kernel.callers import Caller, account_of, user_of
from unios.kernel.certificates import Identity, identity_of
from unios.kernel.clocks import boot_ms, wall_ms
from unios.kernel.link import Link, LinkStatistics, Refused
from unios.limits import CONNECT_TIMEOUT_MS, HELLO_TIMEOUT_MS, LINK_PING_LATE_MS, LINK_PING_MS, LINK_WAIT_MS, RELAYS_MAX, STRANGERS_MAX
from unios.wire.acceptor import Acceptor
from unios.wire.holding import Holding
from unios.wire.messages import VersionsApart
from unios.wire.operations import Empty, Pong, RelayTo
from unios.wire.peer import Call, Peer, Stream
from unios.wire.pipes import CallTransport, StreamTransport
from unios.wire.running import in_sequence
from unios.wire.ticks import delay, tick_or
from unios.wire.tls import TlsTransport
from unios.wire.transport import SocketTransport, Transport

FAREWELL_S: Final = 1.0
TICK_S: Final = 0.2
CALM_S: Final = 1.0
"""The same while there is a link to every node."""
"""How often ways are looked for; a change is looked at once."""


LinkHandler = Callable[[Caller, Call], Awaitable[object]]
Join = Callable[[Call], Awaitable[object]]
Judge = Callable[[Identity, bytes], Refused | None]
"""Whether the node that shows this certificate (and its bytes) may have a link."""
OnLink = Callable[[str, bool, str], None]
"""(node, up, reason)"""


class Links:
    """Those of one kernel."""

    def __init__(
        self,
        me: Identity,
        facts: dict[str, str],
        contexts: tuple[ssl.SSLContext, ssl.SSLContext],
        handler: LinkHandler,
        join: Join,
        on_link: OnLink,
        judge: Judge,
        on_refused: Callable[[Identity, str, bool], None],
    ) -> None:
        """`contexts`: (server, client). `on_refused`: a node of the system will have no link with this one: (who, why, for good)."""
        self._judge, self._on_refused = judge, on_refused
        self._me = me
        self._facts = facts
        self._server, self._client = contexts
        self._handler, self._join, self._on_link = handler, join, on_link
        self._routes: dict[str, Route] = {}
        self._links: dict[str, Link] = {}
        self._reasons: dict[str, str] = {}
        self._trying: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._acceptor: Acceptor | None = None
        self._strangers: dict[TlsTransport, None] = {}
        """Who came in and has shown no certificate so far, the oldest first."""
        self._relays = 0
        self.holding = Holding(user_of(os.geteuid()))
        self.port = 0

    # the door

    def listen(self, host: str, port: int) -> None:
        """Take links at an address; `port` is then the one that it came to. Raises OSError."""
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(info[0], socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(info[4])
            sock.listen(128)
        except OSError:
            sock.close()
            raise
        self.port = int(sock.getsockname()[1])
        self._acceptor = in_sequence(ARRIVAL, Acceptor, sock, lambda taken: self._start(self._take_in(SocketTransport(taken), via="")))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_in(self, transport: Transport, *, via: str) -> None:
        """Serve one who connected: a kernel of the system, or somebody who wants to join."""
        tls = TlsTransport(transport, self._server, server_side=True)
        self._admit_stranger(tls)
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_MS / 1000):
                await tls.handshake
            identity = identity_of(tls.peer_certificate())
            if identity is None:
                await self._serve_stranger(tls)
            else:
                self._strangers.pop(tls, None)
                if (refused := self._refusal(tls, identity)) is not None:
                    await self._turn_away(tls, refused)
                await self._established(tls, identity, via=via, dialled=False)
        except (UniosError, TimeoutError) as error:
            tls.close(str(error))
        except asyncio.CancelledError:
            tls.close("given up")
            raise
        finally:
            self._strangers.pop(tls, None)

    def _refusal(self, tls: TlsTransport, identity: Identity) -> Refused | None:
        if identity.system != self._me.system:
            return Refused(f"{identity.node} belongs to another system")
        if identity.node == self._me.node:
            return Refused("a node needs no link to itself")
        return self._judge(identity, tls.peer_certificate_der())

    async def _turn_away(self, tls: TlsTransport, refused: Refused) -> None:
        """Tell one who may have no link why, in the greeting, since nothing else is served; always raises Denied."""
        peer = Peer(tls, role="kernel", facts={**self._facts, "refused": refused.why, **({"left": "yes"} if refused.left else {})})
        with contextlib.suppress(UniosError):
            await peer.start()
            await asyncio.wait_for(peer.closed(), FAREWELL_S)
        raise Denied(refused.why)

    def _admit_stranger(self, tls: TlsTransport) -> None:
        """Of too many the oldest goes and not the newest: a kernel shows its certificate at once, those that only sit here do not keep it out."""
        while len(self._strangers) >= STRANGERS_MAX:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.close(f"{STRANGERS_MAX} others came without a certificate meanwhile")
        self._strangers[tls] = None

    async def _serve_stranger(self, tls: TlsTransport) -> None:
        peer = Peer(tls, self._only_join, role="kernel", facts=self._facts)
        try:
            async with asyncio.timeout(2 * CONNECT_TIMEOUT_MS / 1000 + 30):
                await peer.start()
                await peer.closed()
        finally:
            peer.close("strangers may not stay")

    async def _only_join(self, call: Call) -> object:
        if call.op not in ("join.hello", "join.probe", "join.ask"):
            raise Denied("who has no certificate of this system may only join it")
        return await self._join(call)

    # the ways out

    def know(self, name: str, addresses: Sequence[str]) -> None:
        """There is a node with these addresses: a link to it is wanted. Idempotent."""
        if name == self._me.node:
            return
        route = self._routes.get(name)
        if route is None:
            self._routes[name] = Route(self._me.node, name, addresses, boot_ms())
            self._tell_route(name)  # it may have come in before its record was seen
            self._wanted.set()
        else:
            route.addresses = tuple(addresses)

    def forget(self, name: str) -> None:
        """That node has left: no link to it is wanted or taken."""
        self._routes.pop(name, None)
        link = self._links.get(name)
        if link is not None:
            # Not at once: the answer to its very leaving is still on the way.
            asyncio.get_running_loop().call_later(FAREWELL_S, link.peer.close, "the node has left the system")

    async def run(self) -> None:
        """Keep the links; ends only by cancellation."""
        try:
            while True:
                now = boot_ms()
                for name, route in list(self._routes.items()):
                    if name not in self._trying and (attempt := route.next(now, self._straight())):
                        self._trying.add(name)
                        self._start(self._try(name, route, attempt))
                self._wanted.clear()
                await tick_or(self._wanted, CALM_S if self._routes.keys() <= self._links.keys() else TICK_S)
        finally:
            self.close()

    def _straight(self) -> list[str]:
        return [name for name, link in self._links.items() if not link.via]

    async def _try(self, name: str, route: Route, attempt: Attempt) -> None:
        tls: TlsTransport | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1000):
                tls = TlsTransport(await self._way(name, attempt), self._client, server_side=False)
                await tls.handshake
            identity = identity_of(tls.peer_certificate())
            if identity is None or identity.node != name:
                raise ProtocolError(f"at {attempt.address or attempt.via} is {identity.node if identity else 'nobody'}, not {name}")
            settled = asyncio.Event()
            self._start(self._established(tls, identity, via=attempt.via, dialled=True, settled=settled))
            await settled.wait()  # a second attempt before that would make a second connection, and the two sides might keep different ones
        except (OSError, UniosError, TimeoutError, ValueError) as error:  # ValueError: a name that is none
            if tls is not None:
                tls.close("given up")
            self._reasons[name] = str(error) or "no answer"
            route.failed(boot_ms())
        finally:
            self._trying.discard(name)

    async def _way(self, name: str, attempt: Attempt) -> Transport:
        if attempt.via:
            between = self._links.get(attempt.via)
            if between is None:
                raise Unavailable(f"no link to {attempt.via}")
            stream = between.peer.stream("links.relay", RelayTo(name), user=user_of(os.geteuid()))
            await stream.next(Empty)
            return StreamTransport(stream)
        host, port = split_address(attempt.address)
        loop = asyncio.get_running_loop()
        info = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        sock = socket.socket(info[0], socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, info[4])
        except BaseException:
            sock.close()
            raise
        return SocketTransport(sock)

    async def relay(self, caller: Caller, call: Call) -> object:
        """links.relay: pass bytes on to a node that the asker does not reach. They are ciphertext to this node."""
        body = call.decode(RelayTo)
        link = self._links.get(body.to)
        if link is None or link.via:
            raise Unavailable(f"{self._me.node} has no straight link to {body.to}")
        if self._relays >= RELAYS_MAX:
            raise Unavailable(f"{self._me.node} relays {RELAYS_MAX} connections, its bound")
        self._relays += 1
        try:
            async with link.peer.stream("links.accept", RelayTo(self._me.node), user=user_of(os.geteuid())) as onward:
                await onward.next(Empty)
                await call.send(Empty())
                await _join_ends(call, onward)
        finally:
            self._relays -= 1
        return Empty()

    async def accept(self, caller: Caller, call: Call) -> object:
        """links.accept: a connection that comes through the asking node; who is at its end is for TLS to say."""
        body = call.decode(RelayTo)
        await call.send(Empty())
        transport = CallTransport(call)
        await self._take_in(transport, via=body.to)
        return Empty()

    # a link

    async def _established(self, tls: TlsTransport, identity: Identity, *, via: str, dialled: bool, settled: asyncio.Event | None = None) -> None:
        """Serve a link to its end. `settled` is set when it has been taken or has failed."""
        try:
            await self._serve_link(tls, identity, via, dialled, settled or asyncio.Event())
        finally:
            if settled is not None:
                settled.set()

    async def _serve_link(self, tls: TlsTransport, identity: Identity, via: str, dialled: bool, settled: asyncio.Event) -> None:
        name = identity.node
        if (refused := self._refusal(tls, identity)) is not None:
            raise Denied(refused.why)
        peer = Peer(tls, lambda call: self._serve(identity, call), role="kernel", facts=self._facts, at_once=_answer_ping, held=self.holding.of)
        link = Link(peer, identity, via=via, dialled=dialled)
        why = ""
        try:
            facts = (await peer.start()).facts
            if "refused" in facts:
                self._on_refused(identity, f"{name} refuses: {facts['refused'][:200]}", "left" in facts)
                raise Denied(facts["refused"][:200])
            if not self._admit(name, link):
                peer.close("there is a better link")
                return
            settled.set()
            in_sequence(PING, self._ping, name, link)
            why = await peer.closed()
        except UniosError as error:
            why = str(error)
            if isinstance(error, VersionsApart):
                self._on_refused(identity, why, False)
            if name not in self._links:
                self._reasons[name] = why
            if dialled and name in self._routes and self._links.get(name) is None:
                self._routes[name].failed(boot_ms())
        finally:
            peer.close(why)
            self._gone(name, link, why)

    def _admit(self, name: str, link: Link) -> bool:
        old = self._links.get(name)
        if old is not None and not old.peer.is_closed:
            kept = keeps_new(
                self._me.node,
                name,
                old_dialled_here=old.dialled,
                new_dialled_here=link.dialled,
                old_straight=not old.via,
                new_straight=not link.via,
            )
            if not kept:
                self._tell_route(name)
                return False
        self._links[name] = link
        if old is not None:
            asyncio.get_running_loop().call_later(0.2, old.peer.close, "there is a better link")
        self._reasons.pop(name, None)
        self._tell_route(name)
        self._on_link(name, True, "")
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    def _tell_route(self, name: str) -> None:
        """Let the route know of the link that there is, so that nothing is dialled that is not needed."""
        link, route = self._links.get(name), self._routes.get(name)
        if link is not None and route is not None and not link.peer.is_closed:
            route.up(straight=not link.via, now_ms=boot_ms())

    def _gone(self, name: str, link: Link, why: str) -> None:
        if self._links.get(name) is link:
            del self._links[name]
            self._reasons[name] = why
            if name in self._routes:
                self._routes[name].down(boot_ms())
                self._wanted.set()
            self._on_link(name, False, why)

    def _ping(self, name: str, link: Link) -> None:
        """Ask now, and again and again; a peer that does not answer in time is let go. No task: it is the most frequent of all requests at rest."""
        if link.peer.is_closed:
            return
        loop = asyncio.get_running_loop()
        started = loop.time()

        def told(pong: Pong | UniosError | None) -> None:
            took_ms = 1000 * (loop.time() - started)
            if not isinstance(pong, UniosError):
                link.rtt_ms = took_ms
                if pong is not None and pong.wall_ms:
                    link.clock.heard(theirs_ms=pong.wall_ms, ours_ms=wall_ms(), rtt_ms=took_ms)
                loop.call_later(delay(max(LINK_PING_MS, 30 * len(self._links)) / 1000), in_sequence, PING, self._ping, name, link)
            elif took_ms > 2 * LINK_PING_LATE_MS:  # it was this side that did not run
                in_sequence(PING, self._ping, name, link)
            else:
                link.peer.close(f"{name} does not answer: {pong}")

        link.peer.ask("links.ping", None, Pong | None, told, timeout_ms=LINK_PING_LATE_MS)

    async def _serve(self, identity: Identity, call: Call) -> object:
        if call.op == "links.ping":  # at_once had to leave it: the asker does not read
            return Pong(wall_ms())
        user = call.user
        if not may_speak_for(identity.users, user):
            raise Denied(f"{identity.node} may not speak for {user or 'nobody'}")
        if call.op == "links.relay":
            return await self.relay(self._caller(identity, user), call)
        if call.op == "links.accept":
            return await self.accept(self._caller(identity, user), call)
        return await self._handler(self._caller(identity, user), call)

    def _caller(self, identity: Identity, user: str) -> Caller:
        account = account_of(user)
        owner = user_of(os.geteuid())
        uid = account[0] if account else -1
        return Caller(user, uid, user in ("root", owner), identity.node, users=identity.users, machine=identity.machine)

    # asking

    def has(self, node: str) -> bool:
        """Whether there is a link to that node."""
        return node in self._links

    def identity(self, node: str) -> Identity | None:
        """Return who the linked node is, None without a link."""
        link = self._links.get(node)
        return link.identity if link else None

    def names(self) -> list[str]:
        """Return the nodes to which there is a link."""
        return sorted(self._links)

    async def changed(self, timeout_s: float) -> None:
        """Wait for the next link that comes up."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)

    @property
    def has_others(self) -> bool:
        """Whether the system has another node than this one."""
        return bool(self._routes)

    async def _link(self, node: str) -> Link:
        if node not in self._links and (node in self._routes or not self._routes):
            deadline = asyncio.get_running_loop().time() + LINK_WAIT_MS / 1000
            while node not in self._links and (left := deadline - asyncio.get_running_loop().time()) > 0:
                await self.changed(left)
        link = self._links.get(node)
        if link is None:
            if node not in self._routes:
                raise NotFound(f"there is no node {node}; `unios nodes` lists them")
            raise Unavailable(f"{node} cannot be reached: {self._reasons.get(node, 'no link yet')}")
        return link

    async def call(self, node: str, op: str, body: object, type_: Any, *, user: str, timeout_ms: int | None = None, hops: int = 0) -> Any:
        """Have `node` do it in the name of `user`; raises what it raised."""
        return await (await self._link(node)).peer.call(op, body, type_, user=user, timeout_ms=timeout_ms, hops=hops)

    async def stream(self, node: str, op: str, body: object, *, user: str, hops: int = 0, sequence: int | None = None) -> Stream:
        """Like `call`, with many answers."""
        return (await self._link(node)).peer.stream(op, body, user=user, hops=hops, sequence=sequence)

    def statistics(self) -> list[LinkStatistics]:
        """Return one entry for each known node and each link."""
        found = []
        for name in sorted({*self._routes, *self._links}):
            link = self._links.get(name)
            if link is None:
                found.append(LinkStatistics(name, False, "", 0.0, self._reasons.get(name, "no link yet")))
            else:
                found.append(link.statistics())
        return found

    def close(self) -> None:
        """Close door and links."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        for link in list(self._links.values()):
            link.peer.close("the kernel stops")
        for task in list(self._tasks):
            task.cancel()


def _answer_ping(call: Call) -> bool:
    """Serve what needs no task: a ping."""
    if call.op != "links.ping":
        return False
    call.answer(Pong(wall_ms()))
    return True


async def _join_ends(call: Call, onward: Stream) -> None:
    """Pass items both ways until either side ends."""

    async def upward() -> None:
        while (item := await call.receive(bytes)) is not None:
            await onward.send(item)

    async def downward() -> None:
        while (item := await onward.next(bytes)) is not None:
            await call.send(item)

    tasks = [asyncio.ensure_future(upward()), asyncio.ensure_future(downward())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, UniosError):
                await task
