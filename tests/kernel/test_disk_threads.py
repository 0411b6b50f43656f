"""Threads for what waits for the disk: answers and errors reach whoever asked, the loop turns meanwhile, and never more threads than were allowed."""

import asyncio
import threading

import pytest

from unios.kernel.disk_threads import DiskThreads


def test_what_is_returned_and_raised_reaches_who_asked_and_nobody_waits_for_another_ones_disk() -> None:
    async def work() -> None:
        threads = DiskThreads(2, "disk")
        stopped = threading.Event()
        waits = asyncio.create_task(threads.do(stopped.wait))
        assert await threads.do(lambda one, two: one + two, 1, 2) == 3
        with pytest.raises(ZeroDivisionError):
            await threads.do(lambda: 1 // 0)
        assert not waits.done()
        stopped.set()
        assert await waits
        threads.close()

    asyncio.run(asyncio.wait_for(work(), 20))


def test_there_are_as_many_threads_as_wait_at_once_and_no_more_than_allowed() -> None:
    async def work() -> None:
        threads = DiskThreads(3, "counted")
        for _ in range(20):
            await threads.do(threading.get_ident)
        assert len(named("counted")) == 1
        go = threading.Event()
        many = [asyncio.create_task(threads.do(go.wait)) for _ in range(10)]
        await asyncio.sleep(0)
        assert len(named("counted")) == 3
        go.set()
        assert await asyncio.gather(*many) == [True] * 10
        threads.close()
        while named("counted"):
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(work(), 20))


def test_what_was_given_up_is_done_all_the_same_and_disturbs_nobody() -> None:
    async def work() -> None:
        threads = DiskThreads(1, "given-up")
        go, done = threading.Event(), threading.Event()

        def slow() -> None:
            go.wait()
            done.set()

        waits = asyncio.create_task(threads.do(slow))
        await asyncio.sleep(0)
        waits.cancel()
        go.set()
        assert await threads.do(done.is_set)
        threads.close()

    asyncio.run(asyncio.wait_for(work(), 20))


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{name}-")]
