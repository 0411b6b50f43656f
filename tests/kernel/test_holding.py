"""What a kernel holds of what users have sent is bounded: of one over all his connections, and of all together."""

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.wire.pairs import bounded, peers, settled, until
from unios.errors import OutcomeUnknown, Unavailable
from unios.kernel import dispatch, door
from unios.kernel.callers import Caller
from unios.kernel.door import Door
from unios.limits import SEND_QUEUE_BYTES_MAX
from unios.wire import holding
from unios.wire.doors import connect_unix
from unios.wire.frames import frame
from unios.wire.holding import Holding
from unios.wire.home import NodeFolder
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Cancel, Hello, Item, Request, encode, pack
from unios.wire.peer import Call, Peer
from unios.wire.transport import SocketTransport

ANN = Caller("ann", 1_000, False, "n1")
BOB = Caller("bob", 1_001, False, "n1")
ROOT = Caller("root", 0, True, "n1")
ITEM = bytes(50_000)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Holding:
    """A quarter of a megabyte for each user, and half of one for all."""
    monkeypatch.setattr(holding, "HELD_USER_BYTES_MAX", 250_000)
    monkeypatch.setattr(holding, "HELD_BYTES_MAX", 500_000)
    return Holding("owner")


class Opened:
    """A door whose handler reads nothing of what is sent to `hold`, all that is sent to `read`, and fails for anything else."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, held: Holding) -> None:
        self.whose = ANN
        self.holding = held
        monkeypatch.setattr(door, "identify", lambda *_args: self.whose)
        self.node = NodeFolder(folder)
        self.door = Door(self.node, "n1", self.handle, lambda *_args: (0, 0), held)
        self.peers: list[Peer] = []
        self.go = asyncio.Event()

    async def handle(self, _caller: Caller, call: Call) -> object:
        if call.op == "hold":
            await self.go.wait()
        elif call.op != "read":
            raise Unavailable("no")
        count = 0
        while await call.receive(bytes) is not None:
            count += 1
        return count

    async def come(self, caller: Caller) -> Peer:
        self.whose = caller
        peer = Peer(SocketTransport(connect_unix(self.node.door)))
        self.peers.append(peer)
        await peer.start()
        return peer

    def taken(self, user: str) -> int:
        found = self.holding._of.get(user)
        return 0 if found is None else found.taken


@contextlib.asynccontextmanager
async def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, held: Holding) -> AsyncIterator[Opened]:
    made = Opened(folder, monkeypatch, held)
    try:
        yield made
    finally:
        made.door.close()
        for peer in made.peers:
            peer.close()
        await settled()


async def ended(stream: Any) -> None:
    while await stream.next(msgspec.Raw) is not None:
        pass


def test_items_that_nobody_reads_are_bounded_over_all_connections_of_a_user_and_others_have_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Holding
) -> None:
    async def work() -> None:
        async with opened(tmp_path, monkeypatch, held) as system:
            streams = []
            for _ in range(5):
                stream = (await system.come(ANN)).stream("hold")
                streams.append(stream)
                await stream.send(ITEM)
                if len(streams) < 5:
                    await until(lambda: system.taken("ann") > len(streams) * len(ITEM))
            with pytest.raises(OutcomeUnknown, match="nobody has read it"):
                await ended(streams.pop())
            assert system.taken("ann") <= 250_000
            for caller in (BOB, ROOT):
                other = (await system.come(caller)).stream("read")
                for _ in range(10):
                    await other.send(ITEM)
                other.end()
                await ended(other)
                assert msgspec.msgpack.decode(other.result or b"") == 10
            system.go.set()
            for stream in streams:
                stream.end()
                await ended(stream)
                assert msgspec.msgpack.decode(stream.result or b"") == 1
            await settled()
            gc.collect()
            assert held._all.taken == 0

    bounded(work)


def test_all_users_together_have_a_bound_too_but_not_the_owner_of_the_node(held: Holding) -> None:
    ann, bob, carol = (held.of(user) for user in ("ann", "bob", "carol"))
    assert ann is not None and bob is not None and carol is not None
    assert ann is held.of("ann")
    assert ann.take(250_000) and not ann.take(1) and bob.take(200_000)
    assert not carol.take(60_000) and carol.taken == 0 and carol.take(50_000)
    bob.give(200_000)
    assert carol.take(200_000) and held._all.taken == 500_000
    assert held.of("root") is held.of("owner") is held.of("") is None


def test_requests_under_way_count_with_all_that_came_with_them_and_over_the_bound_are_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Holding
) -> None:
    async def work() -> None:
        async with opened(tmp_path, monkeypatch, held) as system:
            asked = []
            for _ in range(4):
                peer = await system.come(ANN)
                asked.append(asyncio.ensure_future(peer.call("hold", bytes(60_000))))
                await until(lambda: system.taken("ann") > len(asked) * 60_000)
            peer = await system.come(ANN)
            with pytest.raises(Unavailable, match="nobody has read it"):
                await peer.call("hold", bytes(60_000))
            for one in asked:
                one.cancel()
            await until(lambda: system.taken("ann") == 0)
            with pytest.raises(Unavailable, match=r"^no$"):
                await peer.call("fail", bytes(60_000))

    bounded(work)


def test_what_is_around_an_item_is_not_held_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Holding) -> None:
    """One byte in a frame of a megabyte counts as one byte, so the megabyte may not stay."""

    async def work() -> None:
        async with opened(tmp_path, monkeypatch, held) as system:
            peer = await system.come(ANN)
            stream = peer.stream("hold")
            around = msgspec.msgpack.encode({"type": "item", "id": stream._id, "body": 1, "of a newer one": bytes(1_000_000)})
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(5):
                peer.transport.write(frame(around))
            (served,) = system.door._clients
            await until(lambda: len(served._calls) == 1)
            call = next(iter(served._calls.values()))[0]
            await until(lambda: len(call._inbox._items) == 5)
            for body, _descriptors in call._inbox._items:
                assert len(memoryview(body)) == 1
            assert tracemalloc.get_traced_memory()[0] - before < 3_000_000
            stream.close()

    try:
        bounded(work)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("how", ["fails", "too many", "cancelled"])
def test_who_asks_and_asks_and_never_reads_is_cut_off(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Holding) -> None:
    monkeypatch.setattr(holding, "HELD_USER_BYTES_MAX", 1 << 40)
    monkeypatch.setattr(holding, "HELD_BYTES_MAX", 1 << 40)
    free = Holding("owner")

    async def work() -> None:
        async with opened(tmp_path, monkeypatch, free) as system:
            sock = connect_unix(system.node.door)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, frame(encode(Hello(PROTOCOL_MIN, PROTOCOL_MAX))))
            most, id_ = 0, 0
            try:
                for _ in range(2_000):
                    some = b""
                    for _ in range(100):
                        id_ += 1
                        some += frame(encode(Request(id_, "fail" if how == "fails" else "hold", pack(None))))
                        if how == "cancelled":
                            some += frame(encode(Cancel(id_)))
                    await loop.sock_sendall(sock, some)
                    await asyncio.sleep(0)
                    for peer in system.door._clients:
                        most = max(most, peer.outbox.queued())
            except (BrokenPipeError, ConnectionResetError):
                pass
            else:
                raise AssertionError(f"it still listens to one for whom it keeps {most} bytes")
            finally:
                sock.close()
            assert most < 2 * SEND_QUEUE_BYTES_MAX

    bounded(work, seconds=60)


def test_what_a_node_relays_ends_for_its_asker_too_when_no_more_is_held(monkeypatch: pytest.MonkeyPatch, held: Holding) -> None:
    """A client's stream goes on to another node, which takes nothing: its end is told and nobody waits."""

    async def never(call: Call) -> object:
        await asyncio.Event().wait()
        return None

    async def work() -> None:
        async with peers(never) as (far, _far_end):
            far_stream = far.stream("feed")
            far_stream._window.room = 0

            async def forward(call: Call) -> object:
                return await dispatch.relay(call, far_stream)

            async with peers(forward) as (asker, answerer):
                answerer._held = lambda _user: held.of("ann")
                stream = asker.stream("feed")
                for _ in range(8):
                    await stream.send(ITEM)
                with pytest.raises(OutcomeUnknown, match="nobody has read it"):
                    await ended(stream)
            await settled()
            gc.collect()
            assert held._all.taken == 0

    bounded(work)


