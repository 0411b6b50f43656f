"""Streams, descriptors and the transport below: what is under way is bounded, and nothing is left behind."""

import array
import asyncio
import contextlib
import os
import socket

import msgspec
import pytest

from tests.descriptors import descriptors
from tests.wire.pairs import bounded, echo, for_ever, peers, raw_and_peer, settled, until
from unios.errors import (
    CallerError,
    OutcomeUnknown,
    Unavailable,
)
from unios.limits import SEND_QUEUE_BYTES_MAX, STREAM_WINDOW_BYTES
from unios.wire import flow
from unios.wire.frames import frame
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Cancel, Credit, Hello, Item, Reply, Request, encode, pack
from unios.wire.peer import Answer, Call, Stream

# streams


def test_a_stream_carries_items_both_ways_in_order_and_then_a_result() -> None:
    async def doubles(call: Call) -> object:
        total = 0
        while (item := await call.receive(int)) is not None:
            await call.send(2 * item)
            total += item
        return total

    async def work() -> None:
        async with peers(doubles) as (asker, _), asker.stream("f") as stream:

            async def feed() -> None:
                for number in range(500):
                    await stream.send(number)
                stream.end()

            feeding = asyncio.create_task(feed())
            assert [item async for item in stream.items(int)] == [2 * n for n in range(500)]
            await feeding
            assert msgspec.msgpack.decode(stream.result or b"") == sum(range(500))

    bounded(work)


ITEM = bytes(64 * 1024)


async def unread(stream_reads: int) -> int:
    """Let an answerer send as much as it may to one who reads so many items; return how many it could send."""
    sent = 0

    async def floods(call: Call) -> object:
        nonlocal sent
        while True:
            await call.send(ITEM)
            sent += 1

    async with peers(floods) as (asker, _):
        stream = asker.stream("f")
        for _ in range(stream_reads):
            await stream.next(bytes)
        last = -1
        while sent != last:
            last = sent
            await asyncio.sleep(0.05)
    return sent


def test_a_slow_reader_bounds_what_is_sent_to_it() -> None:
    async def work() -> None:
        window = STREAM_WINDOW_BYTES // len(ITEM)
        assert await unread(0) <= window + 1
        assert 100 <= await unread(100) <= 100 + window + 1

    bounded(work)


def test_without_credit_a_slow_reader_bounds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def always(self: object, size: int) -> None:
        await asyncio.sleep(0)

    async def work() -> None:
        assert await unread(0) > 3 * STREAM_WINDOW_BYTES // len(ITEM)

    monkeypatch.setattr(flow.Window, "take", always)
    bounded(work)


def test_a_slow_handler_bounds_what_its_asker_may_send() -> None:
    async def work() -> None:
        async with peers(for_ever) as (asker, answerer):
            stream = asker.stream("f")
            (await stuck(stream)).cancel()
            await asyncio.sleep(0.05)
            (entry,) = answerer._calls.values()
            assert entry[0]._inbox.held <= STREAM_WINDOW_BYTES + len(ITEM)

    bounded(work)


def test_one_who_sends_items_without_credit_is_cut_off() -> None:
    async def work() -> None:
        async with raw_and_peer(for_ever) as (raw, peer):
            await raw.send(Request(1, "f"), greet=True)
            await peer.start()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(20):
                    await raw.send(Item(1, pack(bytes(1024 * 1024))))
            assert "without credit" in await peer.closed()

    bounded(work)


def test_credit_out_of_bounds_ends_the_connection() -> None:
    async def work() -> None:
        for size in (0, -1, 2**62):
            async with raw_and_peer(for_ever) as (raw, peer):
                await raw.send(Request(1, "f"), Credit(1, size), greet=True)
                await peer.start()
                assert "credit" in await peer.closed()

    bounded(work)


async def stuck(stream: Stream) -> "asyncio.Task[None]":
    """Return a task that waits for room to send."""

    async def send() -> None:
        while True:
            await stream.send(ITEM)

    task = asyncio.create_task(send())
    await until(lambda: stream._window.room <= 0)
    await settled()
    assert not task.done()
    return task


def test_a_sender_that_waits_for_room_learns_that_the_request_was_answered() -> None:
    answer = asyncio.Event()

    async def ignores(_call: Call) -> object:
        await answer.wait()
        return "enough"

    async def work() -> None:
        async with peers(ignores) as (asker, _):
            stream = asker.stream("f")
            task = await stuck(stream)
            answer.set()
            with pytest.raises(Unavailable, match="no more items"):
                await task
            assert await stream.next(int) is None

    bounded(work)


def test_a_sender_that_waits_for_room_learns_that_its_stream_was_closed_or_broke() -> None:
    async def work() -> None:
        async with peers(for_ever) as (asker, answerer):
            closed, broken = asker.stream("f"), asker.stream("g")
            tasks = [await stuck(closed), await stuck(broken)]
            closed.close()
            with pytest.raises(Unavailable, match="closed here"):
                await tasks[0]
            answerer.close()
            with pytest.raises(Unavailable, match="connection ended"):
                await tasks[1]

    bounded(work)


def test_one_who_asks_and_does_not_read_bounds_what_is_queued_for_it() -> None:
    async def large(_call: Call) -> object:
        return bytes(1024 * 1024)

    async def work() -> None:
        async with raw_and_peer(large) as (raw, peer):
            await raw.send(*(Request(n, "f") for n in range(1, 65)), greet=True)
            await peer.start()
            await until(lambda: peer.outbox.queued() > SEND_QUEUE_BYTES_MAX)
            await asyncio.sleep(0.05)
            assert peer.outbox.queued() <= SEND_QUEUE_BYTES_MAX + 2 * 1024 * 1024
            answered = set[int]()
            while len(answered) < 64:
                message = await raw.receive()
                if isinstance(message, Reply):
                    answered.add(message.id)

    bounded(work)


