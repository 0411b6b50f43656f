"""One user's idle connections keep nobody else out: at the door, at the address for links, at ports."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.wire.pairs import bounded, peers, settled, until
from unios.errors import NotFound, Unavailable
from unios.kernel import door, links, port_operations, ports, strangers
from unios.kernel.callers import Caller
from unios.kernel.door import Door
from unios.kernel.links import Links
from unios.kernel.port_operations import PortOperations
from unios.kernel.ports import Broker
from unios.wire.doors import connect_unix
from unios.wire.holding import Holding
from unios.wire.home import NodeFolder
from unios.wire.operations import Connect, Connected, Empty
from unios.wire.peer import Call, Peer
from unios.wire.transport import SocketTransport

ANN = Caller("ann", 1_000, False, "n1")
BOB = Caller("bob", 1_001, False, "n1")
CAROL = Caller("carol", 1_002, False, "n1")
ROOT = Caller("root", 0, True, "n1")


# the door


async def answer(_caller: Caller, _call: Call) -> object:
    return "yes"


@contextlib.asynccontextmanager
async def small_door(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A door of 8 places, 4 for one user, 2 for the privileged only; yields a function that connects as somebody and asks."""
    for name, value in {"CLIENTS_MAX": 8, "CLIENTS_PER_USER_MAX": 4, "CLIENTS_KEPT": 2, "CLIENTS_REFUSED_MAX": 3}.items():
        monkeypatch.setattr(door, name, value)
    whose: list[Caller] = []
    monkeypatch.setattr(door, "identify", lambda *_args: whose[-1])
    node = NodeFolder(folder)
    opened = Door(node, "n1", answer, lambda *_args: (0, 0), Holding("owner"))
    peers: list[Peer] = []

    async def connect(caller: Caller) -> str:
        whose.append(caller)
        peer = Peer(SocketTransport(connect_unix(node.door)))
        peers.append(peer)
        await peer.start()
        return str(await peer.call("anything"))

    try:
        yield connect, peers
    finally:
        opened.close()
        for peer in peers:
            peer.close()
        await settled()


def test_one_users_idle_clients_do_not_lock_out_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with small_door(tmp_path, monkeypatch) as (connect, peers):
            for _ in range(4):
                assert await connect(ANN) == "yes"
            with pytest.raises(Unavailable, match="ann has 4"):
                await connect(ANN)
            assert await connect(BOB) == "yes" and await connect(BOB) == "yes"
            with pytest.raises(Unavailable, match="limit"):
                await connect(CAROL)  # the last places are kept
            assert await connect(ROOT) == "yes" and await connect(ROOT) == "yes"
            with pytest.raises(Unavailable, match="limit"):
                await connect(ROOT)
            peers[0].close()
            await settled()
            assert await connect(ROOT) == "yes"

    bounded(work)


def test_those_who_are_only_told_why_not_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with small_door(tmp_path, monkeypatch) as (connect, _peers):
            for _ in range(4):
                await connect(ANN)
            refusals = await asyncio.gather(*(connect(ANN) for _ in range(6)), return_exceptions=True)
            assert sum("ann has 4" in str(refusal) for refusal in refusals) == 3
            assert await connect(BOB) == "yes"

    bounded(work)


def test_half_messages_of_one_user_take_so_much_memory_and_no_more_over_all_his_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "CLIENT_FRAMES_BYTES_MAX", 2_500_000)
    half = (1_000_000).to_bytes(4, "big") + bytes(500_000)

    async def work() -> None:
        async with small_door(tmp_path, monkeypatch) as (connect, peers):

            async def say_half(caller: Caller) -> Peer:
                await connect(caller)
                peers[-1].transport.write(half)
                return peers[-1]

            for caller in (ANN, ANN, BOB, ROOT):
                peer = await say_half(caller)
            third = await say_half(ANN)
            await until(lambda: third.is_closed)
            assert [peer.is_closed for peer in peers] == [False] * 4 + [True]
            peers[0].close()
            await until(lambda: not peers[0].transport.queued)
            await settled()
            peer = await say_half(ANN)
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert not peer.is_closed

    bounded(work)


# links


