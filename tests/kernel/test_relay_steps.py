"""The steps of one relay, against a way that is scripted: when it reads, when it rests, what it drops, and that it never runs in circles."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator

from tests.wire.pairs import bounded, settled
from unios.core import sequences
from unios.errors import ProtocolError
from unios.kernel.relaying import AT_ONCE_BYTES, Relay
from unios.limits import WIDE_CHUNK_BYTES


class Way:
    """What a relay sees of a request under way."""

    sequence = sequences.PORT

    def __init__(self) -> None:
        self.is_open, self.has_ended, self.is_bytes, self.is_all_taken = True, False, True, True
        self.sent, self.waiting = b"", b""
        self.asked = self.turns = self.dropped = self.closed = self.looked = 0
        self._room = memoryview(bytearray(WIDE_CHUNK_BYTES))
        self.wake: Callable[[], None] = lambda: None
        self.arrived: Callable[[], None] = lambda: None

    def when_open(self, wake: Callable[[], None]) -> None:
        self.asked += 1
        self.wake = wake

    def pass_turn(self) -> None:
        self.turns += 1

    def room(self) -> memoryview:
        return self._room

    def send(self, count: int) -> None:
        assert self.is_open, "it sends without credit"
        self.sent += bytes(self._room[:count])

    def on_arrival(self, wake: Callable[[], None]) -> None:
        self.arrived = wake

    @property
    def held(self) -> int:
        return len(self.waiting)

    def pieces(self, bytes_max: int) -> list[memoryview]:
        self.looked += 1
        if not self.is_bytes:
            raise ProtocolError("no bytes")
        return [memoryview(self.waiting[:bytes_max])] if self.waiting else []

    def passed(self, count: int, _pieces: list[memoryview]) -> None:
        self.waiting = self.waiting[count:]

    def drop(self) -> None:
        self.dropped += 1
        self.waiting = b""

    def close(self) -> None:
        self.closed += 1

    def arrive(self, data: bytes) -> None:
        self.waiting += data
        self.arrived()


class Steps:
    """A relay, the other end of its socket, its way, and how often it said that the socket has no more to say."""

    def __init__(self, *, asks: bool) -> None:
        self.way, self.ends = Way(), 0
        self.program, near = socket.socketpair()
        self.program.setblocking(False)
        self.duplicate = near.dup()
        self.relay = Relay(near, self.way, self._end if asks else None)  # type: ignore[arg-type]

    def _end(self) -> None:
        self.ends += 1

    def ended(self) -> bool:
        try:
            return not self.program.recv(1)
        except BlockingIOError:
            return False


@contextlib.contextmanager
def steps(*, asks: bool = True) -> Iterator[Steps]:
    made = Steps(asks=asks)
    try:
        yield made
    finally:
        made.relay.close()
        made.program.close()
        made.duplicate.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        wrong: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: wrong.append(context))
        await work()
        await settled()
        assert not wrong

    bounded(main)


def stepped(test: Callable[[Steps], Awaitable[None]]) -> Callable[[], None]:
    """Run a test with a relay of its own."""

    async def work() -> None:
        with steps() as one:
            await test(one)

    return lambda: run(work)


async def rounds() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)


@stepped
async def test_a_socket_is_not_read_while_the_way_is_shut_and_is_once_it_opens(one: Steps) -> None:
    one.way.is_open = False
    one.program.send(b"hello")
    await rounds()
    assert one.way.asked == 1 and not one.way.sent  # asked once: it rests
    one.way.is_open = True
    one.way.wake()
    assert not one.way.sent  # not in the step of who makes room
    await rounds()
    assert one.way.sent == b"hello" and one.way.turns == 1


@stepped
async def test_a_way_that_opens_after_the_end_is_passed_on_and_nothing_is_read(one: Steps) -> None:
    one.way.is_open = False
    one.program.send(b"hello")
    await rounds()
    one.way.is_open = True
    one.relay.close()
    one.way.wake()
    await rounds()
    assert not one.way.sent and one.way.turns == 1 and not one.ends


@stepped
async def test_a_socket_that_ends_is_said_once(one: Steps) -> None:
    one.program.shutdown(socket.SHUT_WR)
    await rounds()
    assert one.ends == 1 and not one.relay.over.done()
    one.way.arrive(b"answer")
    assert one.program.recv(10) == b"answer"
    one.way.has_ended = True
    one.way.arrived()
    assert one.relay.over.done()


@stepped
async def test_a_program_that_has_gone_is_sent_nothing_more_and_what_comes_is_dropped(one: Steps) -> None:
    one.way.is_open = False  # what it has said before is still to be read
    one.program.send(b"last words")
    one.program.close()
    one.way.arrive(b"lost")
    await rounds()
    assert one.way.dropped and not one.relay.over.done() and not one.ends
    looked = one.way.looked
    one.way.arrive(b"lost too")
    assert not one.way.waiting and one.way.looked == looked
    one.way.is_open = True
    one.way.wake()
    await rounds()
    assert one.way.sent == b"last words" and one.ends == 1 and one.relay.over.done()


@stepped
async def test_what_a_program_that_has_gone_has_said_is_waited_for_and_not_longer_than_the_relay_lasts(one: Steps) -> None:
    one.way.is_all_taken = False
    one.program.send(b"last words")
    await rounds()
    one.program.close()
    await rounds()
    one.way.arrive(b"lost")
    await rounds()
    late = one.relay._late
    assert late is not None and not late.cancelled() and not one.relay.over.done()
    one.relay.close()
    assert late.cancelled() and one.relay.over.done()


@stepped
async def test_much_goes_in_steps_of_its_own_and_one_at_a_time(one: Steps) -> None:
    data = os.urandom(AT_ONCE_BYTES + 1)
    one.way.arrive(data)
    one.way.arrive(b"more")
    assert not one.way.looked
    await asyncio.sleep(0)
    assert one.way.looked == 1
    assert one.program.recv(1 << 20) == data + b"more"


@stepped
async def test_a_socket_that_is_full_is_waited_for_and_not_tried_again_and_again(one: Steps) -> None:
    data = os.urandom(12 << 20)
    one.way.arrive(data)
    await rounds()
    looked = one.way.looked
    one.way.arrived()
    await rounds()
    assert one.way.waiting and one.way.looked == looked
    got = b""
    while len(got) < len(data):
        with contextlib.suppress(BlockingIOError):
            got += one.program.recv(1 << 20)
        await asyncio.sleep(0)
    assert got == data
    await rounds()
    looked = one.way.looked
    await rounds()
    assert one.way.looked == looked  # nothing to write: it rests


@stepped
async def test_what_is_no_bytes_is_dropped_and_ends_the_relay(one: Steps) -> None:
    one.way.is_bytes = False
    one.way.arrive(b"x")
    assert one.relay.over.done() and one.way.dropped == 1


def test_a_relay_that_was_asked_for_says_the_end_to_a_socket_whose_other_end_may_be_gone() -> None:
    async def work() -> None:
        for gone in (False, True):
            with steps(asks=False) as one:
                if gone:
                    one.relay._sock.shutdown(socket.SHUT_RDWR)
                    one.relay._sock.close()
                one.way.has_ended = True
                one.way.arrived()
                assert gone or (one.ended() and not one.relay.over.done())

    run(work)


def test_a_relay_that_is_closed_ends_the_socket_for_all_who_hold_it_and_does_nothing_more() -> None:
    async def work() -> None:
        for full in (False, True):
            with steps() as one:
                if full:
                    one.way.arrive(bytes(12 << 20))
                    await rounds()
                descriptor = one.relay._sock.fileno()
                one.relay.close()
                one.relay.close()
                assert one.relay.over.done() and one.way.closed == 1 and one.relay._sock.fileno() < 0
                loop = asyncio.get_running_loop()
                assert not loop.remove_reader(descriptor) and not loop.remove_writer(descriptor)
                while True:  # what was queued, then the end, though a duplicate is open
                    with contextlib.suppress(BlockingIOError):
                        if not one.program.recv(1 << 20):
                            break
                looked = one.way.looked
                one.way.arrive(b"late")
                await rounds()
                assert one.way.looked == looked

    run(work)


@stepped
async def test_a_step_that_was_due_when_the_relay_ended_does_nothing(one: Steps) -> None:
    one.way.arrive(bytes(AT_ONCE_BYTES + 1))
    one.relay.close()
    await rounds()
    assert not one.way.looked


@stepped
async def test_a_relay_that_is_woken_for_nothing_goes_on(one: Steps) -> None:
    one.relay._readable()
    one.way.is_open = False
    one.program.send(b"gone")
    await rounds()
    one.duplicate.recv(10)
    one.way.is_open = True
    one.way.wake()
    await rounds()
    assert not one.ends and not one.relay.over.done()
    one.program.send(b"here")
    await rounds()
    assert one.way.sent == b"here"


@stepped
async def test_a_socket_that_takes_nothing_at_all_is_waited_for(one: Steps) -> None:
    before = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            before += one.duplicate.send(bytes(65_536))
    one.way.arrive(b"hello")
    await rounds()
    assert one.way.waiting == b"hello" and not one.way.dropped
    while before:
        before -= len(one.program.recv(min(before, 1 << 20)))
    await rounds()
    assert one.program.recv(10) == b"hello"
