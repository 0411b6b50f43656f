"""Functions: pickled once, named by a hash, sent to a worker when it first needs them.

What is found by its name in a module is pickled once and remembered; what takes its surroundings along (a closure, a lambda, what is defined in the
program itself) is pickled as it is now, each time that it is submitted, since what it refers to may have changed.
"""

import functools
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import cloudpickle

from unios.client.tasks import surroundings
from unios.client.tasks.cargo import load
from unios.limits import FUNCTIONS_KEPT


class Pickled(NamedTuple):
    digest: bytes
    body: bytes
    refs: Sequence[Any]
    own_bytes: int
    """Of the body, if it is not remembered."""


class Functions:
    """Those of one executor."""

    def __init__(self) -> None:
        self._named: OrderedDict[int, tuple[Callable[..., Any], Pickled]] = OrderedDict()

    def pickled(self, function: Callable[..., Any]) -> Pickled:
        """Return the function pickled. PicklingError says what of it cannot be."""
        known = self._named.get(id(function))
        if known is not None and known[0] is function:
            return known[1]
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        (part,), refs = load(function, f"the function {name}", whole=True)
        body, is_named = bytes(part), _is_found_by_name(function)
        done = Pickled(blake2b(body, digest_size=16).digest(), body, refs, 0 if is_named else len(body))
        if is_named:
            self._named[id(function)] = (function, done)
            if len(self._named) > FUNCTIONS_KEPT:
                self._named.popitem(last=False)
        return done


def _is_found_by_name(function: Callable[..., Any]) -> bool:
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if not module or module == "__main__" or not name or "<" in name or module in cloudpickle.list_registry_pickle_by_value():
        return False
    try:
        found: object = functools.reduce(getattr, name.split("."), sys.modules[module])
    except (KeyError, AttributeError):
        return False
    return found is function


class Shipped:
    """Which functions a worker has, as both ends of its connection know it: they see the same messages in the same order."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Any] = OrderedDict()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._kept

    def put(self, digest: bytes, body: Any) -> None:
        self._kept[digest] = body
        if len(self._kept) > FUNCTIONS_KEPT:
            self._kept.popitem(last=False)

    def callable(self, digest: bytes) -> Callable[..., Any]:
        """Return the function, unpickled when it is first called. Whatever unpickling raises."""
        found = self._kept[digest]
        if isinstance(found, bytes | bytearray | memoryview):
            found = self._kept[digest] = surroundings.loads([found])
        return found  # type: ignore[no-any-return]
