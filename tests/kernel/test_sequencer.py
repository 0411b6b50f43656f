"""Sequencer: the loop runs by priority, looks for arrivals between two steps of a flood, and stays asyncio's. Counted in steps, never in time."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from unios.core.sequences import BEAT, CALL, FEED, HOUSEKEEPING, OUTPUT, SIGNAL
from unios.kernel import sequencer
from unios.kernel.sequencer import SWITCH, SequencedLoop
from unios.wire.chained import LINKS_MAX, ChainedLoop
from unios.wire.running import PRIORITISED, RUNNING, become, context_of, in_sequence

T = TypeVar("T")


def sequenced(work: Callable[[], Awaitable[T]], *, prioritised: bool = True) -> T:
    """Run `work` in a loop as the kernel's."""

    async def main() -> T:
        async with asyncio.timeout(20):
            return await work()

    with asyncio.Runner(loop_factory=lambda: SequencedLoop(prioritised=prioritised)) as runner:
        return runner.run(main())


async def flood_and_signal() -> int:
    """Return how many steps of a flood run between the moment when a signal can be read and the moment when it is."""
    read, write = os.pipe()
    steps, at_write, stop = 0, 0, False
    signalled: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def flood(first: bool) -> None:
        nonlocal steps, at_write
        while not stop:
            steps += 1
            if first and steps > 100 and not at_write:
                at_write = steps
                os.write(write, b"!")
            await asyncio.sleep(0)

    in_sequence(SIGNAL, asyncio.get_running_loop().add_reader, read, lambda: signalled.done() or signalled.set_result(steps))
    floods = [asyncio.create_task(flood(n == 0), context=context_of(OUTPUT)) for n in range(50)]
    become(SIGNAL)
    seen = await signalled
    stop = True
    await asyncio.gather(*floods)
    asyncio.get_running_loop().remove_reader(read)
    os.close(read)
    os.close(write)
    return seen - at_write


def test_what_arrives_preempts_a_flood_of_many_streams_at_its_next_step() -> None:
    assert sequenced(flood_and_signal) <= 1


def test_without_sequences_it_waits_until_each_stream_has_had_its_turn() -> None:
    assert sequenced(flood_and_signal, prioritised=False) >= 40


def test_the_order_of_what_is_ready_is_that_of_the_sequences() -> None:
    async def work() -> list[int]:
        ran: list[int] = []
        loop = asyncio.get_running_loop()
        for sequence in (OUTPUT, CALL, HOUSEKEEPING, BEAT, SIGNAL):
            loop.call_soon(ran.append, sequence, context=context_of(sequence))
        become(HOUSEKEEPING)
        while len(ran) < 5:
            await asyncio.sleep(0)
        return ran

    assert sequenced(work) == [BEAT, SIGNAL, CALL, OUTPUT, HOUSEKEEPING]
    assert sequenced(work, prioritised=False) == [OUTPUT, CALL, HOUSEKEEPING, BEAT, SIGNAL]


def test_between_two_awaits_a_stretch_is_never_broken() -> None:
    async def work() -> bool:
        inside, broken = False, False

        async def urgent() -> None:
            nonlocal broken
            for _ in range(200):
                broken = broken or inside
                await asyncio.sleep(0)

        async def protected() -> None:
            nonlocal inside
            for _ in range(50):
                inside = True
                for _ in range(20):
                    asyncio.get_running_loop().call_soon(lambda: None, context=context_of(BEAT))
                inside = False
                await asyncio.sleep(0)

        await asyncio.gather(
            asyncio.create_task(urgent(), context=context_of(BEAT)), asyncio.create_task(protected(), context=context_of(HOUSEKEEPING))
        )
        return broken

    assert not sequenced(work)


