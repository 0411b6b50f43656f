"""Replicas: long-lived objects of an unmodified class, in one or several processes of the system. docs/long-lived-objects.md."""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from unios.client.replicas.objects import discard as discard
    from unios.client.replicas.objects import distribute as distribute
    from unios.client.replicas.objects import find as find

_PUBLIC: Final = ("distribute", "find", "discard")


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(name)
    import importlib

    return getattr(importlib.import_module("unios.client.replicas.objects"), name)
