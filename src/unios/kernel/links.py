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
from pathlib import Path
from typing import Any, Final

from unios.core.knocks import origin_of
from unios.core.nodes import may_speak_for
from unios.core.routing import Attempt, Route, keeps_new
from unios.core.sequences import ARRIVAL, PING
from unios.core.validity import validity
from unios.errors import Denied, NodeUnknown, ProtocolError, Unavailable, UniosError
from unios.kernel.callers import Caller, account_of, user_of
from unios.kernel.certificates import Identity, identity_of, mark_der
from unios.kernel.clocks import boot_ms, wall_ms
from unios.kernel.link import Link, LinkStatistics, Refused, answer_ping
from unios.kernel.link_relays import LinkRelays
from unios.kernel.link_ways import way
from unios.kernel.strangers import Join, Strangers
from unios.limits import CONNECT_TIMEOUT_MS, HELLO_TIMEOUT_MS, LINK_PING_LATE_MS, LINK_PING_MS, LINK_WAIT_MS
from unios.security_limits import LINK_REMAKE_MS
from unios.wire.acceptor import Acceptor
from unios.wire.holding import Holding
from unios.wire.messages import VersionsApart
from unios.wire.operations import Empty, Pong, TurnedAway
from unios.wire.peer import Call, Peer, Stream
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
        self._handler, self._on_link = handler, on_link
        self._routes: dict[str, Route] = {}
        self._links: dict[str, Link] = {}
        self._reasons: dict[str, str] = {}
        self._trying: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._acceptor: Acceptor | None = None
        self._strangers = Strangers(join, facts)
        self._relays = LinkRelays(self)
        self._served: dict[Peer, Link] = {}
        """Each connection of a kernel that is served, also one that makes way for a better."""
        self._turn = 0
        self.until_ms = 1 << 62
        """Counts the certificates of this side, and when the present one ends."""
        self.rank: Callable[[str, str], int] = lambda _name, _mark: 0
        """How new a node's certificate is (core/nodes.rank_of)."""
        self._turned: set[Peer] = set()
        """Those that are being told that there is one like them already: nothing is served to them meanwhile."""
        self.twin: Callable[[str, str], str] = lambda _name, _place: ""
        """Why a node of that name that runs in that place gets no link, "" if it may."""
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
        self._acceptor = in_sequence(ARRIVAL, Acceptor, sock, self._taken)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _taken(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it has gone again
            origin = origin_of(str(sock.getpeername()[0]))
            if self._strangers.hears(origin):
                self._start(self.take_in(SocketTransport(sock), via="", origin=origin))
                return
        sock.close()

    async def take_in(self, transport: Transport, *, via: str, origin: str) -> None:
        """Serve one who connected: a kernel of the system, or somebody who wants to join. `origin`: what his failures count for."""
        turn = self._turn
        tls = TlsTransport(transport, self._server, server_side=True)
        self._strangers.admit(tls, origin)
        try:
            try:
                async with asyncio.timeout(HELLO_TIMEOUT_MS / 1000):
                    await tls.handshake
                identity = identity_of(tls.peer_certificate())
            except (UniosError, TimeoutError):
                self._strangers.failed(origin)
                raise
            if identity is None:
                await self._strangers.serve(tls, origin)
            else:
                self._strangers.known(tls)
                if (refused := self._refusal(tls, identity)) is not None:
                    await self._turn_away(tls, refused)
                await self._established(tls, identity, turn, via=via, dialled=False)
        except (UniosError, TimeoutError) as error:
            tls.close(str(error))
        except asyncio.CancelledError:
            tls.close("given up")
            raise
        finally:
            self._strangers.known(tls)

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

    # the ways out

    def know(self, name: str, addresses: Sequence[str]) -> None:
        """There is a node with these addresses: a link to it is wanted. Idempotent."""
        if name == self._me.node:
            return
        if (route := self._routes.get(name)) is None:
            self._routes[name] = Route(self._me.node, name, addresses, boot_ms())
            self._tell_route(name)  # it may have come in before its record was seen
            self._wanted.set()
        else:
            route.addresses = tuple(addresses)

    def expect(self, name: str) -> None:
        """That node has come back: the link to it is tried now, however long its turn is put off."""
        if (route := self._routes.get(name)) is not None and route.expected(boot_ms()):
            self._wanted.set()

    def forget(self, name: str) -> None:
        """That node has left: no link to it is wanted or taken. Not at once: the answer to its very leaving is still on the way."""
        self._routes.pop(name, None)
        for peer in [peer for peer, link in self._served.items() if link.identity.node == name]:
            asyncio.get_running_loop().call_later(FAREWELL_S, peer.close, "the node has left the system")

    def cut(self, name: str, marks: frozenset[str], why: str) -> frozenset[str]:
        """Close every connection to a node of that name or with one of these certificates, at once; return the hashes of what they had shown. New ones are for
        the judge to refuse. Idempotent."""
        cut = {peer: link.mark for peer, link in self._served.items() if link.identity.node == name or link.mark in marks}
        for peer in cut:
            peer.close(why)
        return frozenset(cut.values())

    async def run(self) -> None:
        """Keep the links; ends only by cancellation."""
        try:
            while True:
                now, straight = boot_ms(), [name for name, link in self._links.items() if not link.via]
                for name, route in list(self._routes.items()):
                    if name not in self._trying and (attempt := route.next(now, straight)):
                        self._trying.add(name)
                        self._start(self._try(name, route, attempt))
                self._remake_stale()
                self._wanted.clear()
                await tick_or(self._wanted, CALM_S if self._routes.keys() <= self._links.keys() else TICK_S)
        finally:
            self.close()

    async def _try(self, name: str, route: Route, attempt: Attempt) -> None:
        tls: TlsTransport | None = None
        turn = self._turn
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1000):
                tls = TlsTransport(await way(name, attempt, self._links.get(attempt.via)), self._client, server_side=False)
                await tls.handshake
            identity = identity_of(tls.peer_certificate())
            if identity is None or identity.node != name:
                raise ProtocolError(f"at {attempt.address or attempt.via} is {identity.node if identity else 'nobody'}, not {name}")
            settled = asyncio.Event()
            self._start(self._established(tls, identity, turn, via=attempt.via, dialled=True, settled=settled))
            await settled.wait()  # a second attempt before that would make a second connection, and the two sides might keep different ones
        except (OSError, UniosError, TimeoutError, ValueError) as error:  # ValueError: a name that is none
            if tls is not None:
                tls.close("given up")
            self._reasons[name] = str(error) or "no answer"
            route.failed(boot_ms())
        finally:
            self._trying.discard(name)

    # a link

    async def _established(
        self, tls: TlsTransport, identity: Identity, turn: int, *, via: str, dialled: bool, settled: asyncio.Event | None = None
    ) -> None:
        """Serve a link to its end. `settled` is set when it has been taken or has failed."""
        try:
            await self._serve_link(tls, identity, turn, via, dialled, settled or asyncio.Event())
        finally:
            if settled is not None:
                settled.set()

    async def _serve_link(self, tls: TlsTransport, identity: Identity, turn: int, via: str, dialled: bool, settled: asyncio.Event) -> None:
        name = identity.node
        if (refused := self._refusal(tls, identity)) is not None:
            raise Denied(refused.why)
        der = tls.peer_certificate_der()
        peer = Peer(tls, lambda call: self._serve(identity, call), role="kernel", facts=self._facts, at_once=answer_ping, held=self.holding.of)
        link = Link(peer, identity, via=via, dialled=dialled, mark=mark_der(der), turn=turn, until_ms=min(self.until_ms, validity(der).until_ms))
        why = ""
        self._served[peer] = link
        try:
            facts = (await peer.start()).facts
            if "refused" in facts:
                self._on_refused(identity, f"{name} refuses: {facts['refused'][:200]}", "left" in facts)
                raise Denied(facts["refused"][:200])
            if why := self.twin(name, facts.get("place", "")):
                self._turned.add(peer)
                with contextlib.suppress(UniosError):
                    await peer.call("links.refused", TurnedAway(why), None, user=user_of(os.geteuid()), timeout_ms=round(1000 * FAREWELL_S))
                raise Denied(why)
            if (refused := self._refusal(tls, identity)) is not None:  # it may have been expelled since
                raise Denied(refused.why)
            if not self._admit(name, link):
                link.superseded_ms = boot_ms()  # the other side may have taken it already, and ask over it until it has the better one
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
            del self._served[peer]
            self._turned.discard(peer)
            peer.close(why)
            self._gone(name, link, why)

    def _admit(self, name: str, link: Link) -> bool:
        old = self._links.get(name)
        newer = 0
        if old is not None and not old.peer.is_closed:
            newer = self._newness(name, link) - self._newness(name, old)
            kept = (
                newer > 0
                if newer
                else keeps_new(
                    self._me.node,
                    name,
                    old_dialled_here=old.dialled,
                    new_dialled_here=link.dialled,
                    old_straight=not old.via,
                    new_straight=not link.via,
                )
            )
            if not kept:
                self._tell_route(name)
                return False
        self._links[name] = link
        if old is not None and (newer > 0 or (old.dialled, bool(old.via)) != (link.dialled, bool(link.via))):
            old.superseded_ms = boot_ms()  # what goes on over it does so to its end
        elif old is not None:  # the other side has given it up
            asyncio.get_running_loop().call_later(0.2, old.peer.close, "there is a better link")
        self._reasons.pop(name, None)
        self._tell_route(name)
        self._on_link(name, True, "")
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    def _newness(self, name: str, link: Link) -> int:
        return link.turn + self.rank(name, link.mark)

    # another certificate of this side

    def show(self, certificate: Path, key: Path, until_ms: int) -> None:
        """Show another certificate from now on: links are made again with it, beside those that there are, which go when nothing goes on over them."""
        for context in (self._server, self._client):
            context.load_cert_chain(certificate, key)
        self._turn += 1
        self.until_ms = until_ms
        self._wanted.set()

    def _remake_stale(self) -> None:
        now_ms = boot_ms()
        for name, link in self._links.items():
            if link.turn < self._turn and name not in self._trying and now_ms >= link.again_ms:
                link.again_ms = now_ms + LINK_REMAKE_MS
                self._start(self._remake(name, link, asks=True))

    async def _remake(self, name: str, link: Link, *, asks: bool) -> None:
        """Make a link again with the certificates of now. `asks`: have the other side do it, if this one cannot."""
        route = self._routes.get(name)
        if route is None:
            return
        for attempt in (Attempt(via=link.via),) if link.via else tuple(Attempt(address=address) for address in route.addresses):
            if name in self._trying:
                return
            self._trying.add(name)
            await self._try(name, route, attempt)
            if self._links.get(name) is not link:
                return
        if asks:
            with contextlib.suppress(UniosError):
                await link.peer.call("links.again", None, Empty, user=user_of(os.geteuid()), timeout_ms=CONNECT_TIMEOUT_MS)

    def _tell_route(self, name: str) -> None:
        """Let the route know of the link that there is, so that nothing is dialled that is not needed."""
        link, route = self._links.get(name), self._routes.get(name)
        if link is not None and route is not None and not link.peer.is_closed:
            route.up(straight=not link.via, now_ms=boot_ms())

    def _gone(self, name: str, link: Link, why: str) -> None:
        if self._links.get(name) is link:
            del self._links[name]
            if (other := next((one for one in self._served.values() if one.identity.node == name and one.makes_way), None)) is not None:
                other.superseded_ms = 0  # there is none better any more, and it may be the one that the other side goes by
                self._links[name] = other
                self._tell_route(name)
                return
            self._reasons[name] = why
            if name in self._routes:
                self._routes[name].down(boot_ms())
                self._wanted.set()
            self._on_link(name, False, why)

    def _ping(self, name: str, link: Link) -> None:
        """Ask now, and again and again; a peer that does not answer in time is let go. No task: it is the most frequent of all requests at rest."""
        if link.peer.is_closed:
            return
        if wall_ms() >= link.until_ms:
            link.peer.close("a certificate of it has ended")
            return
        if link.superseded_ms and link.is_over(boot_ms() - link.superseded_ms):
            link.peer.close("there is a better link")
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
        if call.op == "links.again":
            if (link := self._links.get(identity.node)) is not None:
                self._start(self._remake(identity.node, link, asks=False))
            return Empty()
        if call.op == "links.refused":
            self._on_refused(identity, f"{identity.node} refuses: {call.decode(TurnedAway).why[:600]}", False)
            return None
        if call.peer in self._turned:
            raise Denied(f"{identity.node} is there already, in another place")
        user = call.user
        if not may_speak_for(identity.users, user):
            raise Denied(f"{identity.node} may not speak for {user or 'nobody'}")
        if call.op == "links.relay":
            return await self._relays.relay(call)
        if call.op == "links.accept":
            return await self._relays.accept(call)
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

    @property
    def me(self) -> str:
        """The node whose links these are."""
        return self._me.node

    def straight(self, node: str) -> Link | None:
        """Return the link to that node if there is one that goes through no other."""
        link = self._links.get(node)
        return link if link is not None and not link.via else None

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

    async def _link(self, node: str) -> Link:
        if node not in self._links and (node in self._routes or not self._routes):
            deadline = asyncio.get_running_loop().time() + LINK_WAIT_MS / 1000
            while node not in self._links and (left := deadline - asyncio.get_running_loop().time()) > 0:
                await self.changed(left)
        link = self._links.get(node)
        if link is None:
            if node not in self._routes:
                raise NodeUnknown(f"there is no node {node}; `unios nodes` lists them")
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
        return [
            self._links[name].statistics() if name in self._links else LinkStatistics(name, False, "", 0.0, self._reasons.get(name, "no link yet"))
            for name in sorted({*self._routes, *self._links})
        ]

    def close(self) -> None:
        """Close door and links."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        for link in list(self._links.values()):
            link.peer.close("the kernel stops")
        for task in list(self._tasks):
            task.cancel()
