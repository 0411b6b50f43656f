"""Maps: a function over iterables, with results in order. So many tasks are ahead of the reader; the input is taken as results are read."""

import itertools
import operator
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future
from typing import Any

from unios.client.progress import progress
from unios.client.tasks.future import TaskFuture
from unios.limits import MAP_AHEAD_MAX, TASK_CANCEL_MS

Chunk = list[tuple[Any, ...]]
"""The arguments of several calls, that travel as one task; its result is a list."""


def results(
    give: "Callable[[Chunk], Future[Any]]",
    iterables: Sequence[Iterable[Any]],
    *,
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
    shows: bool | str,
    is_closed: Callable[[], bool],
) -> Iterator[Any]:
    """Submit the first tasks by `give` now; return the iterator. `shows`: whether, and after which words, progress is shown. ValueError.

    Where nothing is submitted any more (`is_closed`) and there is more input, a RuntimeError comes after the results of what was submitted.
    """
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and operator.index(buffersize) < 1:
        raise ValueError("buffersize must be None or > 0")
    deadline = None if timeout is None else time.monotonic() + timeout
    total = min((len(one) for one in iterables if isinstance(one, Sized)), default=None) if shows is not False else None
    chunks = _chunks(zip(*iterables, strict=False), chunksize)
    futures = deque(give(chunk) for chunk in itertools.islice(chunks, min(buffersize or MAP_AHEAD_MAX, MAP_AHEAD_MAX)))
    found = _in_order(give, futures, chunks, deadline, is_closed)
    return found if shows is False else progress(found, total, what=shows if isinstance(shows, str) else "")


def _chunks(items: Iterator[tuple[Any, ...]], size: int) -> Iterator[Chunk]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _in_order(
    give: "Callable[[Chunk], Future[Any]]",
    futures: "deque[Future[Any]]",
    chunks: Iterator[Chunk],
    deadline: float | None,
    is_closed: Callable[[], bool],
) -> Iterator[Any]:
    try:
        while futures:
            future = futures.popleft()
            try:
                result = future.result(None if deadline is None else deadline - time.monotonic())
            except BaseException:
                future.cancel()
                raise
            del future
            if (chunk := next(chunks, None)) is not None:
                if is_closed():
                    chunks = iter(())
                    futures.append(_refused())
                else:
                    futures.append(give(chunk))
            result.reverse()
            while result:
                yield result.pop()
    finally:
        _leave(futures)


def _leave(futures: "Iterable[Future[Any]]") -> None:
    """Cancel what nobody reads any more. Where a worker may have begun it that is asked of all at once, and waited for no longer than for one."""
    for future in futures:
        if isinstance(future, TaskFuture):
            future.forgo()
        else:
            future.cancel()
    until = 0.0
    for future in futures:
        if isinstance(future, TaskFuture) and future.lies_ahead:
            now = time.monotonic()
            until = until or now + TASK_CANCEL_MS / 1000
            if now < until:
                future.cancel()


def _refused() -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    future.set_exception(RuntimeError("the executor was shut down before all of the map's input was taken: read its results before"))
    return future
