"""Results: of a pool's `imap`, one after the other. A thread takes the input, so that an input that waits, for a result perhaps, keeps no result back.

So many chunks are ahead of the reader, then the thread waits for him. It knows the results weakly: it ends when nobody has them any more.
"""

import collections
import math
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any


class _Credit:
    """How many chunks may be taken from the input now."""

    def __init__(self, number: float) -> None:
        self._changed = threading.Condition(threading.RLock())  # whose finalizer gives up may be collected while it is held
        self._left = number
        self._over = False

    def take(self) -> bool:
        """Wait for one; False when no more is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= 1 or self._over)
            self._left -= 1
            return not self._over

    def give(self, number: float = 1) -> None:
        with self._changed:
            self._left += number
            self._changed.notify_all()

    def end(self) -> None:
        """No more is wanted. Idempotent."""
        with self._changed:
            self._over = True
            self._changed.notify_all()


class Results(Iterator[Any]):
    """The results of `imap` and `imap_unordered`, with `next(timeout)`. Threads may share it: each result goes to one of them."""

    def __init__(
        self,
        submit: "Callable[[list[Any]], Future[Any]]",
        chunks: Iterator[list[Any]],
        ahead: int,
        *,
        ordered: bool,
        taken: "Callable[[Results], object]" = lambda _results: None,
    ) -> None:
        """`taken` is told when all of the input has been taken; its exceptions are results, and its end."""
        self._submit, self._ordered, self._taken = submit, ordered, taken
        self._changed = threading.Condition(threading.RLock())
        """Of the four that follow."""
        self._ready: collections.deque[Future[Any]] = collections.deque()
        """Those to be read next: in the order of the input, or in that in which they have ended."""
        self._under_way = 0
        self._here: collections.deque[Any] = collections.deque()
        self.is_taken = False
        """Whether there is no more input."""
        self._reading = threading.RLock()
        self._credit = _Credit(ahead)
        self._pid = os.getpid()
        weakref.finalize(self, self._credit.end)
        threading.Thread(target=_feed, args=(weakref.ref(self), self._credit, chunks), name="unios pool: input", daemon=True).start()

    def take_all(self) -> None:
        """Take all that is left of the input, though nobody has read so far; return when that is done."""
        self._credit.give(math.inf)
        with self._changed:
            self._changed.wait_for(lambda: self.is_taken)

    def leave(self) -> None:
        """Take no more of the input."""
        self._credit.end()
        with self._changed:
            self.is_taken = True
            self._changed.notify_all()

    def _came(self, chunk: list[Any] | None, error: BaseException | None) -> bool:
        """The next of the input, or None at its end; False if no more shall come."""
        future: Future[Any] | None = None
        if error is None and chunk is not None:
            try:
                future = self._submit(chunk)
            except Exception as failure:  # noqa: BLE001  of a pool that takes no more: it comes after the results of what came before
                error = failure
        if error is not None:
            future = Future()
            future.set_running_or_notify_cancel()
            future.set_exception(error)
        goes_on = error is None and future is not None
        with self._changed:
            if future is not None:
                self._under_way += 1
                if self._ordered:
                    self._ready.append(future)
            self.is_taken = self.is_taken or not goes_on
            self._changed.notify_all()
        if future is not None and not self._ordered:
            future.add_done_callback(self._ended)
        if not goes_on:
            self._taken(self)
        return goes_on

    def _ended(self, future: "Future[Any]") -> None:
        with self._changed:
            self._ready.append(future)
            self._changed.notify_all()

    def __iter__(self) -> "Results":
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result; StopIteration at the end, multiprocessing.TimeoutError if it is not there in time. RuntimeError in a fork of the program."""
        if self._pid != os.getpid():
            raise RuntimeError("these results belong to the program that this process was forked from")
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        if not self._reading.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise multiprocessing.TimeoutError
        try:
            while not self._here:
                self._here.extend(self._next_chunk(deadline))
            return self._here.popleft()
        finally:
            self._reading.release()

    def _next_chunk(self, deadline: float) -> list[Any]:
        def left() -> float | None:
            return None if deadline == math.inf else max(0.0, deadline - time.monotonic())

        with self._changed:
            if not self._changed.wait_for(lambda: self._ready or (self.is_taken and not self._under_way), left()):
                raise multiprocessing.TimeoutError
            if not self._ready:
                raise StopIteration
            future = self._ready[0]
        if not wait([future], left()).done:
            raise multiprocessing.TimeoutError
        with self._changed:
            self._ready.popleft()
            self._under_way -= 1
        self._credit.give()
        found: list[Any] = future.result()
        return found


def _feed(reference: "weakref.ref[Results]", credit: _Credit, chunks: Iterator[list[Any]]) -> None:
    """Be the thread that takes the input."""
    while credit.take():
        chunk: list[Any] | None = None
        error: BaseException | None = None
        try:
            chunk = next(chunks, None)
        except BaseException as failure:  # noqa: BLE001  of the input: a SystemExit in it, too, is told to who waits for the next result
            error = failure
        results = reference()
        if results is None or not results._came(chunk, error):
            return
        del results
