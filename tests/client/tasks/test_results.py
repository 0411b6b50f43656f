"""Results of a pool's `imap`, over threads of this process: who takes the input, how far, and who gets what."""

import gc
import itertools
import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.system import wait_for
from unios.client.tasks.results import Results

pytestmark = pytest.mark.timeout(30)
both = pytest.mark.parametrize("ordered", [True, False])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def squares(threads: ThreadPoolExecutor, items: Iterator[int], ahead: int = 2, **options: Any) -> Results:
    chunks = iter(lambda: list(itertools.islice(items, 1)), [])
    return Results(lambda chunk: threads.submit(lambda: [x * x for x in chunk]), chunks, ahead, **{"ordered": True, **options})


@both
def test_an_input_that_waits_for_a_result_gets_it(threads: ThreadPoolExecutor, ordered: bool) -> None:
    came = threading.Event()

    def items() -> Iterator[int]:
        yield 3
        assert came.wait(20)
        yield 4

    results = squares(threads, items(), ahead=8, ordered=ordered)
    assert results.next(20) == 9
    came.set()
    assert list(results) == [16]


def test_the_input_is_taken_as_results_are_read_and_all_of_it_when_that_is_asked(threads: ThreadPoolExecutor) -> None:
    taken: list[int] = []
    results = squares(threads, (taken.append(x) or x for x in range(50)), ahead=3)  # type: ignore[func-returns-value]
    wait_for(lambda: len(taken), lambda number: number >= 3, "as much is taken as may be ahead")
    assert results.next(20) == 0
    wait_for(lambda: len(taken), lambda number: number >= 4, "another one is taken")
    assert len(taken) == 4 and not results.is_taken
    results.take_all()
    assert len(taken) == 50 and results.is_taken
    assert list(results) == [x * x for x in range(1, 50)]


@both
def test_what_is_not_taken_any_more_ends_the_results_after_those_that_came(threads: ThreadPoolExecutor, ordered: bool) -> None:
    def submit(chunk: list[int]) -> "Future[Any]":
        if chunk == [2]:
            raise RuntimeError("it takes no more")
        return threads.submit(lambda: chunk)

    results = Results(submit, iter([[0], [1], [2], [3]]), 1, ordered=ordered)
    assert results.next(20) == 0 and results.next(20) == 1
    with pytest.raises(RuntimeError, match="takes no more"):
        results.next(20)
    with pytest.raises(StopIteration):
        results.next(20)


@both
def test_an_input_that_ends_its_thread_is_told_and_nobody_waits_for_more(threads: ThreadPoolExecutor, ordered: bool) -> None:
    def items() -> Iterator[int]:
        yield 3
        raise SystemExit("enough")

    results = squares(threads, items(), ordered=ordered)
    assert results.next(20) == 9
    with pytest.raises(SystemExit, match="enough"):
        results.next(20)
    with pytest.raises(StopIteration):
        results.next(20)
    results.take_all()


def test_who_leaves_reads_what_came_and_the_end(threads: ThreadPoolExecutor) -> None:
    results = squares(threads, itertools.count())
    assert results.next(20) == 0
    results.leave()
    assert list(results)[:1] in ([1], [])
    with pytest.raises(StopIteration):
        results.next(0)


@both
def test_threads_that_share_results_get_each_of_them_once(threads: ThreadPoolExecutor, ordered: bool) -> None:
    results = squares(threads, iter(range(500)), ahead=4, ordered=ordered)
    found: list[int] = []
    readers = [threading.Thread(target=lambda: found.extend(results)) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(20)
    assert sorted(found) == [x * x for x in range(500)]


def test_a_reader_that_waits_for_another_has_its_timeout(threads: ThreadPoolExecutor) -> None:
    never: Future[Any] = Future()
    results = Results(lambda _chunk: never, iter([[1]]), 1, ordered=True)
    reader = threading.Thread(target=lambda: results.next(20))
    reader.start()
    wait_for(lambda: results._reading.acquire(blocking=False) and results._reading.release(), lambda got: got is False, "the other reads")  # type: ignore[func-returns-value]
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(0.01)
    never.set_result([1])
    reader.join(20)
    assert not reader.is_alive()


def test_results_that_nobody_has_any_more_leave_no_thread_and_end_their_input(threads: ThreadPoolExecutor) -> None:
    ended = threading.Event()
    taken: list[int] = []

    def items() -> Iterator[int]:
        try:
            for number in itertools.count():
                taken.append(number)
                yield number
        finally:
            ended.set()

    results = squares(threads, items(), ahead=2)
    assert results.next(20) == 0
    wait_for(lambda: len(taken), lambda number: number == 3, "it waits for its reader")
    del results
    gc.collect()
    assert ended.wait(20)
    wait_for(threading.enumerate, lambda now: all(thread.name != "unios pool: input" for thread in now), "its thread has ended")


@pytest.mark.parametrize("ordered", [True, False])
def test_a_result_that_is_not_there_in_time_is_said_so_and_is_had_later(ordered: bool) -> None:
    late: Future[Any] = Future()
    results = Results(lambda _chunk: late, iter([[1]]), 1, ordered=ordered)
    for _ in range(2):
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(0.01)
    late.set_result(["late"])
    assert results.next(20) == "late"
    with pytest.raises(StopIteration):
        results.next(20)


def test_a_fork_of_the_program_does_not_wait_for_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(lambda _chunk: Future(), iter([[1]]), 1, ordered=True)
    monkeypatch.setattr(results, "_pid", 1)
    with pytest.raises(RuntimeError, match="belong to the program that this process was forked from"):
        results.next(0.01)
