"""Knowing: what the Linux of one mount has been told of: while it knows an inode, that stays, with a name or without."""

from unios.core.files.inode import ROOT
from unios.services.files.volume import Volume


class Knowing:
    """That of one mount. The volume's lock is held by whoever calls."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._known: dict[int, int] = {}
        self.unknown: set[int] = set()
        """What it may know from a predecessor, how often is not known."""

    def adopted(self) -> None:
        """It was served by a predecessor: it may know everything."""
        tree = self._volume.tree
        for ino in tree.state.inodes:
            tree.opened(ino)
            self.unknown.add(ino)

    def knows(self, ino: int) -> None:
        """It was told of an inode once more."""
        count = self._known.get(ino, 0)
        if not count and ino not in self.unknown:
            self._volume.tree.opened(ino)
        self._known[ino] = count + 1

    def forgets(self, ino: int, count: int) -> bool:
        """It has forgotten that so many times; return whether it knows it no more."""
        if ino == ROOT:
            return False
        if ino in self.unknown:
            self.unknown.discard(ino)
            self._known.pop(ino, None)
            return True
        left = self._known.get(ino, 0) - count
        if left > 0:
            self._known[ino] = left
            return False
        return self._known.pop(ino, None) is not None

    def never(self, ino: int) -> bool:
        """It does not know that, as it says itself; return whether it counted as known, and does no more."""
        if ino not in self.unknown or self._known.get(ino):
            return False
        self.unknown.discard(ino)
        return True

    def leave(self) -> None:
        """There is no such mount any more."""
        for ino in {*self._known, *self.unknown}:
            self._volume.released(ino)
        self._known.clear()
        self.unknown.clear()
