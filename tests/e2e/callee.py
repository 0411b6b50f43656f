"""A program with a port, for the tests of ports: `python callee.py PORT NODE (aio|blocking)`. It counts what is done, so that what is done twice shows."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator

from unios.client.messages import aio
from unios.client.messages.server import Server, caller

done: dict[str, int] = {}
cancelled: list[str] = []
started: list[str] = []


def add(a: int, b: int = 0) -> int:
    return a + b


def echo(value: object) -> object:
    return value


def fail() -> None:
    error = ValueError("not so")
    error.add_note("a note")
    raise error


def count(mark: str) -> int:
    """Do something that must not be done twice."""
    done[mark] = done.get(mark, 0) + 1
    return done[mark]


def times(mark: str) -> int:
    return done.get(mark, 0)


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


def who() -> tuple[str, str, int]:
    return caller().user, caller().node, os.getpid()


def size(value: bytes) -> int:
    return len(value)


def lambda_() -> object:
    return lambda: 1


class Slow:
    """What lasts, as a plain function and as a coroutine."""

    @staticmethod
    def blocking(mark: str, seconds: float) -> int:
        time.sleep(seconds)
        return count(mark)

    @staticmethod
    async def aio(mark: str, seconds: float) -> int:
        started.append(mark)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            cancelled.append(mark)
            raise
        return count(mark)


async def anumbers(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


HANDLERS = {
    "add": add,
    "echo": echo,
    "fail": fail,
    "count": count,
    "times": times,
    "numbers": numbers,
    "who": who,
    "size": size,
    "lambda_": lambda_,
    "cancelled": lambda: list(cancelled),
    "started": lambda: list(started),
    "threads": threading.active_count,
}


async def serve(port: str, node: str) -> None:
    async with await aio.listen(port, {**HANDLERS, "slow": Slow.aio, "anumbers": anumbers}, node=node) as server:
        print("listens", flush=True)
        await server.wait()


def main(port: str, node: str, kind: str) -> None:
    if kind == "aio":
        asyncio.run(serve(port, node))
    else:
        with Server(port, {**HANDLERS, "slow": Slow.blocking}, node=node) as server:
            print("listens", flush=True)
            server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
