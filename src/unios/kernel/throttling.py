"""Throttling: an init slows its tree down while that forks against its bound (core/throttle.py says when and by how much).

Woken by Linux when the count of refused forks moves, or by the node's kernel where Linux wakes nobody (version 1 of Linux 6.18, for one); a tree that meets no
bound costs nothing. Only where the tree has a group that can be frozen: without one there is no bound of its own either.
"""

import os
import select
import time
from typing import TYPE_CHECKING, Final

from unios.core.throttle import RUN_S, Throttle

if TYPE_CHECKING:
    from unios.kernel.init import Init

WATCH_S: Final = 5.0
WATCH_EVERY_S: Final = 0.2
SETTLE_S: Final = 0.005
SETTLE_S_MAX: Final = 0.1


class Throttling:
    """That of one init. Its tree is held only while nothing else holds it, and it is not about to end."""

    def __init__(self, init: "Init") -> None:
        self._init, self._poller, self._freezer = init, init.poller, init.freezer
        self._throttle: Throttle | None = None
        self._first = True
        self._settle_s = SETTLE_S
        self._watch_until, self._watches = 0.0, False
        self.holds = False
        """Whether the tree is being slowed down."""
        self._file = init.freezer.open_refusals()
        if self._file >= 0:
            self._poller.add(self._file, lambda _mask: self._moved(), select.EPOLLPRI)

    def begin(self) -> None:
        """A job is there: what is refused from now on counts."""
        if self._file >= 0:
            self._throttle = Throttle(self._refused())

    def watch(self) -> None:
        """Look by itself for a while: somebody has seen that it forks against its bound. Idempotent."""
        if self._file >= 0 and self._throttle is not None:
            self._watch_until = time.monotonic() + WATCH_S
            if not self._watches:
                self._watches = True
                if not self.holds:
                    self.begin()
                self._poller.after(WATCH_EVERY_S, self._watch_again)

    def _watch_again(self) -> None:
        self._moved()
        self._watches = self._file >= 0 and (self.holds or time.monotonic() < self._watch_until)
        if self._watches:
            self._poller.after(WATCH_EVERY_S, self._watch_again)

    def _refused(self) -> int:
        """Return how many forks have been refused; what was seen last if that cannot be read any more: the group is gone."""
        try:
            for line in os.pread(self._file, 4096, 0).splitlines():
                if line.startswith(b"max "):
                    return int(line[4:])
        except (OSError, ValueError):
            pass
        return -1

    def _may_run(self) -> bool:
        """Whether nothing else holds the tree, and it is not about to end."""
        init = self._init
        return init.started and not (init.ending or init.leash is None or init.leash.frozen or init.leash.killed)

    def _moved(self) -> None:
        refused = self._refused()
        if refused < 0:
            self.close()
        elif not self.holds and self._throttle is not None and self._may_run() and self._throttle.begins(time.monotonic(), refused):
            self.holds = self._first = True
            self._init.disturbed = True
            self._tell(True, refused)
            self._hold()

    def _hold(self) -> None:
        if not self._may_run() or not self._freezer.hold():
            self._stop()
            return
        self._settle_s = SETTLE_S
        self._poller.after(self._settle_s, self._look)

    def _look(self) -> None:
        """See whether all stand still."""
        if not self._may_run():
            self._stop()
        elif not self._freezer.settled():
            self._settle_s = min(SETTLE_S_MAX, self._settle_s * 2)
            self._poller.after(self._settle_s, self._look)
        else:
            self._settled()

    def _settled(self) -> None:
        assert self._throttle is not None
        now = time.monotonic()
        if self._first or self._throttle.goes_on(now, self._refused()):
            self._poller.after(self._throttle.held_s(now), self._let_run)
        else:
            self._freezer.let_go()
            self._stop()
        self._first = False

    def _let_run(self) -> None:
        if not self._may_run():
            self._stop()
            return
        assert self._throttle is not None
        self._freezer.let_go()
        self._throttle.lets_run(time.monotonic(), self._refused())
        self._poller.after(RUN_S, self._hold)

    def _stop(self) -> None:
        """Nothing is held any more by this; whatever else holds the tree does so on its own, and lets it go."""
        if self.holds:
            self.holds = False
            self._tell(False, self._refused())
            self.begin()

    def _tell(self, on: bool, refused: int) -> None:
        job = self._init.job
        self._init.tell({"event": "throttled", "pid": job.pid, "incarnation": job.incarnation, "on": on, "refused": refused})

    def close(self) -> None:
        """Watch no more; idempotent."""
        if self._file >= 0:
            self._poller.remove(self._file)
            os.close(self._file)
            self._file = -1
