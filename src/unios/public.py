"""What is public in Python: names of `unios`, each found where it is made at its first use, so that a short command loads none of it.

To add a name: a line in _WHERE, and the same in the imports below, which type checkers and editors read. A test holds the two together.
"""

from typing import TYPE_CHECKING, Final

_WHERE: Final = {
    # name: module:attribute
    "CallerError": "unios.errors:CallerError",
    "DataLost": "unios.errors:DataLost",
    "Denied": "unios.errors:Denied",
    "NotFound": "unios.errors:NotFound",
    "OutcomeUnknown": "unios.errors:OutcomeUnknown",
    "PeerRestarted": "unios.errors:PeerRestarted",
    "System": "unios.client.embedded:System",
    "Unavailable": "unios.errors:Unavailable",
    "UniosError": "unios.errors:UniosError",
    "caller": "unios.client.messages.server:caller",
    "connect": "unios.client.messages.face:connect",
    "discard": "unios.client.replicas.objects:discard",
    "distribute": "unios.client.replicas.objects:distribute",
    "find": "unios.client.replicas.objects:find",
    "listen": "unios.client.messages.face:listen",
    "progress": "unios.client.progress:progress",
    "system": "unios.client.embedded:system",
}

if TYPE_CHECKING:
    from unios.client.embedded import System as System
    from unios.client.embedded import system as system
    from unios.client.messages.face import connect as connect
    from unios.client.messages.face import listen as listen
    from unios.client.messages.server import caller as caller
    from unios.client.progress import progress as progress
    from unios.client.replicas.objects import discard as discard
    from unios.client.replicas.objects import distribute as distribute
    from unios.client.replicas.objects import find as find
    from unios.errors import CallerError as CallerError
    from unios.errors import DataLost as DataLost
    from unios.errors import Denied as Denied
    from unios.errors import NotFound as NotFound
    from unios.errors import OutcomeUnknown as OutcomeUnknown
    from unios.errors import PeerRestarted as PeerRestarted
    from unios.errors import Unavailable as Unavailable
    from unios.errors import UniosError as UniosError


def _find(name: str) -> object:
    """Return what is public under that name. Raises KeyError if nothing is, and what its import raises."""
    import importlib

    module, _, attribute = _WHERE[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