def test_answers_that_nobody_takes_are_bounded_and_the_rest_is_withdrawn(held: Holding) -> None:
    cancelled: list[str] = []

    async def flood(call: Call) -> object:
        try:
            while True:
                await call.send(ITEM)
        except asyncio.CancelledError:
            cancelled.append(call.op)
            raise

    async def work() -> None:
        async with peers(flood) as (asker, _answerer):
            asker._held = lambda _user: held.of("ann")
            first, second = asker.stream("first"), asker.stream("second")
            await until(lambda: len(cancelled) == 2)
            for stream in (first, second):
                with pytest.raises(OutcomeUnknown, match="nobody has read it"):
                    await ended(stream)
            del stream, first, second
            await settled()
            gc.collect()
            assert not asker._streams and held._all.taken == 0

    bounded(work)


def test_what_has_come_for_a_stream_that_has_ended_is_given_back_when_it_is_closed(held: Holding) -> None:
    async def three(call: Call) -> object:
        for _ in range(3):
            await call.send(ITEM)
        return None

    async def work() -> None:
        async with peers(three) as (asker, _answerer):
            asker._held = lambda _user: held.of("ann")
            async with asker.stream("three") as stream:
                await until(lambda: stream._inbox.ended)
                assert held._all.taken > 3 * len(ITEM)
            assert held._all.taken == 0

    bounded(work)


def test_an_item_that_comes_after_those_that_were_dropped_is_dropped_too(held: Holding) -> None:
    async def hold(call: Call) -> object:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        found = []
        with contextlib.suppress(OutcomeUnknown):
            while (item := await call.receive(bytes)) is not None:
                found.append(item)
        seen.append(found)
        return None

    seen: list[list[bytes]] = []

    async def work() -> None:
        async with peers(hold) as (asker, answerer):
            answerer._held = lambda _user: held.of("ann")
            stream = asker.stream("hold")
            items = b"".join(frame(encode(Item(stream._id, pack(bytes(size))))) for size in (200_000, 100_000, 10))
            asker.transport.write(items)
            await until(lambda: bool(seen))
            assert seen == [[]]

    bounded(work)
