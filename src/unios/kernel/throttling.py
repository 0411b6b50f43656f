"""Throttling: an init slows its tree down while that forks against its bound (core/throttle.py says when and by how much).

Woken by Linux when the count of refused forks moves, or by the node's kernel where Linux wakes nobody (version 1 of Linux 6.18, for one); a tree that meets no
bound costs nothing. Only where the tree has a group that can be frozen: without one there is no bound of its own either.
"""

import errno
import os
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from unios.core.throttle import RUN_S, Throttle

if TYPE_CHECKING:
    from unios.kernel.init import Init

WATCH_S: Final = 5.0
WATCH_EVERY_S: Final = 0.2
SETTLE_S: Final = 0.005
SETTLE_S_MAX: Final = 0.1
SETTLED_S_MAX: Final = 5.0
"""So long is waited for all to stand still; who cannot (he waits for one of the same tree, which does) lets the tree run for a moment."""
WAY_S: Final = 1.0
"""So long the tree may run when it has been sent a signal, or somebody thaws it: to do what is asked of it."""
CALM_S: Final = 10.0
"""So long nothing must have been held before it is told that it is over."""


class Throttling:
    """That of one init. Its tree is held only while nothing else holds it, and it is not about to end."""

    def __init__(self, init: "Init") -> None:
        self._init, self._poller, self._freezer = init, init.poller, init.freezer
        self._throttle: Throttle | None = None
        self._first = True
        self._settle_s, self._held_at = SETTLE_S, 0.0
        self._next = 0
        """The timer of what is done next, while it `holds`."""
        self._watch_until, self._watches = 0.0, False
        self.holds = False
        """Whether the tree is being slowed down."""
        self.told, self._calm = False, 0
        self._seen = 0
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
        """Return how many forks have been refused, what was seen last if that cannot be read now. It is over when the group is gone."""
        try:
            for line in os.pread(self._file, 4096, 0).splitlines():
                if line.startswith(b"max "):
                    self._seen = int(line[4:])
        except OSError as error:
            if error.errno == errno.ENODEV:
                self.close()
        except ValueError:
            pass
        return self._seen

    def _may_run(self) -> bool:
        """Whether nothing else holds the tree, and it is not about to end."""
        init = self._init
        return init.started and not (init.ending or init.leash is None or init.leash.frozen or init.leash.killed)

    def _moved(self) -> None:
        refused = self._refused()
        if not self.holds and self._throttle is not None and self._may_run() and self._throttle.begins(time.monotonic(), refused):
            self.holds = self._first = True
            self._init.disturbed = True
            self._hold()
            if self.holds and not self.told:
                self._tell(on=True)

    def _then(self, seconds: float, work: Callable[[], None]) -> None:
        self._poller.cancel(self._next)
        self._next = self._poller.after(seconds, work)

    def _hold(self) -> None:
        if not self._may_run() or not self._freezer.hold():
            self._stop()
            return
        self._settle_s, self._held_at = SETTLE_S, time.monotonic()
        self._then(self._settle_s, self._look)

    def _look(self) -> None:
        """See whether all stand still."""
        if not self._may_run():
            self._stop()
        elif self._freezer.settled():
            self._settled()
        elif time.monotonic() > self._held_at + SETTLED_S_MAX:
            self._let_run()
        elif self._freezer.hold():  # again: somebody else may have let it go meanwhile
            self._settle_s = min(SETTLE_S_MAX, self._settle_s * 2)
            self._then(self._settle_s, self._look)
        else:
            self._stop()

    def _settled(self) -> None:
        assert self._throttle is not None
        now = time.monotonic()
        goes_on = self._first or self._throttle.goes_on(now, self._refused())
        self._first = False
        if goes_on:
            self._then(self._throttle.held_s(now), self._let_run)
        else:
            self._end()

    def _let_run(self, seconds: float = RUN_S) -> None:
        if not self._may_run():
            self._stop()
            return
        assert self._throttle is not None
        if not self._freezer.let_go():
            self._then(SETTLE_S_MAX, lambda: self._let_run(seconds))
            return
        self._throttle.lets_run(time.monotonic(), self._refused())
        self._then(seconds, self._hold)

    def _end(self) -> None:
        if self._may_run() and not self._freezer.let_go():
            self._then(SETTLE_S_MAX, self._end)
            return
        self._stop()

    def _stop(self) -> None:
        """Nothing is held any more by this; whatever else holds the tree does so on its own, and lets it go."""
        self._poller.cancel(self._next)
        self.holds = False
        self.begin()
        if self.told:
            self._poller.cancel(self._calm)
            self._calm = self._poller.after(CALM_S, self._tell_calm)

    def _tell_calm(self) -> None:
        if not self.holds and not self._init.ending:
            self._tell(on=False)

    def give_way(self) -> None:
        """Let the tree run for a moment, if it is held: it has been asked for something."""
        if self.holds:
            self._first = False
            self._let_run(WAY_S)

    def program_ended(self) -> None:
        """The tree is about to end, and whoever tells how must not be held; nor is it any more."""
        if self.holds:
            self._end()
        self.close()

    def _tell(self, *, on: bool) -> None:
        self.told = on
        job = self._init.job
        self._init.tell({"event": "throttled", "pid": job.pid, "incarnation": job.incarnation, "on": on})

    def close(self) -> None:
        """Watch no more; idempotent."""
        if self._file >= 0:
            self._poller.remove(self._file)
            os.close(self._file)
            self._file = -1
