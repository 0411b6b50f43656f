"""Connections: what is asked is answered once, what is bounded stays bounded, and nothing is left behind."""

import array
import asyncio
import contextlib
import os
import socket
import time

import msgspec
import pytest

from tests.wire.pairs import bounded, descriptors, peers, raw_and_peer, settled, until
from unios.errors import (
    CallerError,
    Compacted,
    DataLost,
    Denied,
    InternalError,
    NotFound,
    OutcomeUnknown,
    PeerRestarted,
    ProgramNotFound,
    ProtocolError,
    Unavailable,
    UniosError,
)
from unios.limits import FRAME_BYTES_MAX, REQUESTS_PER_PEER_MAX, SEND_QUEUE_BYTES_MAX, STREAM_WINDOW_BYTES
from unios.wire import peer as peer_module
from unios.wire.frames import frame
from unios.wire.messages import Cancel, Credit, Fault, Hello, Item, Reply, Request, encode, pack
from unios.wire.peer import Answer, Call, Stream
from unios.wire.transport import SocketTransport


async def echo(call: Call) -> object:
    return call.decode(object)


async def for_ever(_call: Call) -> object:
    await asyncio.Event().wait()
    return None


# calls


def test_both_sides_ask_and_answer_many_calls_at_a_time() -> None:
    async def work() -> None:
        async with peers(echo, echo) as (asker, answerer):
            found = await asyncio.gather(*(side.call("echo", n) for n in range(200) for side in (asker, answerer)))
            assert found == [n for n in range(200) for _ in range(2)]
            assert (asker.theirs or Hello(0, 0)).role == "answerer"

    bounded(work)


def test_answers_find_their_calls_in_any_order() -> None:
    async def backwards(call: Call) -> object:
        number = call.decode(int)
        await asyncio.sleep((10 - number) / 500)
        return number

    async def work() -> None:
        async with peers(backwards) as (asker, _):
            assert await asyncio.gather(*(asker.call("f", n) for n in range(10))) == list(range(10))

    bounded(work)


def test_the_largest_message_passes_and_a_larger_one_harms_nobody() -> None:
    async def work() -> None:
        async with peers(echo) as (asker, _):
            big = os.urandom(FRAME_BYTES_MAX - 1024)
            assert await asker.call("echo", big) == big
            with pytest.raises(ProtocolError):
                await asker.call("echo", bytes(FRAME_BYTES_MAX))
            with pytest.raises(ProtocolError):
                asker.stream("echo", bytes(FRAME_BYTES_MAX))
            assert not asker._streams and not asker._waiting
            assert await asker.call("echo", 1) == 1

    bounded(work)


def test_an_answer_over_the_bound_is_a_fault_and_not_silence() -> None:
    async def too_much(_call: Call) -> object:
        return bytes(FRAME_BYTES_MAX)

    async def work() -> None:
        async with peers(too_much) as (asker, _):
            with pytest.raises(ProtocolError):
                await asker.call("f")
            assert not asker.is_closed

    bounded(work)


def test_requests_at_a_time_are_bounded_and_the_one_too_many_is_unavailable() -> None:
    async def work() -> None:
        async with peers(for_ever) as (asker, answerer):
            streams = [asker.stream("f") for _ in range(REQUESTS_PER_PEER_MAX)]
            with pytest.raises(Unavailable, match="at a time"):
                await asker.call("f")
            for stream in streams:
                stream.close()
            await until(lambda: not answerer._calls)

    bounded(work)


# faults


@pytest.mark.parametrize("kind", [CallerError, NotFound, Denied, ProgramNotFound, Unavailable, OutcomeUnknown, PeerRestarted, Compacted, DataLost])
def test_an_error_arrives_as_what_it_was(kind: type[UniosError]) -> None:
    async def fails(_call: Call) -> object:
        raise kind("a sentence")

    async def work() -> None:
        async with peers(fails) as (asker, _):
            with pytest.raises(UniosError) as caught:
                await asker.call("f")
            assert type(caught.value) is kind and str(caught.value) == "a sentence"

    bounded(work)


