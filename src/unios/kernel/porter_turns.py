"""Porter turns: the threads in which porters work, so many at a time, in the turns of core/turns.py."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from unios.core.turns import Turn, Turns
from unios.limits import PORTERS_MAX, PORTERS_PER_USER_MAX

T = TypeVar("T")


class PorterTurns:
    """Those of one node. Used from the loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(PORTERS_MAX, "porter")
        self._turns = Turns(PORTERS_MAX, PORTERS_PER_USER_MAX)
        self._begun: dict[Turn, asyncio.Future[None]] = {}

    async def work(self, user: str, work: Callable[..., T], *arguments: Any) -> T:
        """Do a user's work when its turn has come; return what it returns. What has begun goes on, and keeps its turn, whoever stops waiting for it."""
        loop = asyncio.get_running_loop()
        turn = self._turns.ask(user)
        self._begun[turn] = loop.create_future()
        try:
            self._let_begin()
            await self._begun[turn]
            done: Future[T] = self._threads.submit(work, *arguments)
        except BaseException:
            self._leave(turn)
            raise
        finally:
            del self._begun[turn]

        def over(_done: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._leave, turn)

        done.add_done_callback(over)
        return await asyncio.wrap_future(done)

    def _let_begin(self) -> None:
        for turn in self._turns.next():
            begun = self._begun.get(turn)
            if begun is not None and not begun.done():
                begun.set_result(None)

    def _leave(self, turn: Turn) -> None:
        self._turns.leave(turn)
        self._let_begin()

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
