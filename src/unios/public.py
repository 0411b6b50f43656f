"""What is public in Python: names of `unios`, each found where it is made at its first use, so that a short command loads none of it.

To add a name: a line in _WHERE, and the same in the imports below, which type checkers and editors read.
"""

from typing import TYPE_CHECKING, Final

_WHERE: Final = {
    # name: module:attribute
    "Executor": "unios.client.tasks.executor:Executor",
    "ExecutorBroken": "unios.client.tasks.losses:ExecutorBroken",
    "Pool": "unios.client.tasks.pool:Pool",
    "WorkerLost": "unios.client.tasks.losses:WorkerLost",
    "register_joblib": "unios.client.tasks.joblib_backend:register_joblib",
}

if TYPE_CHECKING:
    from unios.client.tasks.executor import Executor as Executor
    from unios.client.tasks.joblib_backend import register_joblib as register_joblib
    from unios.client.tasks.losses import ExecutorBroken as ExecutorBroken
    from unios.client.tasks.losses import WorkerLost as WorkerLost
    from unios.client.tasks.pool import Pool as Pool


def _find(name: str) -> object:
    """Return what is public under that name. Raises KeyError if nothing is, and what its import raises."""
    import importlib

    module, _, attribute = _WHERE[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