def test_a_defect_of_the_handler_is_an_internal_error_that_names_it() -> None:
    async def fails(_call: Call) -> object:
        raise KeyError("x")

    async def work() -> None:
        async with peers(fails) as (asker, _):
            with pytest.raises(InternalError, match="KeyError"):
                await asker.call("f")
            with pytest.raises(InternalError):
                async with asker.stream("f") as stream:
                    await stream.next(int)

    bounded(work)


@pytest.mark.parametrize("text", [os.fsdecode(b"no program \xff\xfe"), "x" * (FRAME_BYTES_MAX + 1)])
def test_an_error_whose_sentence_cannot_travel_still_arrives(text: str) -> None:
    async def fails(_call: Call) -> object:
        raise ProgramNotFound(text)

    async def work() -> None:
        async with peers(fails) as (asker, _):
            with pytest.raises(ProgramNotFound):
                await asker.call("f")

    bounded(work)


def test_an_error_code_of_a_newer_peer_is_an_internal_error() -> None:
    async def work() -> None:
        async with raw_and_peer() as (raw, peer):
            await raw.send(greet=True)
            await peer.start()
            asked = asyncio.create_task(peer.call("f"))
            await settled()
            await raw.send(Fault(1, "brand-new", "words"))
            with pytest.raises(InternalError, match="words"):
                await asked

    bounded(work)


def test_wrong_arguments_are_the_callers_and_a_wrong_answer_is_the_peers_fault() -> None:
    async def strict(call: Call) -> object:
        return call.decode(int)

    async def work() -> None:
        async with peers(strict) as (asker, _):
            with pytest.raises(CallerError, match="arguments of f"):
                await asker.call("f", "text")
            with pytest.raises(ProtocolError):
                await asker.call("f", 1, str)

    bounded(work)


def test_a_stream_item_of_a_wrong_type_is_the_peers_fault() -> None:
    async def sends(call: Call) -> object:
        await call.send(1)
        return await call.receive(bytes)

    async def work() -> None:
        async with peers(sends) as (asker, _), asker.stream("f") as stream:
            with pytest.raises(ProtocolError):
                await stream.next(str)
            await stream.send("no bytes")
            with pytest.raises(CallerError, match="an item"):
                await stream.next(str)

    bounded(work)


# the end of a connection


def test_a_call_whose_connection_breaks_after_sending_has_an_unknown_outcome() -> None:
    async def work() -> None:
        async with peers(for_ever) as (asker, answerer):
            asked = asyncio.create_task(asker.call("f"))
            await until(lambda: bool(answerer._calls))
            answerer.close()
            with pytest.raises(OutcomeUnknown):
                await asked

    bounded(work)


def test_a_call_on_a_connection_that_has_ended_is_unavailable() -> None:
    async def work() -> None:
        async with peers(echo) as (asker, answerer):
            answerer.close()
            assert await asker.closed() == "the peer closed the connection"
            with pytest.raises(Unavailable):
                await asker.call("f")
            with pytest.raises(Unavailable):
                asker.stream("f")

    bounded(work)


def test_a_call_without_an_answer_in_time_has_an_unknown_outcome_and_is_withdrawn() -> None:
    async def work() -> None:
        async with peers(for_ever) as (asker, answerer):
            with pytest.raises(OutcomeUnknown, match="within 20 ms"):
                await asker.call("f", timeout_ms=20)
            await until(lambda: not answerer._calls)
            assert not asker._waiting

    bounded(work)


def test_a_stream_whose_connection_breaks_gives_what_arrived_and_then_says_so() -> None:
    async def sends(call: Call) -> object:
        for number in range(3):
            await call.send(number)
        call.peer.close()
        return None

    async def work() -> None:
        async with peers(sends) as (asker, _):
            stream = asker.stream("f")
            assert [await stream.next(int) for _ in range(3)] == [0, 1, 2]
            with pytest.raises(Unavailable):
                await stream.next(int)

    bounded(work)


def test_a_peer_that_does_not_greet_is_let_go() -> None:
    async def work() -> None:
        async with raw_and_peer() as (_raw, peer):
            with pytest.raises(Unavailable, match="greet"):
                await peer.start(timeout_ms=20)
            assert peer.is_closed

    bounded(work)


# cancelling


