import asyncio
import os
import time
from typing import Any

import pytest

from tests.client.scripted import ScriptedKernel
from unios.client import processes
from unios.client.connection import Connection
from unios.client.events import events
from unios.client.feed import Feeder
from unios.client.output import Anew, follow, read
from unios.errors import CallerError, NotFound, ProgramNotRunnable, Unavailable
from unios.limits import ARGUMENT_BYTES_MAX, TREE_TIMEOUT_MS
from unios.wire.operations import Chunk, EventView, Follow, OfProcess, ProcessView, Program, Submit, Submitted
from unios.wire.peer import Call

TRUE = Program((b"true",))


def view(state: str = "running", *, incarnation: int = 1, node: str = "n1", **more: Any) -> ProcessView:
    return ProcessView(1001, state, node, "u", (b"x",), incarnation, **more)


class Record:
    """What the scripted kernel says of process 1001."""

    def __init__(self, kernel: ScriptedKernel, now: ProcessView) -> None:
        self.now = now
        kernel.operations["processes.wait"] = self.wait

    async def wait(self, call: Call) -> object:
        if call.decode(OfProcess).pid != 1001:
            raise NotFound("there is no such process")
        return self.now


def test_a_tree_that_does_not_answer_does_not_hold_up_who_waits_for_its_end(kernel: ScriptedKernel, connection: Connection) -> None:
    record = Record(kernel, view())

    async def silent(_call: Call) -> object:
        record.now = view("exited")
        return await asyncio.Event().wait()

    kernel.operations["processes.stats"] = silent
    connection.tell = lambda _text: None
    begun = time.monotonic()
    assert processes.wait(connection, 1001).state == "exited"
    assert time.monotonic() - begun < TREE_TIMEOUT_MS / 1000


def test_a_lost_answer_to_submit_is_asked_for_again_under_the_same_request(kernel: ScriptedKernel, connection: Connection) -> None:
    requests: list[str] = []

    async def placement(call: Call) -> object:
        requests.append(call.decode(Submit).request)
        if len(requests) == 1:
            call.peer.close()
        return Submitted(1001, "n1", "running", 1)

    kernel.services["placement"] = placement
    assert processes.submit(connection, TRUE).pid == 1001
    assert len(requests) == 2 and len(set(requests)) == 1


def test_two_submissions_are_two_requests(kernel: ScriptedKernel, connection: Connection) -> None:
    requests: set[str] = set()

    async def placement(call: Call) -> object:
        requests.add(call.decode(Submit).request)
        return Submitted(1001, "n1", "running", 1)

    kernel.services["placement"] = placement
    processes.submit(connection, TRUE)
    processes.submit(connection, TRUE)
    assert len(requests) == 2


def test_what_placement_refuses_is_not_asked_again(kernel: ScriptedKernel, connection: Connection) -> None:
    asked = []

    async def placement(call: Call) -> object:
        asked.append(1)
        raise ProgramNotRunnable("it is a folder")

    kernel.services["placement"] = placement
    with pytest.raises(ProgramNotRunnable):
        processes.submit(connection, TRUE)
    assert asked == [1]


@pytest.mark.parametrize(
    ("program", "error"),
    [
        (Program(()), CallerError),
        (Program((b"a\0b",)), CallerError),
        (Program((b"a", b"x" * (ARGUMENT_BYTES_MAX + 1))), ProgramNotRunnable),
        (Program((b"a", *[b"x" * 100_000] * 30)), ProgramNotRunnable),
        (Program((b"a",), env=((b"A", b"x" * ARGUMENT_BYTES_MAX),)), ProgramNotRunnable),
    ],
)
def test_a_program_that_no_linux_would_take_is_refused_before_anybody_is_asked(
    kernel: ScriptedKernel, connection: Connection, program: Program, error: type[Exception]
) -> None:
    with pytest.raises(error):
        processes.submit(connection, program)
    assert kernel.asked == []


def test_wait_goes_on_until_the_process_has_ended(kernel: ScriptedKernel, connection: Connection) -> None:
    answers = [view("pending"), view(), view(incarnation=2), view("exited", exit_code=3)]

    async def wait(call: Call) -> object:
        return answers.pop(0)

    kernel.operations["processes.wait"] = wait
    assert processes.wait(connection, 1001).exit_code == 3
    assert not answers


def test_wait_with_a_timeout_returns_the_record_as_it_stands(kernel: ScriptedKernel, connection: Connection) -> None:
    Record(kernel, view())
    assert processes.wait(connection, 1001, timeout_s=0.01).state == "running"


def test_following_a_process_that_is_not_there_is_not_found(kernel: ScriptedKernel, connection: Connection) -> None:
    Record(kernel, view())
    with pytest.raises(NotFound):
        list(follow(connection, 9))


def test_a_break_in_the_middle_of_the_output_repeats_and_loses_nothing(kernel: ScriptedKernel, connection: Connection) -> None:
    record = Record(kernel, view())
    data = os.urandom(1000)

    async def serve(call: Call) -> object:
        wanted = call.decode(Follow)
        await call.send(Chunk("out", 1, wanted.out, data[wanted.out : wanted.out + 100]))
        await call.send(Chunk("err", 1, wanted.err, data[wanted.err : wanted.err + 50]))
        if wanted.out + 100 < len(data):
            raise Unavailable("the kernel of n1 restarts")
        record.now = view("exited", exit_code=0)
        return None

    kernel.operations["processes.follow"] = serve
    chunks = [chunk for chunk in follow(connection, 1001) if isinstance(chunk, Chunk)]
    assert b"".join(chunk.data for chunk in chunks if chunk.stream == "out") == data
    assert b"".join(chunk.data for chunk in chunks if chunk.stream == "err") == data[:500]


