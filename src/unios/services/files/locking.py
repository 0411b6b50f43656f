"""Locking: locks on parts of files for all mounts, and who waits for one. What is held is in the journal: a successor knows it."""

import errno
from collections.abc import Callable
from typing import Any, Final

from unios.core.files.ranges import UNLOCK, Lock, conflict, placed, without
from unios.core.files.tree import refuse
from unios.fuse import replies
from unios.fuse.requests import Request
from unios.services.files.volume import Volume

WAITING_MAX: Final = 10_000
INTERRUPTED_MAX: Final = 1_000


class Locking:
    """Those of one volume, whose lock is held by whoever calls. `again` does a request anew that has waited."""

    def __init__(self, volume: Volume, again: Callable[[Any, Request], None]) -> None:
        self._volume, self._again = volume, again
        self._waiting: list[tuple[Any, Request]] = []
        self._interrupted: dict[tuple[int, int], None] = {}
        """Requests whose signal has come before them."""

    def _wanted(self, mount: Any, request: Request) -> Lock:
        body = request.body
        return Lock(body.start, body.end, body.kind, mount.number, body.owner, body.flock, body.pid)

    def set(self, mount: Any, request: Request, *, waits: bool) -> tuple[bytes, ...] | None:
        """Grant a lock or give it back; None: whoever asks waits."""
        wanted, ino = self._wanted(mount, request), request.node
        held = self._volume.state.locks.get(ino, ())
        if wanted.kind == UNLOCK:
            self._put(ino, held, placed(held, wanted))
            return ()
        if conflict(held, wanted) is not None:
            if not waits:
                refuse(errno.EAGAIN)
            if self._interrupted.pop((mount.number, request.number), self) is None:
                refuse(errno.EINTR)
            if len(self._waiting) >= WAITING_MAX:
                refuse(errno.ENOLCK)
            self._waiting.append((mount, request))
            return None
        self._put(ino, held, placed(held, wanted))
        return ()

    def get(self, mount: Any, request: Request) -> tuple[bytes, ...]:
        """Tell what is in the way of a lock."""
        wanted = self._wanted(mount, request)
        found = conflict(self._volume.state.locks.get(request.node, ()), wanted)
        if found is None:
            return (replies.lock(wanted.start, wanted.end, UNLOCK, 0),)
        return (replies.lock(found.start, found.end, found.kind, found.pid if found.mount == mount.number else 0),)

    def closed(self, ino: int, mount: int, owner: int, *, whole: bool) -> None:
        """A holder has closed the file: what he had of that kind is free."""
        held = self._volume.state.locks.get(ino)
        if held:
            self._put(ino, held, without(held, mount, owner, whole=whole))

    def gone(self, mount: int) -> None:
        """A mount is no more: nor are its holders, and who waits there."""
        self._waiting = [one for one in self._waiting if one[0].number != mount]
        for ino, held in list(self._volume.state.locks.items()):
            self._put(ino, held, without(held, mount))

    def interrupt(self, mount: Any, number: int) -> None:
        """Whoever asked that has had a signal: he waits no more."""
        found = [one for one in self._waiting if one[0] is mount and one[1].number == number]
        for waiting in found:
            self._waiting.remove(waiting)
            mount.refuse(waiting[1], errno.EINTR)
        if not found:
            self._interrupted[mount.number, number] = None
            if len(self._interrupted) > INTERRUPTED_MAX:
                del self._interrupted[next(iter(self._interrupted))]

    def _put(self, ino: int, before: tuple[Lock, ...], after: tuple[Lock, ...]) -> None:
        if before == after:
            return
        self._volume.lock_ranges(ino, after)
        waiting = [one for one in self._waiting if one[1].node == ino]
        self._waiting = [one for one in self._waiting if one[1].node != ino]
        for mount, request in waiting:
            self._again(mount, request)
