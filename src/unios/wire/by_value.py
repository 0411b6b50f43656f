"""By value: pickles that bring along what nobody else finds by its name: functions and classes of the program itself (`__main__`), lambdas, closures.

Who runs the same program finds what he has by that name all the same: there an instance is one of his own class, as it is in the program that wrote it.
Written by cloudpickle, which takes its time: import this when it is needed.
"""

import functools
import io
import pickle
import sys
import types
import uuid
import weakref
from collections import ChainMap
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

import cloudpickle

_MAIN: Final = "__main__"


def _code_with_its_file(code: types.CodeType) -> Any:
    make, fields, *more = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return (make, tuple(code.co_filename if field == "<dynamic-code>" else field for field in fields), *more)


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """As cloudpickle does it, but that code keeps the name of its file: else the traceback of a worker shows neither that nor the lines."""

    dispatch_table = ChainMap({types.CodeType: _code_with_its_file}, cloudpickle.Pickler.dispatch_table)


class _Named(Pickler):
    """As that, but that what is of the program itself says so, too, and that memoryviews are not copied."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is memoryview:
            return memoryview, (pickle.PickleBuffer(obj),)
        made = super().reducer_override(obj)
        if not isinstance(made, tuple) or len(made) != 6:
            return made
        program = _come_from.get(obj) or (_program() if _own(obj.__qualname__) is obj else None)
        if program is None:
            return made
        make, fields, state, _items, _pairs, fill = made
        return _make, (program, obj.__qualname__, make, fields), (fill, state), None, None, _fill


def dumps(value: object, beside: Callable[[Any], bool], pickler: type[Pickler] = _Named) -> bytes:
    """Return a value pickled by value; buffers of which `beside` says False are not in it. Whatever pickling raises."""
    with io.BytesIO() as file:
        pickler(file, protocol=5, buffer_callback=beside).dump(value)
        return file.getvalue()


_come_from: Final[weakref.WeakKeyDictionary[Any, bytes]] = weakref.WeakKeyDictionary()
"""What was brought here, by the program that it is of."""


@functools.cache
def _program() -> bytes:
    """Return what tells the program that runs here from others: what its file says, and if it has none it is like no other."""
    try:
        with open(sys.modules[_MAIN].__file__ or "", "rb") as file:
            return blake2b(file.read(), digest_size=16).digest()
    except (OSError, AttributeError):
        return uuid.uuid4().bytes


def _own(name: str) -> Any:
    """Return what has that name in the program that runs here, None if nothing has."""
    try:
        return functools.reduce(getattr, name.split("."), sys.modules[_MAIN])
    except (AttributeError, KeyError):
        return None


def _make(program: bytes, name: str, make: Callable[..., Any], fields: tuple[Any, ...]) -> Any:
    """Return this program's own of that name if it is the same program, else what is still to be filled."""
    if program == _program():
        own = _own(name)
        if isinstance(own, type | types.FunctionType):
            return own
    made = make(*fields)
    if _own(name) is not made:  # it is back in the process that it came from, under a name that it has no more
        _come_from[made] = program
    return made


def _fill(made: Any, state: tuple[Callable[[Any, Any], Any], Any]) -> None:
    if made in _come_from:
        fill, fields = state
        fill(made, fields)
