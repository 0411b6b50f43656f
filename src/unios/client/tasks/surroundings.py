"""Surroundings: the globals of the program's own module as the functions of one worker see them.

A function of the program itself travels with the globals that it refers to, and each has its own. An initializer that sets some for the tasks after it, as
those of the standard library do, would set them for nobody: so the worker remembers what they were when it had ended, and every function of that module
that is unpickled later finds them.
"""

import io
import pickle
import types
from collections.abc import Callable, Sequence
from typing import Any, Final

import cloudpickle

from unios.wire.parcels import Part

_AS_IT_WAS: Final = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    tuple,
    frozenset,
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
)
"""Kinds of values that an initializer cannot have changed but by giving their name to another; those of functions and classes are seen to elsewhere."""
_set_state: Final = getattr(cloudpickle.cloudpickle, "_function_setstate", None)

_kept: dict[str, dict[str, Any]] = {}
"""What initializers have left, by module."""


def call(parts: Sequence[Part]) -> None:
    """Unpickle an initializer with its arguments, call it and remember what it leaves. Whatever it raises."""
    own: dict[int, dict[str, Any]] = {}

    def note(function: types.FunctionType, state: object) -> None:
        _made(function, state)
        own[id(function.__globals__)] = function.__globals__

    initializer, arguments = _loads(parts, note)
    before = [(names, dict(names)) for names in own.values()]
    initializer(*arguments)
    for names, were in before:
        changed = {
            name: value
            for name, value in names.items()
            if not name.startswith("__") and (name not in were or value is not were[name] or not isinstance(value, _AS_IT_WAS))
        }
        if changed:
            _kept.setdefault(names.get("__name__", ""), {}).update(changed)


def loads(parts: Sequence[Part]) -> Any:
    """Unpickle a function, or the arguments of a call. Whatever unpickling raises."""
    if _kept:
        return _loads(parts, _made)
    return pickle.loads(parts[0], buffers=parts[1:])


def _made(function: types.FunctionType, state: object) -> None:
    assert _set_state is not None
    _set_state(function, state)
    names = function.__globals__
    names.update(_kept.get(names.get("__name__", ""), {}))


def _loads(parts: Sequence[Part], made: Callable[[types.FunctionType, object], None]) -> Any:
    class Loader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = super().find_class(module, name)
            return made if _set_state is not None and found is _set_state else found

    return Loader(io.BytesIO(parts[0]), buffers=parts[1:]).load()
