"""Ref: a reference to an object, counted: as long as somebody has one, on whatever node, the object is kept. It travels in messages like any value."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from unios.client.messages import bringing
from unios.client.objects.counts import COUNTS
from unios.counted import counted
from unios.wire.objects import Known

T = TypeVar("T")
Recipe = tuple[Any, ...]
"""(function, argument, ...)"""
_collecting = threading.local()


class Ref(Generic[T]):
    """What `put` returns. Equal to every other reference to the same object."""

    __slots__ = ("__weakref__", "_known", "_recipe", "_taken")

    def __init__(self, known: Known, recipe: Recipe | None = None, *, token: str = "", told: bool = False) -> None:
        """Made by `put`, and when a reference arrives; not by programs."""
        self._taken = False
        self._known, self._recipe = known, recipe
        COUNTS.taken(known, token, told=told)
        self._taken = True

    @property
    def id(self) -> str:
        """The same on all nodes."""
        return self._known[0]

    @property
    def node(self) -> str:
        """The node where it was put."""
        return self._known[1]

    @property
    def nbytes(self) -> int:
        """How large it is, in bytes."""
        return self._known[2]

    @property
    def known(self) -> Known:
        """All three."""
        return self._known

    @property
    def recipe(self) -> Recipe | None:
        """(function, arguments) that make the object again after a loss."""
        return self._recipe

    def get(self, timeout: float | None = None) -> T:
        """Return the object: `unios.get(self, timeout)`."""
        from unios.client.objects.getting import get

        return get(self, timeout)

    def __del__(self) -> None:
        if getattr(self, "_taken", False):
            COUNTS.gone(self._known[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<unios.Ref {self.id[:8]}, {counted(self.nbytes, 'byte')}, put on {self.node}>"

    def __copy__(self) -> "Ref[T]":
        return Ref(self._known, self._recipe)

    def __deepcopy__(self, _memo: object) -> "Ref[T]":
        return Ref(self._known, self._recipe)

    def __reduce__(self) -> tuple[Any, ...]:
        """It is being sent: whoever collects keeps it, else a loan does until it has come."""
        found: list[Ref[Any]] | None = getattr(_collecting, "found", None)
        if found is None:
            token = COUNTS.lend(self._known)
            bringing.lend(self._known[0])
            return _arrived, (self._known, self._recipe, token)
        found.append(self)
        return _arrived, (self._known, self._recipe, "")


def _arrived(known: Known, recipe: Recipe | None, token: str) -> Ref[Any]:
    return Ref(known, recipe, token=token)


@contextlib.contextmanager
def collecting() -> Iterator[list[Ref[Any]]]:
    """Collect the references that this thread pickles meanwhile: whoever keeps the pickle must keep them as long, and then no loan is needed."""
    before: list[Ref[Any]] | None = getattr(_collecting, "found", None)
    found: list[Ref[Any]] = []
    _collecting.found = found
    try:
        yield found
    finally:
        _collecting.found = before
