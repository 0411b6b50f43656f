"""Spares: how many inits without a job a node keeps. Decides only; kernel/spares.py makes, keeps and ends them. Standard library only, as all of a guard.

An owner is what the trees of an init ran as: uid, gid, groups. One that has had a tree may have others of its owner only; a new one any.
"""

from collections.abc import Sequence
from typing import Final

from unios.limits import RECYCLED_MAX, SPARES_MAX

REST: Final = 2
"""So many there are when nothing happens; at least one of them is new: for another user."""
Owner = tuple[int, ...]


def lacking(new: int, recycled: Sequence[Owner], waiting: Sequence[Owner]) -> int:
    """Return how many more are to be made, so that there will be one for each of the waiting jobs and REST more, up to SPARES_MAX.

    `new`, `recycled`: those that there are or that are being made. Of those that have had a tree only what the waiting can use counts; at rest, what
    could be used.
    """
    usable = new
    if waiting:
        usable += sum(min(recycled.count(owner), waiting.count(owner)) for owner in set(waiting))
    else:
        usable += min(len(recycled), REST - 1)
    return max(0, min(SPARES_MAX, len(waiting) + REST) - usable)


def may_recycle(recycled: int) -> bool:
    """Return whether one more that has had a tree is kept beside so many."""
    return recycled < RECYCLED_MAX


def kept_at_rest(new: int, recycled: int) -> tuple[int, int]:
    """Return how many are left of the new and of those that have had a tree, once nobody has taken one for a while."""
    again = min(recycled, REST - 1)
    return min(new, REST - again), again
