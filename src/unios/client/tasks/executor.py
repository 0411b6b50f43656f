"""Executor: `concurrent.futures` over the nodes of the system.

As the standard library's process pool, with these differences: a worker that dies fails, or retries, its own call and no other, and is replaced; functions
go by cloudpickle, so that lambdas, closures and what is defined interactively work; a task can be cancelled until it has begun; its own tasks may submit to
it and wait for that.
"""

import itertools
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor as Standard
from concurrent.futures import Future
from functools import partial
from types import ModuleType
from typing import Any, Final

from unios.client.connection import Connection
from unios.client.embedded import system
from unios.client.tasks import living, nested, proofs
from unios.client.tasks.calls import Call
from unios.client.tasks.engine import Engine
from unios.client.tasks.functions import Functions, Pickled
from unios.client.tasks.future import TaskFuture
from unios.client.tasks.steward import Steward, Wishes, python, user
from unios.client.tasks.values import pack
from unios.demands import CPU_MILLI_DEFAULT, PRIORITY_DEFAULT, Placing, Queueing
from unios.limits import MAP_AHEAD_MAX, WORKERS_MAX

_MODULES_MAX: Final = 64


class Executor(Standard):
    """Worker processes on the nodes of a system. Use `with`, or `shutdown` it; at the end of the program it is shut down."""

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[object, ...] = (),
        *,
        retries: int = 0,
        cpus: float | None = None,
        memory: int = 0,
        devices: Iterable[str] = (),
        node: str = "",
        label: str = "",
        policy: str = "",
        near: Iterable[str] = (),
        apart: Iterable[str] = (),
        forbidden: Iterable[str] = (),
        priority: int = PRIORITY_DEFAULT,
        env: Mapping[str, str] | None = None,
        interpreter: str = "",
        home: "os.PathLike[str] | str | None" = None,
    ) -> None:
        """Have `max_workers` workers, by default as many as the ready nodes have cores.

        `initializer(*initargs)` is called in each; if it fails the executor is broken. `retries`: so often a call is made again whose worker was lost
        (a call that had not begun always is); an exception that it raises is its outcome. For each worker `cpus` (1) and `memory` (bytes) are set aside and
        `devices` given; `node`, `policy`, `near`, `apart`, `forbidden`, `label` and `priority` are those of `unios run`. `env`: what workers find in their
        environment beside what this program has in its own. `interpreter`: their Python, by default this one's path. Raises ValueError, TypeError,
        PicklingError; what concerns the system comes with the futures.
        """
        if max_workers is not None and not 1 <= max_workers <= WORKERS_MAX:
            raise ValueError(f"max_workers must be from 1 to {WORKERS_MAX}")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if retries < 0 or memory < 0 or (cpus is not None and cpus < 0):
            raise ValueError("retries, memory and cpus cannot be below 0")
        modest = nested.inside() or "UNIOS_PID" in os.environ
        milli = 0 if nested.inside() and cpus is None else CPU_MILLI_DEFAULT if cpus is None else round(cpus * 1000)
        wishes = Wishes(
            milli,
            memory,
            tuple(devices),
            node,
            Placing(policy=policy, forbidden=tuple(forbidden), near=tuple(near), apart=tuple(apart), label=label),
            Queueing(priority=priority),
            interpreter or python(),
            dict(env or {}),
        )
        self._retries = retries
        self._functions = Functions()
        self._functions_lock = threading.RLock()
        self._port = f"executor/{os.urandom(8).hex()}"
        self._shut = False
        setup = {"path": [path or os.getcwd() for path in sys.path], "argv": list(sys.argv), "modules": imported()}
        secret = proofs.new_secret()
        initial = pack((initializer, initargs), "the initializer", copy=True) if initializer is not None else []
        self._engine = Engine(workers=max_workers, user=user(), secret=secret, setup=pack(setup, "the setup"), initializer=initial)
        steward = Steward(
            Connection(system().home if home is None else os.fspath(home), role="executor"), self._engine, self._port, secret, wishes, modest=modest
        )
        nested.own[self._port] = self
        living.begin(self._engine, steward, max_workers, weakref.ref(self, partial(living.forgotten, self._engine)))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int]]:
        return nested.inner, (self._port, self._retries)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Have `fn(*args, **kwargs)` called by a worker. What cannot be pickled is the future's exception at once.

        RuntimeError after `shutdown` or in a fork of the program, ExecutorBroken if the executor cannot go on. Waits while TASKS_UNFINISHED_MAX tasks have
        not ended.
        """
        self._check()
        future = TaskFuture()
        try:
            with self._functions_lock:
                pickled = self._functions.pickled(fn)
            parts = pack((args, kwargs), "the arguments", copy=True)
        except Exception as error:  # noqa: BLE001  the standard library has it on the future too
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            return future
        self._engine.submit(Call(future, pickled.digest, pickled.body, parts, False, self._retries))
        return future

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1, buffersize: int | None = None
    ) -> Iterator[Any]:
        """Return an iterator over `fn` of each, in order. `chunksize` of them travel as one task.

        At most `buffersize` tasks, and never more than MAP_AHEAD_MAX, are ahead of what has been read; those are submitted at once. TimeoutError if a
        result is not there `timeout` seconds after the call.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        self._check()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._functions_lock:
            pickled = self._functions.pickled(fn)
        chunks = _chunks(zip(*iterables, strict=False), chunksize)
        ahead = min(buffersize or MAP_AHEAD_MAX, MAP_AHEAD_MAX)
        futures = deque(self._give(pickled, chunk) for chunk in itertools.islice(chunks, ahead))
        return self._results(futures, chunks, pickled, deadline)

    def _give(self, pickled: Pickled, chunk: "list[tuple[Any, ...]]") -> TaskFuture:
        future = TaskFuture()
        try:
            parts = pack(chunk, "the arguments", copy=True)
        except Exception as error:  # noqa: BLE001
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            return future
        self._engine.submit(Call(future, pickled.digest, pickled.body, parts, True, self._retries))
        return future

    def _results(
        self, futures: "deque[TaskFuture]", chunks: "Iterator[list[tuple[Any, ...]]]", pickled: Pickled, deadline: float | None
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
                if not self._shut and (chunk := next(chunks, None)) is not None:
                    futures.append(self._give(pickled, chunk))
                result.reverse()
                while result:
                    yield result.pop()
        finally:
            for future in futures:
                future.cancel()

    def _check(self) -> None:
        engine = self._engine
        if engine.broken is not None:
            raise type(engine.broken)(*engine.broken.args) from engine.broken.__cause__
        if self._shut or living.ending():
            raise RuntimeError("cannot schedule new futures after shutdown")
        if engine.forked:
            raise RuntimeError("this executor belongs to the program that this process was forked from: make another one here")

    def usable(self) -> bool:
        """Whether it takes tasks."""
        return not (self._shut or self._engine.forked or self._engine.over or self._engine.broken is not None)

    def workers(self) -> int:
        """Return how many workers are at work at a time; waits until that is known. Raises what broke it."""
        while not self._engine.known.wait(0.1) and not self._engine.over:
            self._check()
        return self._engine.tasks.workers_max

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; with `cancel_futures` cancel those that have not begun. Waits, if it shall, until all is done and the
        workers have ended. Idempotent."""
        self._shut = True
        if self._engine.forked:
            return
        if cancel_futures:
            self._engine.post(self._engine.clear)
        self._engine.post(self._engine.stop)
        if wait:
            living.wait(self._engine)


def _chunks(items: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def imported() -> list[str]:
    """Return what the program itself has imported, so that a parent of workers can do so before it forks."""
    main = sys.modules.get("__main__")
    names: dict[str, None] = {}
    for value in list(vars(main).values()) if main is not None else []:
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name not in ("__main__", "builtins") and name in sys.modules:
            names[name] = None
    return list(names)[:_MODULES_MAX]