def test_another_incarnation_is_announced_and_its_output_begins_at_its_start(kernel: ScriptedKernel, connection: Connection) -> None:
    record = Record(kernel, view())

    async def serve(call: Call) -> object:
        wanted = call.decode(Follow)
        if wanted.incarnation == 1:
            await call.send(Chunk("out", 1, 0, b"first"))
            record.now = view(incarnation=2, node="n2")
            raise Unavailable("n1 is lost")
        assert wanted.out == 0
        await call.send(Chunk("out", 2, 0, b"second"))
        record.now = view("exited", incarnation=2, node="n2", exit_code=0)
        return None

    kernel.operations["processes.follow"] = serve
    first, anew, second = follow(connection, 1001)
    assert isinstance(first, Chunk) and first.data == b"first"
    assert str(anew) == "1001 was started again on n2 (its node n1 was lost); output begins anew"
    assert isinstance(anew, Anew) and isinstance(second, Chunk) and second.data == b"second"


def test_a_silent_stream_of_a_process_that_moved_on_is_left(kernel: ScriptedKernel, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unios.client.output.CLIENT_LOOK_MS", 20)
    record = Record(kernel, view())

    async def serve(call: Call) -> object:
        if call.decode(Follow).incarnation == 1:
            record.now = view(incarnation=2, node="n2")
            return await call.receive(bytes)
        record.now = view("exited", incarnation=2, node="n2", exit_code=0)
        return None

    kernel.operations["processes.follow"] = serve
    assert [type(said) for said in follow(connection, 1001)] == [Anew]


def test_output_that_cannot_be_reached_after_the_end_is_told(kernel: ScriptedKernel, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unios.client.output.CLIENT_OUTPUT_RETRY_MS", 0)
    Record(kernel, view("exited", exit_code=0))

    async def serve(call: Call) -> object:
        raise Unavailable("n1 is lost")

    kernel.operations["processes.follow"] = serve
    with pytest.raises(Unavailable, match="the rest of the output of 1001 cannot be reached"):
        list(follow(connection, 1001))


def test_reading_without_following_ends_with_what_is_kept(kernel: ScriptedKernel, connection: Connection) -> None:
    async def serve(call: Call) -> object:
        assert not call.decode(Follow).follow
        await call.send(Chunk("out", 1, 0, b"x"))
        return None

    kernel.operations["processes.follow"] = serve
    assert [chunk.data for chunk in read(connection, 1001)] == [b"x"]


def test_stdin_is_fed_whole_and_then_ended(kernel: ScriptedKernel, connection: Connection) -> None:
    Record(kernel, view())
    got = bytearray()

    async def feed(call: Call) -> object:
        while (item := await call.receive(bytes)) is not None:
            got.extend(item)
        return None

    kernel.operations["processes.feed"] = feed
    data = os.urandom(3_000_000)
    reading, writing = os.pipe()
    feeder = Feeder(connection.again(), 1001, reading)
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(data)
    feeder._thread.join(20)
    os.close(reading)
    assert bytes(got) == data and feeder.failure is None


def cut_off(kernel: ScriptedKernel, connection: Connection, reading: int, *, after: bytes) -> tuple[Feeder, list[bytes]]:
    """Feed from `reading` while the kernel breaks the connection when it has got `after`; return the feeder and what came later, b"" for the end."""
    got: list[bytes] = []

    async def feed(call: Call) -> object:
        if [op for op, _node in kernel.asked].count("processes.feed") > 1:
            while (item := await call.receive(bytes)) is not None:
                got.append(item)
            got.append(b"")
            return None
        if after:
            assert await call.receive(bytes) == after
        call.peer.close()
        return None

    kernel.operations["processes.feed"] = feed
    feeder = Feeder(connection.again(), 1001, reading)
    feeder._thread.join(20)
    return feeder, got


def test_stdin_that_was_cut_off_is_kept_as_a_failure_and_ended_and_nothing_is_sent_again(kernel: ScriptedKernel, connection: Connection) -> None:
    Record(kernel, view())
    reading, writing = os.pipe()
    os.write(writing, b"one")
    os.close(writing)
    feeder, later = cut_off(kernel, connection, reading, after=b"one")
    os.close(reading)
    assert feeder.failure is not None and later == [b""]


def test_stdin_that_is_cut_off_while_nothing_comes_is_a_failure_at_once_and_ended(kernel: ScriptedKernel, connection: Connection) -> None:
    Record(kernel, view())
    reading, writing = os.pipe()  # nobody writes, and it does not end
    feeder, later = cut_off(kernel, connection, reading, after=b"")
    assert not feeder._thread.is_alive() and feeder.failure is not None and later == [b""]
    os.close(writing)
    os.close(reading)


def test_events_go_on_after_a_break_without_repeating_any(kernel: ScriptedKernel, connection: Connection) -> None:
    happened = [EventView(number, "n1", "k", f"text {number}") for number in range(6)]
    calls = []

    async def serve(call: Call) -> object:
        calls.append(1)
        for event in happened[: 3 * len(calls)]:
            await call.send(event)
        if len(calls) == 1:
            raise Unavailable("the kernel restarts")
        return None

    kernel.operations["node.events"] = serve
    assert list(events(connection, follow=True)) == happened
