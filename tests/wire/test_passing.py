"""Answers of a stream that become those of a request: in order, no more than the asker takes, and what ends the one ends the other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.wire.pairs import bounded, peers, settled, until
from unios.errors import NotFound
from unios.limits import STREAM_WINDOW_BYTES
from unios.wire.passing import Passage
from unios.wire.peer import Call, Handler, Peer

PIECE = bytes(range(256)) * 400


@contextlib.asynccontextmanager
async def passed_on(answers: Handler) -> AsyncIterator[Peer]:
    """Yield an asker whose requests one passes on to another, who answers."""
    async with peers(answers) as (onward, _far):

        async def pass_on(call: Call) -> object:
            async with onward.stream(call.op, call.body) as stream:
                passage = Passage(stream, call)
                try:
                    await passage.over
                    await stream.next(bytes)
                    return stream.result
                finally:
                    passage.close()

        async with peers(pass_on) as (asker, _near):
            yield asker


def test_all_comes_in_order_and_the_last_answer_behind_it() -> None:
    async def answers(call: Call) -> object:
        for number in range(200):
            await call.send(number.to_bytes(4, "big") + (PIECE if number % 3 else b""))
        return "over"

    async def work() -> None:
        async with passed_on(answers) as asker:
            stream = asker.stream("processes.follow")
            got = [item async for item in stream.items(bytes)]
            assert [int.from_bytes(item[:4], "big") for item in got] == list(range(200))
            assert all(item[4:] == (PIECE if number % 3 else b"") for number, item in enumerate(got))
            assert bytes(stream.result or b"") == b"\xa4over"
            stream.close()

    bounded(work)


def test_what_ends_it_is_told_behind_what_came_before() -> None:
    async def answers(call: Call) -> object:
        await call.send(PIECE)
        raise NotFound("it has gone")

    async def work() -> None:
        async with passed_on(answers) as asker:
            stream = asker.stream("processes.follow")
            assert await stream.next(bytes) == PIECE
            with pytest.raises(NotFound, match="it has gone"):
                await stream.next(bytes)
            stream.close()

    bounded(work)


def test_no_more_is_under_way_than_the_asker_takes() -> None:
    sent = 0

    async def floods(call: Call) -> object:
        nonlocal sent
        while True:
            await call.send(PIECE)
            sent += len(PIECE)

    async def work() -> None:
        async with passed_on(floods) as asker:
            stream = asker.stream("processes.follow")
            await until(lambda: sent > STREAM_WINDOW_BYTES)
            before = -1
            while before < sent:
                before = sent
                for _ in range(100):
                    await settled()
            assert sent <= 2 * STREAM_WINDOW_BYTES + 2 * len(PIECE), "each of two connections has its window, and nothing else keeps any"
            for _ in range(100):
                assert await stream.next(bytes) == PIECE
            await until(lambda: sent > before)
            stream.close()

    bounded(work)


def test_an_asker_that_goes_takes_the_request_with_him() -> None:
    ended = asyncio.Event()

    async def floods(call: Call) -> object:
        try:
            while True:
                await call.send(PIECE)
        finally:
            ended.set()

    async def work() -> None:
        async with passed_on(floods) as asker:
            stream = asker.stream("processes.follow")
            assert await stream.next(bytes) == PIECE
            stream.close()
            await ended.wait()

    bounded(work)
