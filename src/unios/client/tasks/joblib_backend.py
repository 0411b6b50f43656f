"""Joblib's backend "unios": `with joblib.parallel_config("unios")` and scikit-learn's `n_jobs` run on the nodes of the system.

Workers stay, and are used by the next call, until one asks for another number of them or the program ends.
"""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

import joblib
from joblib._parallel_backends import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend

from unios.client.connection import Connection
from unios.client.embedded import system
from unios.client.tasks.executor import Executor
from unios.client.tasks.steward import cores_of
from unios.limits import WORKERS_MAX

_kept: "dict[tuple[Any, ...], Executor]" = {}
"""Executors by what was asked of them: one that is kept, and those that calls use at the moment."""
_uses: "Counter[Executor]" = Counter()
"""How many calls use each, in whatever threads."""
_lock: Final = threading.RLock()
_NOT_OURS: Final = frozenset({"context", "prefer", "require", "verbose", "max_nbytes", "mmap_mode", "temp_folder", "idle_worker_timeout"})
"""What joblib says to every backend: its hints, and what concerns files that workers of one machine map."""


class UniosBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Options of `parallel_config("unios", ...)` are those of `Executor`."""

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._executor: Executor | None = None
        self._under_way: set[Future[Any]] = set()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many workers `n_jobs` means; negative: all cores of the ready nodes, and so many plus one less."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return min(n_jobs, WORKERS_MAX)
        with Connection(self.backend_kwargs.get("home") or system().home, role="joblib") as connection:
            return min(max(sum(cores_of(connection)) + 1 + n_jobs, 1), WORKERS_MAX)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Have the workers; return how many."""
        options = {name: value for name, value in options.items() if name not in _NOT_OURS}
        self.parallel = parallel
        count = self.effective_n_jobs(n_jobs)
        if count == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        wanted = {"initializer": register_joblib, **self.backend_kwargs, **options, "env": self._prepare_worker_env(n_jobs=count)}
        key = (count, repr(sorted(wanted.items(), key=repr)))
        self._let_go()
        with _lock:
            found = _kept.get(key)
            if found is None or not found.usable():
                drop()
                found = _kept[key] = Executor(count, **wanted)
            _uses[found] += 1
        self._executor = found
        return count

    def submit(self, func: Callable[[], Any], callback: "Callable[[Future[Any]], None] | None" = None) -> "Future[Any]":
        assert self._executor is not None
        future = self._executor.submit(func)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: "Future[Any]") -> Any:
        return out.result()

    def terminate(self) -> None:
        self._let_go()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what has not begun. Workers that no other call uses are given up: what they still do would be in the way of the next."""
        for future in list(self._under_way):
            future.cancel()
        executor = self._executor
        self._let_go()
        if executor is not None:
            with _lock:
                drop(executor)
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def _let_go(self) -> None:
        """Use the workers no more."""
        with _lock:
            if self._executor is not None:
                _uses[self._executor] -= 1
                if not _uses[self._executor]:
                    del _uses[self._executor]
            self._executor = None


def drop(*executors: Executor) -> None:
    """Give workers up that nobody uses, of all executors if none is named. Does not wait. The lock is held."""
    for key, executor in list(_kept.items()):
        if not _uses[executor] and (not executors or executor in executors):
            executor.shutdown(wait=False, cancel_futures=True)
            del _kept[key]


def register_joblib() -> None:
    """Make "unios" a backend of joblib. Idempotent. ImportError without joblib."""
    joblib.register_parallel_backend("unios", UniosBackend)
