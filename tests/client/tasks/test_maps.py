"""Maps and the results of pools, over threads of this process: their order, their bounds, their ends, and what they show."""

import itertools
import multiprocessing
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from unios.client import progress as shown
from unios.client.tasks import maps
from unios.client.tasks.future import TaskFuture
from unios.client.tasks.results import Results
from unios.limits import TASK_CANCEL_MS


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def square(x: int) -> int:
    return x * x


def a_map(threads: ThreadPoolExecutor, *iterables: Any, function: Callable[..., Any] = square, **options: Any) -> Iterator[Any]:
    wanted: dict[str, Any] = {"timeout": None, "chunksize": 1, "buffersize": None, "shows": False, "is_closed": lambda: False, **options}
    return maps.results(lambda chunk: threads.submit(lambda: [function(*one) for one in chunk]), iterables, **wanted)


def test_results_come_in_order_whatever_the_chunks_and_the_buffer(threads: ThreadPoolExecutor) -> None:
    for chunksize, buffersize in itertools.product((1, 3, 100), (None, 1, 4)):
        assert list(a_map(threads, range(20), chunksize=chunksize, buffersize=buffersize)) == [x * x for x in range(20)]
    assert list(a_map(threads, [2, 3], [5, 6, 7], function=pow)) == [32, 729] and list(a_map(threads, [])) == []
    for wrong in ({"chunksize": 0}, {"buffersize": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            a_map(threads, [1], **wrong)


def test_no_more_of_the_input_is_taken_than_is_ahead(threads: ThreadPoolExecutor) -> None:
    taken = itertools.count()
    results = a_map(threads, taken, buffersize=3, chunksize=2)
    assert next(taken) == 6  # the test takes that one
    assert next(results) == 0 and next(taken) == 9


def test_a_shutdown_before_all_of_the_input_was_taken_is_no_end_of_the_results(threads: ThreadPoolExecutor) -> None:
    closed = False
    results = a_map(threads, range(9), buffersize=3, is_closed=lambda: closed)
    closed = True
    assert list(itertools.islice(results, 3)) == [0, 1, 4]
    with pytest.raises(RuntimeError, match="before all of the map's input was taken"):
        next(results)
    all_taken = a_map(threads, range(3), buffersize=3, is_closed=lambda: closed)
    assert list(all_taken) == [0, 1, 4]


def test_what_was_not_read_is_cancelled() -> None:
    futures: list[Future[Any]] = []

    def give(_chunk: object) -> "Future[Any]":
        futures.append(Future())
        return futures[-1]

    results = maps.results(give, (range(5),), timeout=0.0, chunksize=1, buffersize=None, shows=False, is_closed=lambda: False)
    with pytest.raises(TimeoutError):
        next(results)
    assert len(futures) == 5 and all(future.cancelled() for future in futures)


def test_what_a_map_shows_is_how_many_of_how_many_were_read(threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, int, int | None]] = []

    def screen(what: str) -> object:
        return types.SimpleNamespace(
            draw=lambda done, total, _s: drawn.append((what, done, total)), end=lambda done, total, _s: drawn.append((what, done, total))
        )

    monkeypatch.setattr(shown, "_screen", screen)
    assert list(a_map(threads, range(4), [1] * 9, function=pow, shows="powers")) == [0, 1, 2, 3]
    assert drawn[0] == ("powers", 0, 4) and drawn[-1] == ("powers", 4, 4)
    assert list(a_map(threads, iter(range(4)), shows=True)) == [0, 1, 4, 9] and drawn[-1] == ("", 4, None)
    drawn.clear()
    assert list(a_map(threads, range(4))) == [0, 1, 4, 9] and not drawn


def failing() -> Iterator[list[int]]:
    yield [1]
    yield [2]
    raise LookupError("the input ends badly")


@pytest.mark.parametrize("ordered", [True, False])
def test_an_input_that_fails_costs_no_result_of_what_came_before(threads: ThreadPoolExecutor, ordered: bool) -> None:
    results = Results(lambda chunk: threads.submit(lambda: list(map(square, chunk))), failing(), 1, ordered=ordered)
    assert results.next(10) == 1 and results.next(10) == 4
    with pytest.raises(LookupError, match="ends badly"):
        results.next(10)
    with pytest.raises(StopIteration):
        results.next(10)


def test_who_asks_again_and_again_whether_a_result_is_there_leaves_nothing_behind() -> None:
    future: Future[Any] = Future()
    results = Results(lambda _chunk: future, iter([[1]]), 1, ordered=True)
    for _ in range(100):
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(0)
    assert not future._done_callbacks and not future._waiters  # type: ignore[attr-defined]
    future.set_result(["there"])
    assert results.next(0) == "there"


def test_the_timeout_counts_from_the_call_for_all_results_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            waited.append(timeout)
            return [1]

    waited: list[float | None] = []
    now = iter((100.0, 101.0, 104.0, 107.0))
    monkeypatch.setattr(maps, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    results = maps.results(lambda _chunk: Asked(), [range(3)], timeout=5, chunksize=1, buffersize=None, shows=False, is_closed=lambda: False)
    assert list(results) == [1, 1, 1] and waited == [4, 1, -2]


def test_what_lies_at_workers_when_a_map_is_left_is_asked_for_at_once_and_waited_for_as_long_as_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    now = [0.0]

    class Keeper:
        """An engine that decides nothing."""

        forked = False

        def forgone(self, future: TaskFuture) -> None:
            asked.append(("forgone", future.id))

        def take_back(self, future: TaskFuture) -> None:
            asked.append(("waited for", future.id))
            now[0] += TASK_CANCEL_MS / 1000

        withdrawn = disowned = forgone

    futures: list[Future[Any]] = []

    def give(_chunk: object) -> "Future[Any]":
        future = TaskFuture()
        future.bind(len(futures), Keeper())
        if futures:
            future.lie_ahead()
        futures.append(future)
        return future

    monkeypatch.setattr(maps.time, "monotonic", lambda: now[0])
    results = maps.results(give, (range(4),), timeout=0.0, chunksize=1, buffersize=None, shows=False, is_closed=lambda: False)
    with pytest.raises(TimeoutError):
        next(results)
    assert [word for word, id_ in asked if id_ > 0].count("forgone") == 3
    assert [id_ for word, id_ in asked if word == "waited for"] == [1]
    assert futures[0].cancelled()