def test_a_cancelled_call_cancels_its_handler() -> None:
    ended: list[str] = []

    async def waits(call: Call) -> object:
        try:
            return await for_ever(call)
        finally:
            ended.append(call.op)

    async def work() -> None:
        async with peers(waits) as (asker, answerer):
            asked = asyncio.create_task(asker.call("f"))
            stream = asker.stream("g")
            await until(lambda: len(answerer._calls) == 2)
            asked.cancel()
            stream.close()
            stream.close()
            await until(lambda: sorted(ended) == ["f", "g"])
            await until(lambda: not answerer._calls)
            with pytest.raises(Unavailable):
                await stream.next(int)

    bounded(work)


def test_the_end_of_the_connection_cancels_the_handlers() -> None:
    ended: list[str] = []

    async def waits(call: Call) -> object:
        try:
            return await for_ever(call)
        finally:
            ended.append(call.op)

    async def work() -> None:
        async with peers(waits) as (asker, answerer):
            asker.stream("f")
            await until(lambda: bool(answerer._calls))
            asker.close()
            await until(lambda: ended == ["f"])

    bounded(work)


def test_a_request_withdrawn_before_it_began_leaves_nothing_behind() -> None:
    async def work() -> None:
        before = descriptors()
        async with raw_and_peer(for_ever) as (raw, peer):
            await raw.send(greet=True)
            await peer.start()
            inside = descriptors()
            end, other = os.pipe()
            data = b"".join(frame(encode(message)) for message in (Request(1, "f", descriptors=1), Cancel(1), Request(2, "f")))
            raw.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end]))])
            os.close(end)
            os.close(other)
            await until(lambda: list(peer._calls) == [2])
            assert descriptors() == inside
            assert isinstance(await raw.receive(), Hello)
            fault = await raw.receive()
            assert isinstance(fault, Fault) and (fault.id, fault.code) == (1, "outcome-unknown")
        assert descriptors() == before

    bounded(work)


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

    monkeypatch.setattr(peer_module._Window, "take", always)
    bounded(work)


def test_a_slow_handler_bounds_what_its_asker_may_send() -> None:
    async def work() -> None:
        async with peers(for_ever) as (asker, answerer):
            stream = asker.stream("f")
            (await stuck(stream)).cancel()
            await asyncio.sleep(0.05)
            (entry,) = answerer._calls.values()
            assert entry[0]._inbox._held <= STREAM_WINDOW_BYTES + len(ITEM)

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
            transport = peer.transport
            assert isinstance(transport, SocketTransport)
            await until(lambda: transport._queued > SEND_QUEUE_BYTES_MAX)
            await asyncio.sleep(0.05)
            assert transport._queued <= SEND_QUEUE_BYTES_MAX + 2 * 1024 * 1024
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
        assert descriptors() == before

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
        assert descriptors() == before

    bounded(work)


def test_descriptors_for_an_asker_that_was_cancelled_as_they_came_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with peers(gives) as (asker, _):
            before = descriptors()
            asked = asyncio.create_task(asker.call_with_descriptors("give"))
            on_reply = asker._on_reply

            def on_reply_and_cancel(reply: Reply) -> None:
                on_reply(reply)  # the answer is there, the asker has not run yet
                asked.cancel()

            monkeypatch.setattr(asker, "_on_reply", on_reply_and_cancel)
            with pytest.raises(asyncio.CancelledError):
                await asked
            await settled()
            assert descriptors() == before

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
        assert descriptors() == before

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
        assert descriptors() == before

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


def test_a_thousand_calls_take_well_under_a_second() -> None:
    """No tight bound: it notices what is slower by an order of magnitude, such as a timer in the path."""

    async def work() -> None:
        async with peers(echo) as (asker, _):
            started = time.monotonic()
            for number in range(1000):
                await asker.call("echo", number)
            assert time.monotonic() - started < 2.0

    bounded(work)


def test_a_peer_that_was_closed_before_it_started_says_so() -> None:
    async def work() -> None:
        async with raw_and_peer() as (_raw, peer):
            peer.close()
            with pytest.raises(Unavailable, match="closed"):
                await peer.start()

    bounded(work)
