"""Ranges: the locks on parts of one file, as fcntl(2) and flock(2) have them. Decides only: what there is and what is wanted come in, what there is then goes out.

Who holds a lock is (mount, owner): the number by which that mount's Linux calls him. Locks of the two kinds do not see each other, as on a local file system.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

READ: Final = 0
WRITE: Final = 1
UNLOCK: Final = 2
END: Final = (1 << 63) - 1


class Lock(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Bytes `start` to `end` of a file, both included. `kind`: READ or WRITE. `pid`: as the holder's own machine calls him."""

    start: int
    end: int
    kind: int
    mount: int
    owner: int
    whole: bool
    """Of flock(2)."""
    pid: int = 0

    @property
    def holder(self) -> tuple[int, int, bool]:
        return self.mount, self.owner, self.whole


Locks = tuple[Lock, ...]


def conflict(held: Iterable[Lock], wanted: Lock) -> Lock | None:
    """Return a lock that is in the way."""
    for one in held:
        overlaps = one.start <= wanted.end and wanted.start <= one.end
        if overlaps and one.holder != wanted.holder and one.whole == wanted.whole and WRITE in (one.kind, wanted.kind):
            return one
    return None


def placed(held: Locks, wanted: Lock) -> Locks:
    """Return what is held once `wanted` is granted, or with UNLOCK given back: in its range the holder has that and nothing else. Neighbours become one."""
    kept: list[Lock] = []
    start, end = wanted.start, wanted.end
    for one in held:
        if one.holder != wanted.holder:
            kept.append(one)
        elif wanted.kind == one.kind and one.start <= end + 1 and start <= one.end + 1:
            start, end = min(start, one.start), max(end, one.end)
        else:
            kept += _without(one, wanted.start, wanted.end)
    if wanted.kind == UNLOCK:
        return tuple(kept)
    kept.append(msgspec.structs.replace(wanted, start=start, end=end))
    return tuple(kept)


def _without(one: Lock, start: int, end: int) -> list[Lock]:
    if one.end < start or end < one.start:
        return [one]
    before = [msgspec.structs.replace(one, end=start - 1)] if one.start < start else []
    after = [msgspec.structs.replace(one, start=end + 1)] if end < one.end else []
    return before + after


def without(held: Locks, mount: int, owner: int | None = None, *, whole: bool | None = None) -> Locks:
    """Return what is held when a mount's holders, or one of them, have given back all (`whole`: of flock(2), or of the other kind)."""
    return tuple(one for one in held if not (one.mount == mount and owner in (None, one.owner) and whole in (None, one.whole)))