# descriptors


async def gives(call: Call) -> object:
    end, other = os.pipe()
    os.write(other, b"hello")
    os.close(other)
    return Answer("here", [end])


async def takes(call: Call) -> object:
    (descriptor,) = call.take_descriptors()
    try:
        return os.read(descriptor, 5)
    finally:
        os.close(descriptor)


def test_descriptors_pass_both_ways_and_none_is_left() -> None:
    async def both(call: Call) -> object:
        return await (takes if call.op == "take" else gives)(call)

    async def work() -> None:
        before = descriptors()
        async with peers(both) as (asker, _):
            for _ in range(20):
                _body, (end,) = await asker.call_with_descriptors("give")
                assert os.read(end, 5) == b"hello"
                assert not os.get_inheritable(end)
                assert await asker.call("take", descriptors=[end]) == b"hello"[5:]
                os.close(end)
        assert descriptors() <= before

    bounded(work)


def test_descriptors_that_nobody_takes_are_closed() -> None:
    async def ignores(call: Call) -> object:
        if call.op == "many":
            with open(os.devnull) as file:
                await call.send("item", [file.fileno()])
        if call.op == "fail":
            raise CallerError("no")
        return (await gives(call)) if call.op == "give" else None

    async def work() -> None:
        before = descriptors()
        async with peers(ignores) as (asker, answerer):
            with open(os.devnull) as file:
                for _ in range(20):
                    assert await asker.call("give") == "here"
                    await asker.call("none", descriptors=[file.fileno()])
                    with pytest.raises(CallerError):
                        await asker.call("fail", descriptors=[file.fileno()])
                    async with asker.stream("many") as stream:
                        assert await stream.next(str) == "item"
                    asker.stream("many").close()
                await until(lambda: not answerer._calls)
                await asker.call("none")
        assert descriptors() <= before

    bounded(work)


def test_descriptors_for_an_asker_that_was_cancelled_as_they_came_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with peers(gives) as (asker, _):
            before = descriptors()
            asked = asyncio.create_task(asker.call_with_descriptors("give"))
            on_reply = asker._on_reply

            def on_reply_and_cancel(reply: Reply, size: int) -> None:
                on_reply(reply, size)  # the answer is there, the asker has not run yet
                asked.cancel()

            monkeypatch.setattr(asker, "_on_reply", on_reply_and_cancel)
            with pytest.raises(asyncio.CancelledError):
                await asked
            await settled()
            assert descriptors() <= before

    bounded(work)


def test_descriptors_that_wait_to_be_sent_are_closed_with_the_connection() -> None:
    async def work() -> None:
        before = descriptors()
        async with raw_and_peer() as (raw, peer):
            await raw.send(greet=True)
            await peer.start()
            with open(os.devnull) as file:
                asked = [asyncio.create_task(peer.call("f", bytes(1024 * 1024), descriptors=[file.fileno()])) for _ in range(3)]
                await settled()
            peer.close()
            for task in asked:
                with pytest.raises(OutcomeUnknown):
                    await task
        assert descriptors() <= before

    bounded(work)


def test_descriptors_that_no_message_claims_end_the_connection_and_are_closed() -> None:
    async def work() -> None:
        before = descriptors()
        async with raw_and_peer() as (raw, peer):
            await raw.send(greet=True)
            await peer.start()
            with open(os.devnull) as file:
                rights = array.array("i", [file.fileno()] * 10)
                for number in range(10):
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        raw.sock.sendmsg([frame(encode(Cancel(number)))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                    await asyncio.sleep(0.001)
            assert "descriptors" in await peer.closed()
        assert descriptors() <= before

    bounded(work)


def test_an_announced_descriptor_that_did_not_come_ends_the_connection() -> None:
    async def work() -> None:
        for message in (Request(1, "f", descriptors=1), Reply(1, descriptors=-1), Reply(1, descriptors=2**60)):
            async with raw_and_peer(echo) as (raw, peer):
                await raw.send(message, greet=True)
                await peer.start()
                assert "descriptors" in await peer.closed()

    bounded(work)


# the transport


def test_drain_waits_for_the_reader_and_lets_go_when_the_connection_ends() -> None:
    async def work() -> None:
        async with raw_and_peer() as (raw, peer):
            peer.transport.start(lambda _data, _descriptors: None, lambda _why: None)
            peer.transport.write(bytes(SEND_QUEUE_BYTES_MAX * 2))
            first = asyncio.create_task(peer.transport.drain())
            await settled()
            assert not first.done()
            left = SEND_QUEUE_BYTES_MAX * 2
            while not first.done():
                left -= len(await asyncio.get_running_loop().sock_recv(raw.sock, 1024 * 1024))
                await asyncio.sleep(0)
            assert left > 0
            peer.transport.write(bytes(SEND_QUEUE_BYTES_MAX * 2))
            second = asyncio.create_task(peer.transport.drain())
            await settled()
            assert not second.done()
            peer.close()
            await second

    bounded(work)


def test_a_peer_that_was_closed_before_it_started_says_so() -> None:
    async def work() -> None:
        async with raw_and_peer() as (_raw, peer):
            peer.close()
            with pytest.raises(Unavailable, match="closed"):
                await peer.start()

    bounded(work)


def test_who_greets_twice_is_let_go() -> None:
    async def work() -> None:
        async with raw_and_peer() as (raw, peer):
            starting = asyncio.create_task(peer.start())
            await raw.send(Hello(PROTOCOL_MIN, PROTOCOL_MAX), greet=True)
            await starting
            await until(lambda: peer.is_closed)
            assert peer.why_closed == "the peer greeted twice"

    bounded(work)
