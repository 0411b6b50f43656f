"""Outbox: what a connection sends, by sequence. What overtakes what is counted in frames, never in time."""

import asyncio
import errno
import os
import socket
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.descriptors import descriptors
from tests.wire.pairs import Raw, bounded, peers, raw_and_peer, settled, until
from unios.core.sequences import OUTPUT, SIGNAL
from unios.errors import Unavailable
from unios.limits import PACE_BYTES, SEND_AHEAD_BYTES, SEND_AHEAD_SWIFT_BYTES, SEND_QUEUE_BYTES_MAX, STREAM_WINDOW_BYTES
from unios.wire.messages import Credit, Item, Message, Reply, Request, encode, framed
from unios.wire.outbox import Outbox
from unios.wire.peer import Call, Peer
from unios.wire.running import PRIORITISED
from unios.wire.transport import TCP_NOTSENT_LOWAT, SocketTransport

ITEM = bytes(64 * 1024)


async def answers(call: Call) -> object:
    """Flood whoever follows, and answer the rest at once."""
    if call.op != "processes.follow":
        return None
    while True:
        await call.send(ITEM)


async def frames_before_the_answer(op: str) -> int:
    """Let three floods fill the connection, then ask; return how many frames of the floods come after the question and before the answer."""
    async with raw_and_peer(answers) as (raw, peer):
        await raw.send(*(Request(n, "processes.follow") for n in (1, 2, 3)), greet=True)
        await peer.start()
        await until(lambda: peer.outbox.queued() > 2 * STREAM_WINDOW_BYTES)
        await raw.send(Request(9, op))
        await settled()
        before = 0
        while True:
            message = await raw.receive()
            if isinstance(message, Reply) and message.id == 9:
                return before
            before += isinstance(message, Reply)


def test_the_answer_to_a_signal_overtakes_the_output_that_waits_to_be_sent() -> None:
    async def work() -> None:
        assert await frames_before_the_answer("processes.signal") <= 16  # what had left already: Linux and the transport hold that much

    bounded(work)


def test_without_sequences_it_waits_behind_all_of_it() -> None:
    async def work() -> None:
        PRIORITISED.set(False)
        assert await frames_before_the_answer("processes.signal") >= 40

    bounded(work)


def test_the_items_of_one_request_and_its_end_keep_their_order() -> None:
    async def counts(call: Call) -> object:
        for n in range(200):
            await call.send([n, ITEM])
        return "the end"

    async def work() -> None:
        async with peers(counts) as (asker, _):
            streams = [asker.stream(op) for op in ("processes.follow", "node.events", "f")]

            async def read(stream: object) -> list[int]:
                return [item[0] async for item in stream.items(list)]  # type: ignore[attr-defined]

            assert await asyncio.gather(*map(read, streams)) == [list(range(200))] * 3
            assert [msgspec.msgpack.decode(stream.result or b"") for stream in streams] == ["the end"] * 3

    bounded(work)


def test_a_flood_bounds_itself_and_does_not_hold_up_what_is_more_urgent() -> None:
    async def work() -> None:
        left, right = socket.socketpair()
        outbox = Outbox(SocketTransport(right))
        while outbox.queued() <= SEND_QUEUE_BYTES_MAX:
            outbox.send(ITEM, (), OUTPUT)
        flood = asyncio.create_task(outbox.drain(OUTPUT))
        await asyncio.wait_for(outbox.drain(SIGNAL), 10)
        await settled()
        assert not flood.done()
        outbox.close()
        await flood
        left.close()
        right.close()

    bounded(work)


def test_descriptors_that_wait_in_their_turn_go_with_their_frame_or_are_closed() -> None:
    async def work() -> None:
        before = descriptors()
        left, right = socket.socketpair()
        transport = SocketTransport(right)
        outbox = Outbox(transport)
        while outbox.queued() <= 2 * STREAM_WINDOW_BYTES:
            outbox.send(ITEM, (), OUTPUT)
        end, other = os.pipe()
        for _ in range(3):
            outbox.send(b"x", [end], SIGNAL)
        os.close(end)
        os.close(other)
        await close(outbox, transport, left)
        assert descriptors() <= before

    bounded(work)


async def close(outbox: Outbox, transport: SocketTransport, other_end: socket.socket) -> None:
    outbox.close()
    transport.close("the test is over")
    other_end.close()
    await settled()


