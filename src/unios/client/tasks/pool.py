"""Pool: what `multiprocessing.Pool` offers, over the nodes of the system."""

import collections
import itertools
import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, as_completed
from functools import partial
from typing import Any

from unios.client.progress import progress
from unios.client.tasks import living
from unios.client.tasks.executor import Executor
from unios.client.tasks.results import Results

_CHUNKS_PER_WORKER = 4
"""As the standard library divides a map whose chunk size is not given."""
_AHEAD = 4
"""Chunks for each worker that `imap` has ahead of its reader."""


class AsyncResult:
    """What will come of one or more tasks: a list of chunks, or with `single` the value of one."""

    def __init__(
        self,
        futures: "list[Future[Any]]",
        single: bool,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._futures, self._single, self._callback, self._error_callback = futures, single, callback, error_callback
        self._left = len(futures)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        for future in futures:
            future.add_done_callback(self._ended)
        if not futures:
            self._finish()

    def _ended(self, future: "Future[Any]") -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._finish()

    def _finish(self) -> None:
        errors = [error for future in self._futures if (error := _error_of(future)) is not None]
        if errors:
            self._error = errors[0]
        elif self._single:
            self._value = self._futures[0].result()
        else:
            self._value = list(itertools.chain.from_iterable(future.result() for future in self._futures))
        self._futures = []
        try:
            if self._error is not None:
                if self._error_callback is not None:
                    self._error_callback(self._error)
            elif self._callback is not None:
                self._callback(self._value)
        finally:
            self._done.set()

    def ready(self) -> bool:
        return self._done.is_set()

    def successful(self) -> bool:
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        self._done.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Return the value, or raise what the task raised; multiprocessing.TimeoutError if it is not there in time."""
        if not self._done.wait(timeout):
            raise multiprocessing.TimeoutError
        if self._error is not None:
            raise self._error
        return self._value


def _error_of(future: "Future[Any]") -> BaseException | None:
    try:
        return future.exception()
    except BaseException as error:  # noqa: BLE001  it was cancelled
        return error


def _each(function: Callable[..., Any], star: bool, chunk: list[Any]) -> list[Any]:
    return [function(*one) for one in chunk] if star else [function(one) for one in chunk]


class Pool:
    """Worker processes on the nodes of a system; further options are those of `Executor`."""

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **options: Any,
    ) -> None:
        """Have `processes` workers, by default as many as the ready nodes have cores; one that has had `maxtasksperchild` tasks (chunks) is replaced."""
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and maxtasksperchild < 1:
            raise ValueError("maxtasksperchild must be a positive int or None")
        self._executor = Executor(processes, initializer, tuple(initargs), max_tasks_per_child=maxtasksperchild, **options)
        living.kill_at_end(self._executor._engine)
        self._state = "RUN"
        self._lock = threading.RLock()
        """Of the state, and of what follows."""
        self._untaken: set[Results] = set()
        """Those of whose input there is more."""

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def _check(self) -> None:
        if self._state != "RUN":
            raise ValueError("Pool not running")

    def _chunks(self, iterable: Iterable[Any], chunksize: int | None) -> Iterator[list[Any]]:
        if chunksize is not None and chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        if chunksize is None:
            items = list(iterable)
            chunksize = max(1, -(-len(items) // (self._executor.workers() * _CHUNKS_PER_WORKER)))
            iterable = items
        source = iter(iterable)
        return iter(lambda: list(itertools.islice(source, chunksize)), [])

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] | None = None) -> Any:
        """Call it in a worker; return what it returns."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        self._check()
        return AsyncResult([self._executor.submit(func, *args, **(kwds or {}))], True, callback, error_callback)

    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None, *, progress: bool | str = False) -> list[Any]:
        """Return what it returns for each, in order. `progress` shows how many are done (`unios.progress`), after its words if it is a text."""
        return list(self._all(func, False, iterable, chunksize, shows=progress).get())

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        return self._all(func, False, iterable, chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None, *, progress: bool | str = False
    ) -> list[Any]:
        """As `map`, each item being the arguments of one call."""
        return list(self._all(func, True, iterable, chunksize, shows=progress).get())

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        return self._all(func, True, iterable, chunksize, callback, error_callback)

    def _all(
        self,
        func: Callable[..., Any],
        star: bool,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        shows: bool | str = False,
    ) -> AsyncResult:
        self._check()
        work = partial(_each, func, star)
        sizes: dict[Future[Any], int] = {}
        for chunk in self._chunks(iterable, chunksize):
            sizes[self._executor.submit(work, chunk)] = len(chunk)
        found = AsyncResult(list(sizes), False, callback, error_callback)
        if shows is not False:
            done = (None for future in as_completed(sizes) for _ in range(sizes[future]))
            collections.deque(progress(done, sum(sizes.values()), what=shows if isinstance(shows, str) else ""), maxlen=0)
        return found

    def imap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> Results:
        """As `map`, one result after the other. A thread takes the input, no further ahead of the reader than keeps the workers busy. To show how many have
        come: `unios.progress(pool.imap(...), total)`."""
        return self._some(func, iterable, chunksize, ordered=True)

    def imap_unordered(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> Results:
        """As `imap`, in the order in which they come."""
        return self._some(func, iterable, chunksize, ordered=False)

    def _some(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int, *, ordered: bool) -> Results:
        self._check()
        work = partial(_each, func, False)
        chunks, ahead = self._chunks(iterable, chunksize), _AHEAD * self._executor.workers()
        results = Results(lambda chunk: self._executor.submit(work, chunk), chunks, ahead, ordered=ordered, taken=self._all_taken)
        with self._lock:
            if not results.is_taken:
                self._untaken.add(results)
        return results

    def _all_taken(self, results: Results) -> None:
        with self._lock:
            self._untaken.discard(results)
            if self._state == "CLOSE" and not self._untaken:
                self._executor.shutdown(wait=False)

    def close(self) -> None:
        """Take no more tasks but those of an `imap` that has begun, whose input goes on to be taken as its results are read."""
        with self._lock:
            if self._state == "RUN":
                self._state = "CLOSE"
                if not self._untaken:
                    self._executor.shutdown(wait=False)

    def terminate(self) -> None:
        """Take no more tasks, cancel those that have not begun, and kill the workers: what they do fails with ExecutorBroken."""
        with self._lock:
            self._state = "TERMINATE"
            untaken, self._untaken = self._untaken, set()
        for results in untaken:
            results.leave()
        self._executor.kill_workers()

    def join(self) -> None:
        """Wait until all is done and the workers have ended: what is left of the input of an `imap` is taken now. ValueError before `close` or `terminate`."""
        if self._state == "RUN":
            raise ValueError("Pool is still running")
        with self._lock:
            untaken = list(self._untaken)
        for results in untaken:
            results.take_all()
        self._executor.shutdown()

    def __enter__(self) -> "Pool":
        self._check()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.terminate()