class Handshake:
    """A TlsTransport that is never told anything."""

    def __init__(self, *_args: object, **_options: object) -> None:
        self.handshake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = ""

    def peer_certificate(self) -> dict[str, Any]:
        return {}

    def close(self, why: str) -> None:
        self.closed = why
        if not self.handshake.done():
            self.handshake.set_exception(Unavailable(why))


def test_of_too_many_strangers_the_oldest_goes_and_whoever_shows_a_certificate_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Handshake] = []
    served: list[object] = []

    def make(*_args: object, **_options: object) -> Handshake:
        made.append(Handshake())
        return made[-1]

    async def established(tls: object, *_args: object, **_options: object) -> None:
        served.append(tls)
        await asyncio.sleep(60)

    async def work() -> None:
        monkeypatch.setattr(strangers, "STRANGERS_MAX", 3)
        monkeypatch.setattr(links, "TlsTransport", make)
        monkeypatch.setattr(links, "identity_of", lambda _certificate: "somebody")
        one: Any = Links(None, {}, (None, None), None, None, None, None, None)  # type: ignore[arg-type]
        one._established = established
        one._refusal = lambda *_args: None
        tasks = [asyncio.create_task(one.take_in(None, via="", origin=""))]
        await settled()
        made[0].handshake.set_result(None)
        await until(lambda: bool(served))
        tasks += [asyncio.create_task(one.take_in(None, via="", origin="")) for _ in range(5)]
        await settled()
        assert [bool(handshake.closed) for handshake in made] == [False, True, True, False, False, False]
        assert len(one._strangers) == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(one._strangers) == 0

    bounded(work)


# ports


