"""Cargo: what goes to a worker with a call, and the references to objects among it: whoever keeps the call keeps these, and the objects with them."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from unios.client.tasks.values import pack
from unios.wire.parcels import Part

PARTING_S: Final = 2.0
"""So long after a call has ended its references are kept: a worker that keeps one as well has been heard by then."""


def load(value: object, what: str, *, whole: bool = False) -> tuple[list[Part], Sequence[Any]]:
    """Return a value as parts that are nobody else's, with `whole` as one, and the references in it. PicklingError says what of `what` cannot be pickled."""
    references = sys.modules.get("unios.client.objects.ref")
    if references is None:  # then nobody has one
        return pack(value, what, copy=True, whole=whole), ()
    with references.collecting() as found:
        parts = pack(value, what, copy=True, whole=whole)
    return parts, found


def part_with(refs: Sequence[Any]) -> None:
    """Keep them no more here: a loan keeps the objects for who has received them. Talks to this node's holder, which the engine's thread cannot wait for."""
    for ref in refs:
        sys.modules["unios.client.objects.counts"].COUNTS.lend(ref.known)


def bytes_at(refs: Sequence[Any]) -> Mapping[str, int] | None:
    """Return how much of what is referred to is on which node, None for nothing."""
    if not refs:
        return None
    found: dict[str, int] = {}
    for ref in {ref.id: ref for ref in refs}.values():
        found[ref.node] = found.get(ref.node, 0) + ref.nbytes
    return found
