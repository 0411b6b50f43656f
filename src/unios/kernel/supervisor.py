"""The supervisor of a node: keeps its kernel, guard, services and store alive. The reincarnation server of MINIX 3.

What to do is decided by core/supervision.py from deaths (pidfds) and beats; this loop only looks and carries out. It adopts what
a predecessor left running (run files) and holds a lock so that a node never has two. The guard restarts the supervisor if it dies.

The store's process belongs to the machine and not to one node: any supervisor of a machine that has one and that finds the store's lock
free starts it; the lock decides a race.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
from typing import Final

from unios.core.supervision import Died, Event, Kill, Order, Start, Started, Supervision, Tick, Wanted
from unios.errors import UniosError
from unios.kernel import freezer, installations, mount_records, parts, runfiles, system
from unios.kernel.beats import BEATERS, Beats
from unios.kernel.clocks import boot_ms
from unios.kernel.journals import open_journal
from unios.kernel.owner import GIVEN_UP, Owner
from unios.kernel.system import SystemFile
from unios.wire.home import Home, NodeFolder
from unios.wire.installation import Installation, own_place

STOP_S: Final = 4.0
"""How long parts of a kind have together to end on SIGTERM before they are killed."""


class Supervisor:
    """One per node, in a process of its own."""

    def __init__(self, folder: NodeFolder) -> None:
        self.folder = folder
        self.home = Home(parts.home_of(folder))
        self.beats = Beats(folder.beats)
        self._names = ["guard", "kernel", *parts.SERVICES]
        self.decider = Supervision(self._names)
        self._journal = open_journal(folder, "supervisor")
        self.stopping = False
        self._news = True
        """Whether what `status` shows may have changed."""
        self._system_seen, self._hosts, self._store_lock = (0, 0), False, -1
        self._poll = select.poll()
        self._pidfds: dict[int, tuple[str, runfiles.Running]] = {}
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        self.owner = Owner(self.home)
        if self.owner.descriptor >= 0:
            self._poll.register(self.owner.descriptor, select.POLLIN)
            signal.signal(GIVEN_UP, self._on_given_up)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._poll.register(self._wake, select.POLLIN)

    def _on_stop(self, *_: object) -> None:
        self.stopping = True

    def _on_given_up(self, *_: object) -> None:
        self.owner.gone = True

    def run(self) -> int:
        """Supervise until SIGTERM; then stop the parts in order and return the exit code. Without the owner of an embedded system, take all away."""
        for name in BEATERS[1:]:
            self._adopt(name)
        while not self.stopping and not self.owner.gone:
            self.beats.beat("supervisor")
            self._look_after_store()
            self._look_for_wanted()
            now_ms, beats = boot_ms(), self.beats.all_ms()
            self._tell(Tick(now_ms, beats))
            self._write_status()
            self._wait(self.decider.wait_ms(now_ms, beats) / 1000)
        if self.owner.gone:
            self.owner.take_away(self.folder)
        else:
            self._stop_parts()
        return 0

    def _adopt(self, name: str) -> None:
        running = runfiles.read(self.folder.run / f"{name}.json")
        if running is not None and self._watch(name, running):
            if name == "store" or name in parts.BY_FILE:
                self._tell(Wanted(name))
            self._tell(Started(name, running.pid, boot_ms()))

    def _watch(self, name: str, running: runfiles.Running) -> bool:
        descriptor = runfiles.open_pidfd(running)
        if descriptor is None:
            return False
        self._pidfds[descriptor] = (name, running)
        self._poll.register(descriptor, select.POLLIN)
        return True

    def _wait(self, seconds: float) -> None:
        for descriptor, _mask in self._poll.poll(seconds * 1000):
            if descriptor == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            elif descriptor == self.owner.descriptor:
                self.owner.gone = True
            elif descriptor in self._pidfds:
                self._buried(descriptor)

    def _buried(self, descriptor: int) -> None:
        name, running = self._pidfds.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        code, number = _reap(running.pid)
        runfiles.remove(self.folder.run / f"{name}.json")
        if name == "store" and code == 0:
            self._tell(Wanted(name, run=False))  # another node of this machine holds the store
        elif name in parts.BY_FILE and code == 0:
            if name in parts.ON_DEMAND:
                runfiles.remove(parts.wanted(self.folder, name))  # another node does it, or nobody needs it
            if not parts.is_needed(self.folder, name):  # looked at afterwards: what was mounted since then is seen, or its service wanted again
                self._tell(Wanted(name, run=False))
                return
            parts.want(self.folder, name)
            self._tell(Died(name, running.pid, code, number, boot_ms()))
        else:
            self._tell(Died(name, running.pid, code, number, boot_ms()))

    def _look_after_store(self) -> None:
        if not self.decider.knows("store") and self._hosts_store() and self._lock_is_free():
            self._tell(Wanted("store"))

    def _look_for_wanted(self) -> None:
        for name in parts.BY_FILE:
            if not self.decider.knows(name) and parts.wanted(self.folder, name).exists():
                self._tell(Wanted(name))

    def _hosts_store(self) -> bool:
        """Whether the embedded store lives on this machine; the file is read when it has changed."""
        try:
            found = os.stat(self.home.system_file)
        except OSError:
            return False
        if self._system_seen != (found.st_ino, found.st_mtime_ns):
            self._system_seen, self._hosts = (found.st_ino, found.st_mtime_ns), hosts_store(self.home)
        return self._hosts

    def _lock_is_free(self) -> bool:
        """Whether no process holds the store; asked again by the store itself, so a race does no harm."""
        if self._store_lock < 0:
            self.home.store.mkdir(mode=0o700, exist_ok=True)
            self._store_lock = os.open(self.home.store / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._store_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.close(self._store_lock)  # which lets it go; the next look opens what is there by then
        self._store_lock = -1
        return True

    def _tell(self, event: Event) -> None:
        orders = self.decider.on(event)
        self._news = self._news or bool(orders) or not isinstance(event, Tick)
        if self._journal is not None:
            self._journal.write("supervision", event, orders, made=[self._names])
        self._carry_out(orders)

    def _carry_out(self, orders: list[Order]) -> None:
        for order in orders:
            match order:
                case Start(name):
                    self._start(name)
                case Kill(name, pid, why):
                    runfiles.complain(f"killing {name} ({pid}): {why}")
                    for watched, running in list(self._pidfds.values()):
                        if watched == name and running.pid == pid:
                            runfiles.kill(running, signal.SIGKILL)

    def _start(self, name: str) -> None:
        try:
            pid = parts.start(self.folder, name, self.beats)
        except OSError as error:  # no room on the disk, no process to be had: the decider asks again after a while
            runfiles.complain(f"cannot start {name}: {error}")
            return
        self._watch(name, runfiles.Running(pid, runfiles.start_of(pid)))
        self._tell(Started(name, pid, boot_ms()))

    def _write_status(self) -> None:
        """Leave for the kernel what `status` shows of the parts, when it may have changed."""
        if not self._news:
            return
        with contextlib.suppress(OSError):  # a full disk: `status` shows what was
            runfiles.place(self.folder.run / "parts", json.dumps([part.describe() for part in self.decider.status()]))
            self._news = False

    def _stop_parts(self) -> None:
        """End services first and the store last, so that each can still write what it has to."""
        for names in ((*parts.SERVICES, *parts.ON_DEMAND), ("kernel",), ("guard",), ("store",), ("member",)):
            mine = [running for name, running in self._pidfds.values() if name in names]
            for running in mine:
                runfiles.kill(running, signal.SIGTERM)
            hung = runfiles.wait_all_gone(mine, STOP_S)
            for running in hung:
                runfiles.kill(running, signal.SIGKILL)
            runfiles.wait_all_gone(hung, STOP_S)
            for running in mine:
                _reap(running.pid)
        mount_records.take_away(self.folder)
        freezer.tidy(self.folder.path)
        for name in parts.ON_DEMAND:
            runfiles.remove(parts.wanted(self.folder, name))
        for name in (*BEATERS, "ready"):
            runfiles.remove(self.folder.run / (f"{name}.json" if name != "ready" else name))


def _reap(pid: int) -> tuple[int, int]:
    """Return (exit code, signal) of a child that has ended; (-1, 0) if it was not ours to reap."""
    try:
        _pid, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return -1, 0
    return (-1, os.WTERMSIG(status)) if os.WIFSIGNALED(status) else (os.waitstatus_to_exitcode(status) if _pid else -1, 0)


def hosts_store(home: Home) -> bool:
    """Whether a process of this machine answers for the store."""
    try:
        return system.read(home.system_file, SystemFile).has_store
    except (OSError, UniosError):
        return False


def restart(folder: NodeFolder, one: Installation | None = None) -> list[str]:
    """Return the command line that starts a node's supervisor, of this installation or of `one`."""
    return (one or own_place()).command("unios.kernel.boot", "--home", str(parts.home_of(folder)), "--supervise", folder.name)


def main(folder: NodeFolder) -> int:
    """Be the node's supervisor; 0 at once if it has one."""
    folder.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder.run / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    runfiles.place(folder.run / "restart", json.dumps(restart(folder)))
    Beats(folder.beats).clear("supervisor")
    installations.say(folder, os.getpid())
    runfiles.write(folder.run / "supervisor.json", os.getpid())
    return Supervisor(folder).run()