def broker(work: Callable[[Broker], None], monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    async def main() -> None:
        for name, value in limits.items():
            monkeypatch.setattr(ports, name, value)
        made = Broker("n1", lambda _name: None)
        work(made)
        made.close()

    bounded(main)


def connect(one: Broker, caller: Caller, port: str, kept: list[socket.socket], count: int) -> None:
    kept.extend(one.connect(port, caller)[1] for _ in range(count))


def test_one_users_connections_do_not_fill_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(one: Broker) -> None:
        kept = [one.listen("p", 0o666, ROOT), one.listen("q", 0o666, ROOT)]
        connect(one, ANN, "p", kept, 3)
        with pytest.raises(Unavailable, match="ann has 3 connections to port p"):
            one.connect("p", ANN)
        connect(one, BOB, "p", kept, 2)
        with pytest.raises(Unavailable, match="ordinary users"):
            one.connect("p", CAROL)
        connect(one, ROOT, "p", kept, 2)
        with pytest.raises(Unavailable, match="7 connections, its limit"):
            one.connect("p", ROOT)
        connect(one, ANN, "q", kept, 1)
        with pytest.raises(Unavailable, match="ann has 4 connections to ports"):
            one.connect("q", ANN)
        for sock in kept:
            sock.close()

    limits = {"PORT_CONNECTIONS_MAX": 7, "PORT_CONNECTIONS_PER_USER_MAX": 3, "PORT_CONNECTIONS_KEPT": 2, "USER_CONNECTIONS_MAX": 4}
    broker(work, monkeypatch, **limits)


def test_one_user_does_not_take_all_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(one: Broker) -> None:
        kept = [one.listen(name, 0o600, ANN) for name in ("a", "b")]
        with pytest.raises(Unavailable, match="ann has 2 ports"):
            one.listen("c", 0o600, ANN)
        kept += [one.listen("b", 0o600, ANN), one.listen("c", 0o600, BOB)]
        for sock in kept:
            sock.close()

    broker(work, monkeypatch, PORTS_PER_USER_MAX=2)


class FarNode:
    """A link over which every port can be reached; a stream ends when the test says so."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def stream(self, _node: str, op: str, body: object, **_options: object) -> Any:
        return self._peer.stream(op, body)


def connected_until(ended: asyncio.Event) -> Callable[[Call], Awaitable[object]]:
    """Return what a node answers that lets every connection stand until then."""

    async def relay(call: Call) -> object:
        await call.send(Connected(0))
        await ended.wait()
        return Empty()

    return relay


def far_operations(here: Broker, far: FarNode, *nodes: str) -> PortOperations:
    return PortOperations("n1", here, far, lambda _name: nodes, None, None, None, None, lambda _node, _user: True)  # type: ignore[arg-type]


def test_one_users_relayed_connections_do_not_use_up_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        monkeypatch.setattr(port_operations, "USER_RELAYS_MAX", 2)
        ended = asyncio.Event()
        async with peers(connected_until(ended)) as (asker, _):
            await one_user(asker, ended)

    async def one_user(asker: Peer, ended: asyncio.Event) -> None:
        far, here = FarNode(asker), Broker("n1", lambda _name: None)
        operations = far_operations(here, far, "n2")
        kept = [(await operations._connect("p", ANN))[1] for _ in range(2)]
        with pytest.raises(Unavailable, match=r"ann has 2 connections to ports of other nodes.*a program of that user here has to close some"):
            await operations._connect("p", ANN)
        kept += [(await operations._connect("p", caller))[1] for caller in (BOB, ROOT, ROOT, ROOT)]
        ended.set()
        await until(lambda: not operations._relayed)
        ended.clear()
        kept.append((await operations._connect("p", ANN))[1])
        operations.close()
        await settled()
        here.close()
        for sock in kept:
            sock.close()

    bounded(work)


def test_connections_to_ports_leave_room_on_a_link_for_what_kernels_ask_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those of ordinary users leave some for the privileged."""
    monkeypatch.setattr(port_operations, "REQUESTS_PER_PEER_MAX", 5)
    monkeypatch.setattr(port_operations, "LINK_REQUESTS_KEPT", 1)
    ended = asyncio.Event()

    async def work() -> None:
        async with peers(connected_until(ended)) as (asker, _):
            here = Broker("n1", lambda _name: None)
            operations = far_operations(here, FarNode(asker), "n2")
            kept = [(await operations._connect("p", caller))[1] for caller in (ANN, BOB, CAROL)]
            with pytest.raises(
                Unavailable, match="the link to n2 carries 3 connections to ports, which is the limit for an ordinary user: programs here"
            ):
                await operations._connect("p", BOB)
            kept.append((await operations._connect("p", ROOT))[1])
            with pytest.raises(
                Unavailable, match="the link to n2 carries 4 connections to ports, which is the limit: programs here have to close some"
            ):
                await operations._connect("p", ROOT)
            ended.set()
            await until(lambda: not operations._relayed and not operations._to)
            operations.close()
            await settled()
            here.close()
            for sock in kept:
                sock.close()

    bounded(work)


@pytest.mark.parametrize("waits_ms", [0, 50])
def test_a_limit_that_another_node_has_reached_is_told_as_that_and_not_as_nobody_who_listens(waits_ms: int) -> None:
    """Once the time to wait is over: until then it may pass."""

    tried = 0

    async def relay(call: Call) -> object:
        nonlocal tried
        tried += 1
        if call.decode(Connect).name == "nobody":
            raise NotFound("nobody listens on port nobody of this node")
        raise Unavailable("port p has 1024 connections, its limit: some of its callers have to close theirs")

    async def asked(asker: Peer, name: str) -> object:
        return await asker.call("ports.connect", Connect(name, waits_ms), Connected)

    async def changed(_name: str) -> None:
        await asyncio.sleep(0.001)

    async def work() -> None:
        async with peers(relay) as (asker, _):
            here = Broker("n1", lambda _name: None)
            ways = (lambda _name: ("n2", "n3"), changed, None, None, None, lambda _node, _user: True)
            operations = PortOperations("n1", here, FarNode(asker), *ways)  # type: ignore[arg-type]

            async def connect(call: Call) -> object:
                return await operations.connect(ANN, call)

            async with peers(connect) as (client, _):
                with pytest.raises(
                    Unavailable, match=r"port p is open on node n2, and no connection to it can be made: .*has 1024 connections, its limit"
                ):
                    await asked(client, "p")
                assert (tried > 2) == (waits_ms > 0)  # both nodes, once or again and again
                with pytest.raises(NotFound, match="nobody listens on port nobody"):
                    await asked(client, "nobody")
            assert not operations._relayed and not operations._to
            here.close()

    bounded(work)
