"""Config: how a long-lived object is configured, and how its class travels."""

import io
import os
import pickle
import sys
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from unios.core.strategies import strategy_of
from unios.errors import CallerError, Misused

SPECIAL: Final = frozenset({"__len__", "__getitem__", "__setitem__", "__delitem__", "__contains__", "__call__", "__bool__", "__iter__"})
"""Special methods that a handle has if the class has them."""
MAIN: Final = "UNIOS_OBJECT_MAIN"
"""In the environment of a host: the file of the program whose classes it knows as __mp_main__, as multiprocessing does."""


@dataclass(frozen=True, slots=True)
class Config:
    """That of one object. `kind`: its class, pickled. `lease_ms`: of a cache. `token`: tells it from another one of the name."""

    name: str
    strategy: str
    copies: int
    reads: frozenset[str]
    methods: frozenset[str]
    lease_ms: int
    kind: bytes
    token: str


def configure(kind: type, name: str, strategy: str, copies: int | None, reads: Iterable[str], lease_ms: int) -> Config:
    """Return the configuration of an object. Misused for a strategy, a number of copies or a method that there is not; CallerError if the class cannot travel."""
    if not isinstance(kind, type):
        raise Misused(f"{kind!r} is no class: distribute(Class, name, arguments ...)")
    if not name or len(name.encode(errors="replace")) > 200 or not name.isprintable():
        raise Misused(f"{name[:80]!r} is no name for an object: use up to 200 printable bytes")
    found, number = strategy_of(strategy, copies)
    if isinstance(reads, str):
        raise Misused(f'reads is a set of names of methods: reads={{"{reads}"}}')
    methods, read = methods_of(kind), frozenset(reads)
    unknown = sorted(read - methods)
    if unknown:
        raise Misused(f"{kind.__name__} has no method {', '.join(unknown)}; it has {', '.join(sorted(methods)) or 'none'}")
    if lease_ms <= 0:
        raise Misused("the lease of a cache is longer than nothing")
    return Config(name, found.name, number, read, methods, lease_ms, _class_as_bytes(kind), uuid.uuid4().hex)


def methods_of(kind: type) -> frozenset[str]:
    """Return the methods of a class that can be called through a handle."""
    return frozenset(
        each
        for each in dir(kind)
        if callable(getattr(kind, each, None))
        and (not each.startswith("_") or (each in SPECIAL and any(each in base.__dict__ for base in kind.__mro__[:-1])))
    )


def _class_as_bytes(kind: type) -> bytes:
    try:
        data = pickle.dumps(kind, 5)
    except Exception as error:
        raise CallerError(f"the class {kind.__name__} cannot travel: {error}; define it at the top of a module or of a program's file") from error
    if kind.__module__ == "__main__" and main_file() is None:
        raise CallerError(f"the class {kind.__name__} was typed in, and other processes cannot import it: put it into a file")
    return data


def main_file() -> str | None:
    """Return the file of the program that runs here; None for one that was typed in."""
    found = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.abspath(found) if isinstance(found, str) and os.path.isfile(found) else None


_importing = False


def is_importing_main() -> bool:
    """Say whether a program's file is being imported in a host, for the classes in it."""
    return _importing


def _import_main() -> None:
    """Import the file of the program that made the object, without what it guards with `if __name__ == "__main__"`, as multiprocessing does."""
    global _importing
    path = os.environ.get(MAIN)
    if path and "__mp_main__" not in sys.modules:
        from multiprocessing import spawn

        _importing = True
        try:
            spawn._fixup_main_from_path(path)  # type: ignore[attr-defined]
        finally:
            _importing = False


def know_main() -> None:
    """Let what a host pickles of this program's classes be found here."""
    main = sys.modules.get("__main__")
    if main is not None:
        sys.modules.setdefault("__mp_main__", main)


class _Unpickler(pickle.Unpickler):
    """Imports the program's own file when one of its classes is met, and not before: it may do more than define them."""

    def find_class(self, module: str, name: str, /) -> Any:
        if module in ("__main__", "__mp_main__"):
            _import_main()
        return super().find_class(module, name)


def load(data: bytes) -> Any:
    """Return what was pickled. CallerError if its class cannot be found here."""
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except (ImportError, AttributeError) as error:
        raise CallerError(f"what was sent needs something that is not here: {error}") from error
