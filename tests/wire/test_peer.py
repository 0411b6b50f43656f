"""Connections: what is asked is answered once, what is bounded stays bounded, and nothing is left behind."""

import array
import asyncio
import os
import socket

import pytest

from tests.descriptors import descriptors
from tests.wire.pairs import bounded, echo, for_ever, peers, raw_and_peer, settled, until
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
from unios.limits import FRAME_BYTES_MAX, REQUESTS_PER_PEER_MAX, SEND_QUEUE_BYTES_MAX
from unios.wire.frames import frame
from unios.wire.messages import Cancel, Fault, Hello, Reply, Request, encode, pack
from unios.wire.peer import Call

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


async def by_name(call: Call) -> object:
    if call.op == "fault":
        raise NotFound("nothing")
    return await (for_ever(call) if call.op == "for ever" else echo(call))


def test_who_asks_without_a_task_is_told_once_whatever_comes() -> None:
    async def work() -> None:
        told: list[object] = []
        async with peers(by_name) as (asker, _):
            asker.ask("echo", 7, int, told.append, timeout_ms=20_000)
            await until(lambda: told == [7])
            assert asker._deadlines._alarm is None  # which would wake a connection at rest
            asker.ask("echo", "no number", int, told.append, timeout_ms=20_000)
            asker.ask("fault", None, int, told.append, timeout_ms=20_000)
            asker.ask("for ever", None, int, told.append, timeout_ms=20)
            await until(lambda: len(told) == 4)
            assert {type(one) for one in told[1:]} == {ProtocolError, NotFound, OutcomeUnknown}
            asker.ask("for ever", None, int, lambda answer: asker.ask("echo", answer is None, int, told.append, timeout_ms=20_000), timeout_ms=20_000)
            asker.close("in the middle")
            await until(lambda: len(told) == 5)
            assert isinstance(told[4], Unavailable)  # who asks again on hearing that the connection has ended hears that too
            asker.ask("echo", 1, int, told.append, timeout_ms=20_000)
            assert isinstance(told[5], Unavailable)
            await settled()
            assert len(told) == 6

    bounded(work)


def test_who_lets_go_of_a_peer_that_is_late_breaks_nothing_that_was_due_at_the_same_time() -> None:
    async def work() -> None:
        told: list[object] = []
        failures: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
        async with peers(for_ever) as (asker, _):

            def let_go(answer: object) -> None:
                told.append(answer)
                asker.close("it is late")

            asker.ask("late", None, int, let_go, timeout_ms=0)
            asker.ask("late too", None, int, told.append, timeout_ms=0)
            await until(lambda: len(told) == 2)
            await settled()
            assert all(isinstance(one, OutcomeUnknown) for one in told)
        assert not failures

    bounded(work)


def test_an_answer_that_comes_after_it_was_given_up_is_told_nobody() -> None:
    async def work() -> None:
        told: list[object] = []
        async with raw_and_peer(echo) as (raw, peer):
            await raw.send(greet=True)
            await peer.start()
            peer.ask("late", None, int, told.append, timeout_ms=1)
            assert isinstance(await raw.receive(), Hello)
            request, cancel = await raw.receive(), await raw.receive()
            assert isinstance(request, Request) and cancel == Cancel(request.id)
            await raw.send(Reply(request.id, pack(5)), Request(9, "echo", pack(6)))
            answer = await raw.receive()
            assert isinstance(answer, Reply) and answer.id == 9
            assert len(told) == 1 and isinstance(told[0], OutcomeUnknown)

    bounded(work)


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
            assert descriptors() <= inside
            assert isinstance(await raw.receive(), Hello)
            fault = await raw.receive()
            assert isinstance(fault, Fault) and (fault.id, fault.code) == (1, "outcome-unknown")
        assert descriptors() <= before

    bounded(work)


# without a task


def test_a_request_that_is_taken_at_once_makes_no_task_and_is_answered_when_its_time_comes() -> None:
    async def work() -> None:
        taken: list[Call] = []

        def at_once(call: Call) -> bool:
            if call.op == "wrong":
                raise CallerError("that is wrong")
            if call.op == "slow":
                taken.append(call)
            return call.op == "slow"

        async with peers(echo, at_once=at_once) as (asker, answerer):
            slow = asyncio.create_task(asker.call("slow", 1))
            await until(lambda: len(taken) == 1)
            assert [task for _call, task in answerer._calls.values()] == [None]
            assert await asker.call("echo", 2) == 2
            with pytest.raises(CallerError, match="that is wrong"):
                await asker.call("wrong")
            taken[0].answer(3)
            taken[0].answer(4)  # there is one answer
            assert await slow == 3 and not answerer._calls
            failing = asyncio.create_task(asker.call("slow"))
            await until(lambda: len(taken) == 2)
            taken[1].answer(NotFound("it is not there"))
            with pytest.raises(NotFound, match="it is not there"):
                await failing

    bounded(work)


def test_what_was_taken_at_once_and_withdrawn_is_answered_to_nobody() -> None:
    async def work() -> None:
        taken: list[Call] = []
        async with peers(echo, at_once=lambda call: call.op == "slow" and not taken.append(call)) as (asker, answerer):  # type: ignore[func-returns-value]
            slow = asyncio.create_task(asker.call("slow"))
            await until(lambda: len(taken) == 1)
            slow.cancel()
            await until(lambda: not answerer._calls)
            taken[0].answer(1)
            assert await asker.call("echo", 2) == 2
            with pytest.raises(OutcomeUnknown):
                await asker.call("slow", timeout_ms=10)
            await until(lambda: not answerer._calls)
            assert not asker._waiting and not asker._deadlines._due

    bounded(work)


def test_to_one_who_does_not_read_nothing_is_served_at_once() -> None:
    """Else his answers would pile up: what waits for him to read counts as a request under way."""

    async def work() -> None:
        served: list[str] = []

        def at_once(call: Call) -> bool:
            served.append(call.op)
            call.answer(bytes(1024 * 1024))
            return True

        async with raw_and_peer(for_ever) as (raw, peer):
            peer._at_once = at_once
            starting = asyncio.create_task(peer.start())
            await raw.send(greet=True)
            await starting
            count = 2 * SEND_QUEUE_BYTES_MAX // (1024 * 1024)
            for number in range(count):
                await raw.send(Request(number + 1, "x"))
            await until(lambda: len(served) + len(peer._calls) == count)
            assert len(served) <= SEND_QUEUE_BYTES_MAX // (1024 * 1024) + 2 and peer._calls

    bounded(work)


def test_calls_have_their_own_time_though_they_share_a_timer() -> None:
    async def work() -> None:
        async with peers(for_ever) as (asker, answerer):
            long = asyncio.create_task(asker.call("x", timeout_ms=60_000))
            await until(lambda: len(answerer._calls) == 1)
            middle = asyncio.create_task(asker.call("x", timeout_ms=60))
            for _ in range(2):
                with pytest.raises(OutcomeUnknown, match="within 10 ms"):
                    await asker.call("x", timeout_ms=10)
            with pytest.raises(OutcomeUnknown, match="within 60 ms"):
                await middle
            assert not long.done() and len(asker._deadlines._due) == 1
            await until(lambda: len(answerer._calls) == 1)  # the others were withdrawn
            long.cancel()

    bounded(work)