def few(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """From now on so many descriptors are to be had."""
    left, dup = [count], os.dup

    def scarce(descriptor: int) -> int:
        if not left[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        left[0] -= 1
        return dup(descriptor)

    monkeypatch.setattr(os, "dup", scarce)


@pytest.mark.parametrize("full", ["transport", "outbox"])
def test_when_descriptors_run_out_it_is_said_nothing_is_sent_and_none_is_kept(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        before = descriptors()
        left, right = socket.socketpair()
        transport = SocketTransport(right)
        outbox = Outbox(transport)
        enough = 0 if full == "transport" else 2 * STREAM_WINDOW_BYTES
        while not transport.queued or outbox.queued() <= enough:
            outbox.send(ITEM, (), OUTPUT)
        few(monkeypatch, 2)
        end, other = os.pipe()
        queued = outbox.queued()
        with pytest.raises(Unavailable, match="open files"):
            outbox.send(b"x", [end, other, end], SIGNAL)
        assert outbox.queued() == queued
        os.close(end)
        os.close(other)
        await close(outbox, transport, left)
        assert descriptors() <= before

    bounded(work)


def test_when_descriptors_run_out_for_a_frame_that_has_waited_the_connection_ends() -> None:
    """Who waits for that frame would wait for ever."""
    before = descriptors()
    ends = list[str]()

    class Full:
        queued = 1 << 30

        def write(self, _data: bytes, _descriptors: list[int]) -> None:
            raise Unavailable("no descriptor is free")

        def close(self, why: str) -> None:
            ends.append(why)

    transport: Any = Full()
    outbox = Outbox(transport)
    end, other = os.pipe()
    outbox.send(b"x", [end, other], SIGNAL)
    transport.queued = 0
    transport.on_room()
    os.close(end)
    os.close(other)
    assert ends == ["no descriptor is free"] and descriptors() <= before


numbers = st.integers(0, 2**40)
bodies = st.binary(max_size=20_000).map(lambda data: msgspec.Raw(msgspec.msgpack.encode(data)))


@given(
    st.builds(Reply, id=numbers, body=bodies, more=st.booleans(), descriptors=st.integers(0, 16))
    | st.builds(Item, id=numbers, body=bodies, end=st.booleans())
    | st.builds(Credit, id=numbers, bytes=numbers)
)
def test_a_frame_that_is_put_together_is_what_the_encoder_would_write(message: Message) -> None:
    assert b"".join(framed(message))[4:] == encode(message)


@pytest.mark.parametrize("op", ["processes.follow", "f"])
def test_a_stream_that_is_withdrawn_while_much_waits_ends_in_good_order(op: str) -> None:
    async def work() -> None:
        left, right = socket.socketpair()
        peer = Peer(SocketTransport(right), answers)
        raw = Raw(left)
        await raw.send(Request(1, op), Request(2, "processes.follow"), greet=True)
        await peer.start()
        await settled()
        peer.close("the test is over")
        left.close()
        await settled()
        assert peer.outbox.queued() == peer.transport.queued == 0

    bounded(work)


def test_linux_may_hold_more_of_a_swift_link_and_less_again_of_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        now = 100.0
        allowed: list[int] = []

        class Link:
            queued = 0

            def write(self, _data: object, _descriptors: object) -> None: ...

            def send_ahead(self, size: int) -> None:
                allowed.append(size)

        transport: Any = Link()
        outbox = Outbox(transport)
        monkeypatch.setattr(time, "monotonic", lambda: now)
        for pause in (0.0, 1.0):
            for _ in range(2 * PACE_BYTES // len(ITEM)):
                now += pause
                outbox.send(ITEM, (), OUTPUT)
        outbox.close()
        assert allowed == [SEND_AHEAD_SWIFT_BYTES, SEND_AHEAD_BYTES]

    bounded(work)


def test_a_socket_is_told_how_much_it_may_hold() -> None:
    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
            transport = SocketTransport(one)
            assert one.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == SEND_AHEAD_BYTES
            transport.send_ahead(SEND_AHEAD_SWIFT_BYTES)
            assert one.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == SEND_AHEAD_SWIFT_BYTES
            transport.close()
            transport.send_ahead(SEND_AHEAD_BYTES)  # nothing is left to be told

    bounded(work)
