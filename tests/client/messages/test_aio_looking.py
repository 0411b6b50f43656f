"""A line in asyncio that looks for what comes before its loop sleeps: only while it was the last to say something, and soon not where that is in vain."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import pytest

from unios.client.messages import aio_line
from unios.client.messages.aio_line import AioLine
from unios.wire.conversations import Said
from unios.wire.frames import frame
from unios.wire.messages import Cancel, Reply, encode, pack
from unios.wire.values import Value

ANSWER = frame(encode(Reply(1, pack(None))))
ASKED = Cancel(1)
"""Any message will do."""


class Side:
    """A line, what it has heard, and how often it looked in vain and not."""

    def __init__(self, *, local: bool = True, trusted: bool = True, pauses: bool = False) -> None:
        self.raw, sock = socket.socketpair()
        self.heard: list[Said] = []
        self.looked = self.vain = 0
        self.line = AioLine(sock, self._hear, lambda _why: None, local=local, trusted=trusted, pauses=pauses)
        self._pull = self.line._pull
        self.line._pull = self._look

    def _hear(self, message: Said, _value: Value | None) -> None:
        self.heard.append(message)

    def _look(self, *given: Any) -> Any:
        self.looked += 1
        try:
            return self._pull(*given)
        except BlockingIOError:
            self.vain += 1
            raise

    async def ask(self, times: int = 1) -> None:
        """Say something, in so many turns of the loop, and let it look."""
        for _ in range(times):
            self.line.send(ASKED)
            for _ in range(3):
                await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError):
                self.raw.recv(4096, socket.MSG_DONTWAIT)

    def look(self) -> None:
        """Look now, as after something was said."""
        self.line._look_soon()
        self.line._look()

    def close(self) -> None:
        self.line.close()
        self.raw.close()


@pytest.fixture(autouse=True)
def _two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_line, "_PROCESSORS", 2)


@contextlib.contextmanager
def side(**how: bool) -> Iterator[Side]:
    made = Side(**how)
    try:
        yield made
    finally:
        made.close()


def descriptors() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


def running(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            await test()

        asyncio.run(main())

    run.__name__ = getattr(test, "__name__", "run")
    return run


@running
async def test_an_answer_that_comes_soon_is_taken_without_the_loop_being_told_of_it() -> None:
    with side() as one:
        one.line._loop.remove_reader(one.line.sock.fileno())
        for number in range(1, 300):
            one.raw.sendall(ANSWER)
            await one.ask()
            assert len(one.heard) == number
        assert not one.vain


@running
async def test_who_looks_in_vain_stops_looking_and_tries_it_again_seldom() -> None:
    with side() as one:
        await one.ask(100)
        assert one.vain == aio_line._VAIN_MAX * aio_line._LOOKS
        for number in range(1280):  # each time it is read by the loop, and the next is asked
            one.raw.sendall(ANSWER)
            while len(one.heard) <= number:
                await asyncio.sleep(0)
            await one.ask()
        assert one.vain <= (aio_line._VAIN_MAX + 1 + 1280 // aio_line._LOOKED_EACH) * aio_line._LOOKS
        assert one.vain > aio_line._VAIN_MAX * aio_line._LOOKS, "it never tries again"


@running
async def test_who_finds_something_again_goes_on_looking() -> None:
    with side() as one:
        await one.ask(aio_line._VAIN_MAX)
        before = one.vain
        for _ in range(aio_line._LOOKED_EACH + 1):
            one.raw.sendall(ANSWER)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        one.line._loop.remove_reader(one.line.sock.fileno())
        for _ in range(49):
            one.raw.sendall(ANSWER)
            await one.ask()
        assert one.vain == before
        assert len(one.heard) == aio_line._LOOKED_EACH + 1 + 49
        await one.ask(aio_line._VAIN_MAX)
        assert one.vain == before + aio_line._VAIN_MAX * aio_line._LOOKS


@running
async def test_of_many_lines_only_that_looks_on_which_something_was_said_last() -> None:
    """Else a loop with many connections would look at each, one after the other, and do nothing else meanwhile."""
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(side()) for _ in range(20)]
        for one in sides:
            one.line.send(ASKED)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [one.vain for one in sides] == [0] * 19 + [aio_line._LOOKS]


@pytest.mark.parametrize(("local", "trusted", "processors"), [(False, True, 2), (True, False, 2), (True, True, 1)])
def test_nobody_looks_where_it_cannot_help(local: bool, trusted: bool, processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To another node it takes too long, a stranger could make others burn time by it, and on one processor the other side waits for it."""
    monkeypatch.setattr(aio_line, "_PROCESSORS", processors)

    async def main() -> None:
        with side(local=local, trusted=trusted) as one:
            await one.ask(300)
            assert not one.looked

    asyncio.run(main())


@running
async def test_a_line_that_is_closed_before_it_looks_does_not() -> None:
    with side() as one:
        one.line.send(ASKED)
        one.line.close()
        await asyncio.sleep(0)
        assert not one.looked


@running
async def test_the_rest_of_a_message_is_not_taken_for_one() -> None:
    whole = Reply(1, msgspec.Raw(msgspec.msgpack.encode(ANSWER)))
    data = frame(encode(whole))
    assert data.endswith(ANSWER)
    for looks in (True, False):
        with side() as one:
            one.raw.sendall(data[: -len(ANSWER)])
            while not one.line._reader.is_amid:
                await asyncio.sleep(0)
            before = one.looked
            one.raw.sendall(ANSWER)
            if looks:
                one.look()
                assert (one.looked, one.heard) == (before, [])
            while not one.heard:
                await asyncio.sleep(0)
            assert one.heard == [whole]


@running
async def test_a_descriptor_that_came_along_is_held_until_the_line_ends() -> None:
    with side() as one:
        before = descriptors()
        socket.send_fds(one.raw, [ANSWER], [one.raw.fileno()])
        one.look()
        assert len(one.heard) == 1
        assert len(descriptors()) == len(before) + 1
        one.line.close()
        assert descriptors() < before


@running
async def test_while_the_peer_does_not_read_nothing_is_taken_in_by_looking_either() -> None:
    with side(pauses=True) as one:
        while not one.line.is_full:
            one.line._put(memoryview(bytes(1 << 20)), ())
        one.raw.sendall(ANSWER)
        one.look()
        assert one.looked
        assert not one.heard, "it was said by a peer who does not read"
        one.raw.sendall(ANSWER)
        before = one.looked
        one.look()
        assert one.looked == before


@running
async def test_several_messages_that_come_together_are_all_heard() -> None:
    with side() as one:
        one.raw.sendall(ANSWER * 3)
        await one.ask()
        assert len(one.heard) == 3


@running
async def test_the_end_of_the_other_side_is_found_by_looking_too() -> None:
    with side() as one:
        one.line._loop.remove_reader(one.line.sock.fileno())
        one.line.send(ASKED)
        one.raw.shutdown(socket.SHUT_WR)
        for _ in range(3):
            await asyncio.sleep(0)
        assert one.line.is_closed
