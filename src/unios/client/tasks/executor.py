"""Executor: `concurrent.futures` over the nodes of the system.

As the standard library's process pool, with these differences: a worker that dies fails, or retries, its own call and no other, and is replaced; functions
go by cloudpickle, so that lambdas, closures and what is defined interactively work; a task can be cancelled until it has begun; its own tasks may submit to
it and wait for that.
"""

import contextlib
import operator
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor as Standard
from concurrent.futures import Future
from functools import partial
from pickle import PicklingError
from types import ModuleType
from typing import Any, Final

from unios.client.connection import Connection
from unios.client.embedded import system
from unios.client.tasks import living, maps, nested, proofs
from unios.client.tasks.calls import Call
from unios.client.tasks.cargo import load
from unios.client.tasks.engine import Engine
from unios.client.tasks.functions import Functions, Pickled
from unios.client.tasks.future import TaskFuture
from unios.client.tasks.steward import Steward, Wishes, python, umask, user
from unios.client.tasks.values import pack
from unios.demands import CPU_MILLI_DEFAULT, PRIORITY_DEFAULT, Placing, Queueing
from unios.limits import TASK_BYTES_MAX, WORKERS_MAX

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
        max_tasks_per_child: int | None = None,
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
        (a call that had not begun always is); an exception that it raises is its outcome. `max_tasks_per_child`: a worker that has had so many ends, and another
        one is forked. For each worker `cpus` (1) and `memory` (bytes) are set aside and
        `devices` given; `node`, `policy`, `near`, `apart`, `forbidden`, `label` and `priority` are those of `unios run`. `env`: what workers find in their
        environment beside what this program has in its own. `interpreter`: their Python, by default this one's path. Raises ValueError, TypeError,
        PicklingError; what concerns the system comes with the futures.
        """
        if max_workers is not None and not 1 <= operator.index(max_workers) <= WORKERS_MAX:
            raise ValueError(f"max_workers must be from 1 to {WORKERS_MAX}")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if not all(isinstance(text, str) for item in (env or {}).items() for text in item):
            raise TypeError("env must be names and values, all of them str")
        if max_tasks_per_child is not None and operator.index(max_tasks_per_child) < 1:
            raise ValueError("max_tasks_per_child must be at least 1")
        if operator.index(retries) < 0 or operator.index(memory) < 0 or (cpus is not None and cpus < 0):
            raise ValueError("retries, memory and cpus cannot be below 0")
        modest = nested.inside() or "UNIOS_PID" in os.environ or any(isinstance(one, Executor) and one._has_room for one in nested.own.values())
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
            os.getcwdb(),
            umask(),
        )
        self._retries = retries
        self._functions = Functions()
        self._functions_lock = threading.RLock()
        self._port = f"executor/{os.urandom(8).hex()}"
        self._shut = False
        setup = {"path": [path or os.getcwd() for path in sys.path], "argv": list(sys.argv), "modules": imported()}
        secret = proofs.new_secret()
        initial, refs = load((initializer, initargs), "the initializer") if initializer is not None else ([], ())
        self._engine = Engine(workers=max_workers, user=user(), secret=secret, setup=pack(setup, "the setup"), initializer=initial, refs=refs)
        self._engine.tasks.each_max = max_tasks_per_child
        steward = _steward(home, self._engine, self._port, secret, wishes, modest=modest)
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
        try:
            with self._functions_lock:
                pickled = self._functions.pickled(fn)
        except Exception as error:  # noqa: BLE001
            return _failed(TaskFuture(), error)
        return self._give(pickled, (args, kwargs), many=False, own_bytes=pickled.own_bytes)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: bool | str = False,
    ) -> Iterator[Any]:
        """Return an iterator over `fn` of each, in order. `chunksize` of them travel as one task.

        At most `buffersize` tasks, and never more than MAP_AHEAD_MAX, are ahead of what has been read; those are submitted at once. TimeoutError if a
        result is not there `timeout` seconds after the call. `progress` shows how many have been read (`unios.progress`), after its words if it is a text.
        """
        self._check()
        with self._functions_lock:
            pickled = self._functions.pickled(fn)
        return maps.results(
            lambda chunk: self._give(pickled, chunk),
            iterables,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            shows=progress,
            is_closed=lambda: self._shut,
        )

    def _give(self, pickled: Pickled, arguments: object, *, many: bool = True, own_bytes: int = 0) -> TaskFuture:
        future = TaskFuture()
        try:
            parts, refs = load(arguments, "the arguments")
            if len(pickled.body) + sum(map(len, parts)) > TASK_BYTES_MAX:
                raise PicklingError(
                    f"the function has {len(pickled.body)} bytes when it is pickled; with its arguments that is over {TASK_BYTES_MAX}"
                )
        except Exception as error:  # noqa: BLE001  the standard library has it on the future too
            return _failed(future, error)
        refs = (*pickled.refs, *refs) if pickled.refs else refs
        self._engine.submit(Call(future, pickled.digest, pickled.body, parts, many, self._retries, own_bytes=own_bytes, refs=refs))
        return future

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

    @property
    def _has_room(self) -> bool:
        """Whether its workers keep what is set aside for them as long as the program, or the one that it was forked from, likes."""
        return not (self._shut or self._engine.over or self._engine.broken is not None)

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

    def kill_workers(self) -> None:
        """Take no more tasks, cancel those that have not begun and kill the workers; what they do fails with ExecutorBroken. Does not wait. Idempotent."""
        self.shutdown(wait=False, cancel_futures=True)
        if not self._engine.forked:
            self._engine.post(self._engine.kill)


def _steward(home: "os.PathLike[str] | str | None", engine: Engine, port: str, secret: bytes, wishes: Wishes, *, modest: bool) -> Steward:
    """Return the steward of an engine, whose descriptors are not left if there is none. Unavailable."""
    try:
        connection = Connection(system().home if home is None else os.fspath(home), role="executor")
        return Steward(connection, engine, port, secret, wishes, modest=modest)
    except BaseException:
        engine.release()
        raise


def _failed(future: TaskFuture, error: Exception) -> TaskFuture:
    future.set_running_or_notify_cancel()
    future.set_exception(error)
    return future


def imported() -> list[str]:
    """Return what the program itself has imported, so that a parent of workers can do so before it forks."""
    main = sys.modules.get("__main__")
    names: dict[str, None] = {}
    for value in list(vars(main).values()) if main is not None else []:
        with contextlib.suppress(Exception):  # what stands for something else may raise anything when it is looked at
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name not in ("__main__", "builtins") and name in sys.modules:
                names[name] = None
    return list(names)[:_MODULES_MAX]
