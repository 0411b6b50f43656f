"""Spares: inits made ahead of their job, already in their namespaces with /proc mounted, so that a spawn does not wait for that.

One at rest; more, up to SPARES_MAX, while jobs wait. Where namespaces cannot be had the spares come without, and say why.
"""

import gc
import os
import signal
import socket
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from unios.kernel import cgroups, clone, init, mounts, poller, runfiles, trees_protocol
from unios.kernel.freezer import Freezer
from unios.limits import SPARE_TIMEOUT_S, SPARES_MAX

FAILURES_MAX: Final = 3
"""Spares that die one after the other before namespaces are given up."""


class Spare(NamedTuple):
    """An init without a job. Whoever takes it owns pidfd and control."""

    pid: int
    start: int
    pidfd: int
    control: socket.socket
    namespaces: bool


class Spares:
    """Those of one guard. `ready` is called when one has become so."""

    def __init__(self, loop: poller.Poller, node_folder: str, place: cgroups.Place | None, *, namespaces: bool, ready: Callable[[], None]) -> None:
        self._loop, self._folder, self._place, self._ready_callback = loop, node_folder, place, ready
        self.namespaces = namespaces
        self.why_not = "" if namespaces else "they are switched off"
        """Why trees get no namespaces."""
        self._failures = 0
        self._making: dict[int, Spare] = {}
        self._ready: list[Spare] = []
        gc.collect()
        gc.freeze()

    def take(self) -> Spare | None:
        """Return a spare if one is ready."""
        while self._ready:
            spare = self._ready.pop()
            self._loop.remove(spare.control.fileno())
            if runfiles.start_of(spare.pid) == spare.start:
                return spare
            self._discard(spare)
        return None

    def want(self, jobs: int) -> None:
        """See to it that there will be a spare for each of `jobs` waiting ones, and one more at rest; bounded."""
        wanted = min(SPARES_MAX, jobs + 1)
        while len(self._making) + len(self._ready) < wanted:
            if not self._make():
                return

    def _make(self) -> bool:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        uid, gid = os.getuid(), os.getgid()
        try:
            pid, pidfd = clone.clone3(mounts.flags() if self.namespaces else 0)
        except OSError as error:
            mine.close()
            theirs.close()
            return self._give_up(error.strerror or str(error)) and self._make()
        if pid == 0:
            self._be(theirs, uid, gid)
        theirs.close()
        spare = Spare(pid, runfiles.start_of(pid), pidfd, mine, self.namespaces)
        self._making[mine.fileno()] = spare
        self._loop.add(mine.fileno(), lambda _mask: self._heard(spare))
        self._loop.after(SPARE_TIMEOUT_S, lambda: self._too_late(spare))
        return True

    def _give_up(self, why: str) -> bool:
        """Go on without namespaces; False if even that failed."""
        if not self.namespaces:
            runfiles.complain(f"cannot make an init: {why}")
            return False
        self.namespaces, self.why_not, self._failures = False, why, 0
        runfiles.complain(f"trees get no namespaces of their own: {why}")
        clone.become_subreaper()
        return True

    def _be(self, control: socket.socket, uid: int, gid: int) -> NoReturn:
        """Become the spare: nothing of the guard's stays open, its lock least of all."""
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
            os.setsid()
            os.chdir("/")
            os.dup2(control.fileno(), 3, inheritable=False)
            os.closerange(4, os.sysconf("SC_OPEN_MAX"))
            mine = socket.socket(fileno=3)
            clone.name_process("unios-init")
            try:
                if self.namespaces:
                    mounts.settle(uid, gid)
                else:
                    clone.become_subreaper()
            except OSError as error:
                mine.sendall(trees_protocol.encode({"ready": False, "text": str(error)}))
                os._exit(1)
            init.serve(mine, self._folder, self._freezer, namespaces=self.namespaces)
        finally:
            os._exit(70)

    def _freezer(self, tree: str) -> Freezer:
        return Freezer(self._place, tree, namespaces=self.namespaces)

    def _heard(self, spare: Spare) -> None:
        """A spare says that it is ready, or that it cannot be; or it is gone."""
        try:
            data = spare.control.recv(4096, socket.MSG_DONTWAIT)
            frames = trees_protocol.Decoder().feed(data)
        except BlockingIOError:
            return
        except (OSError, trees_protocol.Garbage):
            data, frames = b"", []
        fields = frames[0].fields if frames else None
        if fields and fields.get("ready"):
            self._making.pop(spare.control.fileno(), None)
            self._failures = 0
            self._ready.append(spare)
            self._ready_callback()
            return
        self._lost(spare, str(fields.get("text", "")) if fields else "the init died")

    def _lost(self, spare: Spare, why: str) -> None:
        self._loop.remove(spare.control.fileno())
        self._discard(spare)
        self._failures += 1
        if spare.namespaces and self.namespaces and (why != "the init died" or self._failures >= FAILURES_MAX):
            self._give_up(why)
        self._loop.after(0.1 * self._failures if self._failures < 50 else 5.0, self._ready_callback)

    def _too_late(self, spare: Spare) -> None:
        if self._making.get(spare.control.fileno()) == spare:
            self._lost(spare, "the init did not get ready in time")

    def _discard(self, spare: Spare) -> None:
        self._making.pop(spare.control.fileno(), None)
        if spare in self._ready:
            self._ready.remove(spare)
        try:
            signal.pidfd_send_signal(spare.pidfd, signal.SIGKILL)
        except OSError:
            pass
        os.close(spare.pidfd)
        spare.control.close()

    def drop(self, spare: Spare) -> None:
        """End a spare that was taken and is not needed."""
        self._discard(spare)

    def close(self) -> None:
        """End the spares."""
        for spare in [*self._making.values(), *self._ready]:
            self._loop.remove(spare.control.fileno())
            self._discard(spare)
