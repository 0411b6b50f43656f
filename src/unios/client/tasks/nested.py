"""Nested: the executor as its own tasks have it. What a task submits goes to the caller's executor; the answer comes back to the worker.

While a task waits for what it has submitted, another worker works in its stead: nothing waits in a ring.
"""

import contextlib
import itertools
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor as Standard
from concurrent.futures import Future
from typing import Any

from unios.client.tasks import maps
from unios.client.tasks.calls import no_room
from unios.client.tasks.cargo import load, part_with
from unios.client.tasks.functions import Functions
from unios.client.tasks.future import TaskFuture
from unios.client.tasks.losses import WorkerLost
from unios.client.tasks.talk import Talk
from unios.client.tasks.values import unpack, unpack_failure
from unios.errors import Misused
from unios.wire.parcels import Answer, Head, Part, Submit, Withdraw, Withdrawn, is_short, sizes_of


class Seat:
    """The worker's connection as the executor inside it uses it. Once a task has submitted something, a thread hears what comes and sorts it."""

    def __init__(self, talk: Talk, key: str) -> None:
        """`key`: the name of the executor's port."""
        self._talk, self.key, self._pid = talk, key, os.getpid()
        self._hearing = threading.Lock()
        self.turn = 0
        self._numbers = itertools.count(1)
        self._futures: dict[int, tuple[TaskFuture, Sequence[Any]]] = {}
        """What is awaited, and the references to objects that are under way with it."""
        self._withdrawn: dict[int, threading.Event] = {}
        """What somebody waits to hear whether it is cancelled."""
        self._tasks: queue.SimpleQueue[tuple[Head, list[Part]] | None] | None = None
        self._lock = threading.Lock()
        self.functions = Functions()

    def hear(self) -> tuple[Head, list[Part]] | None:
        """Return the next message that is not an answer to what was submitted here; None at the end."""
        while self._tasks is None:
            with self._hearing:
                heard = self._talk.hear()
            if heard is None or not self._settle(*heard):
                return heard
        return self._tasks.get()

    def submit(self, function: Callable[..., Any], arguments: object, *, many: bool, retries: int) -> "Future[Any]":
        """Submit a task under the one that runs. RuntimeError in a process that it has forked."""
        if self.forked:
            raise RuntimeError("this executor belongs to the task that this process was forked from: it cannot be used here")
        future = TaskFuture()
        try:
            pickled = self.functions.pickled(function)
            loaded, refs = load(arguments, "the arguments")
            parts = [pickled.body, *loaded]
        except Exception as error:  # noqa: BLE001
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            return future
        with self._lock:
            if self._tasks is None:
                self._tasks = queue.SimpleQueue()
                threading.Thread(target=self._sort, args=(self._tasks,), name="unios tasks", daemon=True).start()
            number = next(self._numbers)
            self._futures[number] = future, (*pickled.refs, *refs)
        future.bind(number, self)
        future.lie_ahead()  # where it is the executor knows
        self._talk.say(Submit(sizes_of(parts), number, pickled.digest, many, retries), parts)
        return future

    @property
    def forked(self) -> bool:
        return os.getpid() != self._pid

    def take_back(self, future: TaskFuture) -> None:
        """That of `Keeper`, as the next ones. Waits for the executor, which answers by its own deadline."""
        if self.forked:
            return
        decided = self._withdrawn.setdefault(future.id, threading.Event())
        with contextlib.suppress(OSError):  # `_sort` sees the end
            self._talk.say(Withdraw((), future.id))
        if future.done():
            self._decided(future.id)
        decided.wait()

    def forgone(self, future: TaskFuture) -> None:
        if not self.forked:
            self._talk.say_soon(Withdraw((), future.id))

    withdrawn = disowned = forgone

    def _decided(self, number: int) -> None:
        decided = self._withdrawn.pop(number, None)
        if decided is not None:
            decided.set()

    def _sort(self, tasks: "queue.SimpleQueue[tuple[Head, list[Part]] | None]") -> None:
        while True:
            with self._hearing:
                heard = self._talk.hear()
            if heard is None:
                break
            if not self._settle(*heard):
                tasks.put(heard)
        tasks.put(None)
        for future, _refs in self._futures.values():
            future.set_exception(WorkerLost("the connection to the executor has ended", "connection"))
        for number in list(self._withdrawn):
            self._decided(number)

    def _settle(self, head: Head, parts: list[Part]) -> bool:
        """Give an answer to whoever waits for it; whether it was one."""
        if isinstance(head, Withdrawn):
            if head.cancelled:
                future, refs = self._futures.pop(head.number, (None, ()))
                part_with(refs)
                if future is not None:
                    future.let_go()
                    future.may_go()
                    future.dropped()
            self._decided(head.number)
            return True
        if not isinstance(head, Answer):
            return False
        future, refs = self._futures.pop(head.turn, (None, ()))
        part_with(refs)
        if future is not None:
            try:
                if is_short(head, parts):
                    future.set_exception(no_room("what came of the call, which was carried out", head))
                elif head.failed:
                    future.set_exception(unpack_failure(parts))
                else:
                    future.set_result(unpack(parts))
            except BaseException as error:  # noqa: BLE001  whatever unpickling raises is the outcome
                future.set_exception(error)
        if self._withdrawn:
            self._decided(head.turn)
        return True


_seat: Seat | None = None
own: "weakref.WeakValueDictionary[str, Standard]" = weakref.WeakValueDictionary()
"""The executors that this process has made, by the names of their ports."""


def sit(seat: Seat) -> None:
    """This process is a worker from now on."""
    global _seat
    _seat = seat


def inside() -> bool:
    """Whether this process is a worker."""
    return _seat is not None


class Inner(Standard):
    """What an `Executor` is inside its own tasks: submits to it."""

    def __init__(self, key: str, retries: int) -> None:
        self._key, self._retries = key, retries

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int]]:
        return inner, (self._key, self._retries)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        return self._seat().submit(fn, (args, kwargs), many=False, retries=self._retries)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: bool | str = False,
    ) -> Iterator[Any]:
        """As that of `Executor`. What it shows is seen where the worker's stderr is, which is no terminal."""
        seat = self._seat()
        return maps.results(
            lambda chunk: seat.submit(fn, chunk, many=True, retries=self._retries),
            iterables,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            shows=progress,
            is_closed=lambda: False,
        )

    def _seat(self) -> Seat:
        if _seat is None or _seat.key != self._key:
            raise Misused("this executor can be used by the program that made it, and by its own tasks")
        return _seat

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing: the executor is the caller's."""


def inner(key: str, retries: int) -> Standard:
    """Return the executor of a pickled reference."""
    return own.get(key) or Inner(key, retries)
