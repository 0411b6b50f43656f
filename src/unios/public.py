"""What is public in Python: names of `unios`, each found where it is made at its first use, so that a short command loads none of it.

To add a name: a line in _WHERE, and the same in the imports below, which type checkers and editors read. A test holds the two together.
"""

from typing import TYPE_CHECKING, Final

_WHERE: Final = {
    # name: module:attribute
    "AsyncEvent": "unios.client.synchronisation.aio:AsyncEvent",
    "AsyncLock": "unios.client.synchronisation.aio:AsyncLock",
    "AsyncQueue": "unios.client.synchronisation.aio:AsyncQueue",
    "AsyncSemaphore": "unios.client.synchronisation.aio:AsyncSemaphore",
    "Barrier": "unios.client.synchronisation.barrier:Barrier",
    "BoundedSemaphore": "unios.client.synchronisation.semaphore:BoundedSemaphore",
    "Capabilities": "unios.client.messages.capabilities:Capabilities",
    "Capability": "unios.client.messages.capabilities:Capability",
    "CallerError": "unios.errors:CallerError",
    "Condition": "unios.client.synchronisation.condition:Condition",
    "DataLost": "unios.errors:DataLost",
    "Deadlock": "unios.errors:Deadlock",
    "Denied": "unios.errors:Denied",
    "Election": "unios.client.synchronisation.election:Election",
    "Event": "unios.client.synchronisation.event:Event",
    "Executor": "unios.client.tasks.executor:Executor",
    "ExecutorBroken": "unios.client.tasks.losses:ExecutorBroken",
    "LeaseLost": "unios.errors:LeaseLost",
    "Lock": "unios.client.synchronisation.lock:Lock",
    "NotFound": "unios.errors:NotFound",
    "OutcomeUnknown": "unios.errors:OutcomeUnknown",
    "PeerRestarted": "unios.errors:PeerRestarted",
    "Pool": "unios.client.tasks.pool:Pool",
    "Queue": "unios.client.synchronisation.exchange:Queue",
    "RLock": "unios.client.synchronisation.lock:RLock",
    "RWLock": "unios.client.synchronisation.rwlock:RWLock",
    "Ref": "unios.client.objects.ref:Ref",
    "Semaphore": "unios.client.synchronisation.semaphore:Semaphore",
    "System": "unios.client.embedded:System",
    "TokenGuard": "unios.client.synchronisation.token_guard:TokenGuard",
    "Unavailable": "unios.errors:Unavailable",
    "UniosError": "unios.errors:UniosError",
    "WorkerLost": "unios.client.tasks.losses:WorkerLost",
    "aio": "unios:aio",
    "allocate": "unios.client.objects.putting:allocate",
    "caller": "unios.client.messages.server:caller",
    "cancelling": "unios.client.tasks.cancelling:cancelling",
    "connect": "unios.client.messages.face:connect",
    "discard": "unios.client.replicas.objects:discard",
    "distribute": "unios.client.replicas.objects:distribute",
    "empty": "unios.client.objects.putting:empty",
    "find": "unios.client.replicas.objects:find",
    "get": "unios.client.objects.getting:get",
    "listen": "unios.client.messages.face:listen",
    "progress": "unios.client.progress:progress",
    "put": "unios.client.objects.putting:put",
    "register_joblib": "unios.client.tasks.joblib_backend:register_joblib",
    "system": "unios.client.embedded:system",
}

if TYPE_CHECKING:
    from unios import aio as aio
    from unios.client.embedded import System as System
    from unios.client.embedded import system as system
    from unios.client.messages.capabilities import Capabilities as Capabilities
    from unios.client.messages.capabilities import Capability as Capability
    from unios.client.messages.face import connect as connect
    from unios.client.messages.face import listen as listen
    from unios.client.messages.server import caller as caller
    from unios.client.objects.getting import get as get
    from unios.client.objects.putting import allocate as allocate
    from unios.client.objects.putting import empty as empty
    from unios.client.objects.putting import put as put
    from unios.client.objects.ref import Ref as Ref
    from unios.client.progress import progress as progress
    from unios.client.replicas.objects import discard as discard
    from unios.client.replicas.objects import distribute as distribute
    from unios.client.replicas.objects import find as find
    from unios.client.synchronisation.aio import AsyncEvent as AsyncEvent
    from unios.client.synchronisation.aio import AsyncLock as AsyncLock
    from unios.client.synchronisation.aio import AsyncQueue as AsyncQueue
    from unios.client.synchronisation.aio import AsyncSemaphore as AsyncSemaphore
    from unios.client.synchronisation.barrier import Barrier as Barrier
    from unios.client.synchronisation.condition import Condition as Condition
    from unios.client.synchronisation.election import Election as Election
    from unios.client.synchronisation.event import Event as Event
    from unios.client.synchronisation.exchange import Queue as Queue
    from unios.client.synchronisation.lock import Lock as Lock
    from unios.client.synchronisation.lock import RLock as RLock
    from unios.client.synchronisation.rwlock import RWLock as RWLock
    from unios.client.synchronisation.semaphore import BoundedSemaphore as BoundedSemaphore
    from unios.client.synchronisation.semaphore import Semaphore as Semaphore
    from unios.client.synchronisation.token_guard import TokenGuard as TokenGuard
    from unios.client.tasks.cancelling import cancelling as cancelling
    from unios.client.tasks.executor import Executor as Executor
    from unios.client.tasks.joblib_backend import register_joblib as register_joblib
    from unios.client.tasks.losses import ExecutorBroken as ExecutorBroken
    from unios.client.tasks.losses import WorkerLost as WorkerLost
    from unios.client.tasks.pool import Pool as Pool
    from unios.errors import CallerError as CallerError
    from unios.errors import DataLost as DataLost
    from unios.errors import Deadlock as Deadlock
    from unios.errors import Denied as Denied
    from unios.errors import LeaseLost as LeaseLost
    from unios.errors import NotFound as NotFound
    from unios.errors import OutcomeUnknown as OutcomeUnknown
    from unios.errors import PeerRestarted as PeerRestarted
    from unios.errors import Unavailable as Unavailable
    from unios.errors import UniosError as UniosError


def _find(name: str) -> object:
    """Return what is public under that name. Raises KeyError if nothing is, and what its import raises."""
    import importlib

    module, _, attribute = _WHERE[name].partition(":")
    if module == "unios":
        return importlib.import_module(f"unios.{attribute}")
    return getattr(importlib.import_module(module), attribute)