def test_tasks_timers_and_callbacks_inherit_the_sequence_that_they_were_made_in() -> None:
    async def work() -> list[int]:
        found: list[int] = []

        async def child() -> None:
            found.append(RUNNING.get())
            await asyncio.sleep(0.001)
            found.append(RUNNING.get())
            asyncio.get_running_loop().call_later(0, lambda: found.append(RUNNING.get()))
            await asyncio.create_task(grandchild())

        async def grandchild() -> None:
            found.append(RUNNING.get())
            become(OUTPUT)
            await asyncio.sleep(0)
            found.append(RUNNING.get())

        await asyncio.create_task(child(), context=context_of(SIGNAL))
        while len(found) < 5:
            await asyncio.sleep(0)
        return sorted([*found, RUNNING.get()])

    assert sequenced(work) == [SIGNAL, SIGNAL, SIGNAL, SIGNAL, CALL, OUTPUT]


def test_callbacks_from_other_threads_all_arrive() -> None:
    async def work() -> int:
        loop, count, done = asyncio.get_running_loop(), 0, asyncio.Event()

        def arrived() -> None:
            nonlocal count
            count += 1
            if count == 4_000:
                done.set()

        threads = [threading.Thread(target=lambda: [loop.call_soon_threadsafe(arrived) for _ in range(1_000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        await done.wait()
        for thread in threads:
            thread.join()
        return count

    assert sequenced(work) == 4_000


def rounds_of(loop: asyncio.AbstractEventLoop, links: int, background: int = 0) -> int:
    """Return how often a loop looks at its descriptors while a chain of callbacks runs, each of which makes the next ready, and then so many of a flood."""
    looks = 0
    select = loop._selector.select  # type: ignore[attr-defined]

    def counting(timeout: float | None) -> object:
        nonlocal looks
        looks += 1
        return select(timeout)

    def link(left: int) -> None:
        if left:
            loop.call_soon(link, left - 1)
        elif not background:
            loop.stop()

    def flood(left: int) -> None:
        if left == 0:
            loop.stop()

    loop._selector.select = counting  # type: ignore[attr-defined]
    for number in reversed(range(background)):
        loop.call_soon(flood, number, context=context_of(OUTPUT))
    loop.call_soon(link, links)
    try:
        loop.run_forever()
    finally:
        loop._selector.select = select  # type: ignore[attr-defined]
        loop.close()
    return looks


def test_a_chain_of_callbacks_runs_without_a_look_between_each_two_and_not_for_ever() -> None:
    plain = rounds_of(asyncio.SelectorEventLoop(), 50)
    for loop in (ChainedLoop(), SequencedLoop()):
        looks = rounds_of(loop, 50)
        assert 51 / (1 + LINKS_MAX) <= looks <= 51 / (1 + LINKS_MAX) + 2 < plain
    assert rounds_of(SequencedLoop(), 0, background=20) >= 20  # a chain takes nothing of a flood along


def test_the_switch_is_on_unless_it_says_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        found.append((PRIORITISED.get(), type(asyncio.get_running_loop())))

    found: list[tuple[bool, type]] = []
    monkeypatch.delenv(SWITCH, raising=False)
    sequencer.run(main())
    monkeypatch.setenv(SWITCH, "off")
    sequencer.run(main())
    PRIORITISED.set(True)
    assert found == [(True, SequencedLoop), (False, SequencedLoop)]


def test_descriptors_that_stay_ready_do_not_pile_up_while_their_sequences_wait() -> None:
    async def work() -> list[int]:
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        runs = [0, 0]

        def ran(which: int) -> None:
            runs[which] += 1  # and takes nothing away: the descriptor stays ready
            if sum(runs) == 2_000:  # so long the task below does not wait
                loop.remove_writer(write)
                loop.remove_reader(read)

        os.write(write, b"!")
        in_sequence(FEED, loop.add_writer, write, ran, 0)
        in_sequence(OUTPUT, loop.add_reader, read, ran, 1)
        become(HOUSEKEEPING)
        for _ in range(20):
            await asyncio.sleep(0)
        waiting = loop._ready._sequences.count  # type: ignore[attr-defined]
        loop.remove_writer(write)
        loop.remove_reader(read)
        os.close(read)
        os.close(write)
        return [waiting, *runs]

    waiting, feeds, outputs = sequenced(work)
    assert waiting <= 3 and feeds > outputs > 0 and feeds + outputs < 2_000
