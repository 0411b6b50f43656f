"""The threads of porters: as many as there may be, and a turn is kept until its work is over."""

import asyncio
import threading

from tests.wire.pairs import bounded, settled, until
from unios.kernel.porter_turns import PorterTurns
from unios.limits import PORTERS_MAX, PORTERS_PER_USER_MAX


def test_one_users_work_does_not_keep_anothers_waiting() -> None:
    async def work() -> None:
        turns, go, begun = PorterTurns(), threading.Event(), list[str]()

        def one(user: str) -> str:
            begun.append(user)
            go.wait()
            return user

        tasks = [asyncio.create_task(turns.work(user, one, user)) for user in ["ann"] * 5 + ["bob", "eve", "dan"]]
        try:
            await until(lambda: len(begun) == PORTERS_MAX)
            await settled()
            assert sorted(begun) == ["ann", "ann", "bob", "eve"]
        finally:
            go.set()
        assert await asyncio.gather(*tasks) == ["ann"] * 5 + ["bob", "eve", "dan"]
        turns.close()

    bounded(work)


def test_work_that_nobody_waits_for_any_more_keeps_its_turn_until_it_is_over() -> None:
    async def work() -> None:
        turns, go, begun = PorterTurns(), threading.Event(), list[int]()
        tasks = [asyncio.create_task(turns.work("ann", lambda n=n: (begun.append(n), go.wait()))) for n in range(PORTERS_PER_USER_MAX)]
        await until(lambda: len(begun) == PORTERS_PER_USER_MAX)
        for task in tasks:
            task.cancel()
        late = asyncio.create_task(turns.work("ann", lambda: begun.append(99)))
        await asyncio.wait(tasks)
        await settled()
        try:
            assert 99 not in begun
        finally:
            go.set()
        await late
        assert 99 in begun
        turns.close()

    bounded(work)


def test_who_stops_waiting_for_his_turn_and_whose_work_fails_leave_it_to_others() -> None:
    async def work() -> None:
        turns, go = PorterTurns(), threading.Event()
        held = [asyncio.create_task(turns.work("ann", go.wait)) for _ in range(PORTERS_PER_USER_MAX)]
        waiting = [asyncio.create_task(turns.work("ann", lambda: None)) for _ in range(3)]
        await settled()
        waiting[0].cancel()
        failing = asyncio.create_task(turns.work("ann", lambda: 1 // 0))
        go.set()
        done = await asyncio.gather(*held, *waiting[1:], failing, return_exceptions=True)
        assert isinstance(done[-1], ZeroDivisionError) and done[2:4] == [None, None]
        assert await turns.work("ann", lambda: 7) == 7
        turns.close()

    bounded(work)
