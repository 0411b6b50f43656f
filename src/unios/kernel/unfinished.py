"""An unfinished `up`: kept on disk while one is under way, and taken back when it is broken off or was killed. What is taken back is decided in core/.

A signal, and a caller that is gone, break an `up` off: BrokenOff is raised wherever it is, and the context takes back what it had done. What a SIGKILL
left is gone on with by the next `up`, and taken back by `down --all`.
"""

import contextlib
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from typing import Final

from unios.core.unfinished import Seen, Unfinished, plan_undo
from unios.errors import CallerError, Unavailable, UniosError
from unios.kernel import founding, runfiles, sweep, system
from unios.limits import LEASE_TTL_MS
from unios.wire.home import Home, NodeFolder
from unios.wire.operations import Leave, RemoveNode

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
END_S: Final = 30.0
"""So long an `up` that is told to end has to take back what it did."""
LEAVE_MS: Final = 10_000


class BrokenOff(BaseException):
    """Nobody wants this `up` any more."""


def check(descriptor: int = 1) -> None:
    """Raise BrokenOff if who reads a pipe has gone."""
    poll = select.poll()
    poll.register(descriptor, 0)
    if poll.poll(0):
        raise BrokenOff


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Raise BrokenOff at a signal, once: what is done then is not broken off again."""

    def broken_off(*_: object) -> None:
        deafen()
        raise BrokenOff

    before = {number: signal.signal(number, broken_off) for number in SIGNALS}
    try:
        yield
    except BrokenOff:
        raise Unavailable("it was broken off before it had begun") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def deafen() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def noted(home: Home, say: Callable[..., None], *, joins: bool) -> Iterator[None]:
    """Keep on disk that an `up` is under way, and take it back if it is broken off. Under the lock of `up`."""
    began = read(home)
    if began is not None and not home.system_file.exists():
        take_back(home, began, at_once=False)
        began = None
    names = [folder.name for folder in home.nodes()]
    fresh = not home.system_file.exists()
    now = Unfinished(os.getpid(), runfiles.start_of(os.getpid()), tuple(names), tuple(_running(home)), fresh, joins)
    if began is not None:  # one that was killed is gone on with: this one answers for both
        now = Unfinished(now.pid, now.start, began.nodes, began.running, began.fresh, began.joins)
    system.write(home.unfinished, now)
    try:
        yield
    except BrokenOff:
        deafen()
        say(progress="broken off: taking back what was started")
        stayed = ", ".join(take_back(home, now, at_once=True))
        rest = f", but for {stayed}: it stays a member, `unios up` starts it" if stayed else ""
        raise Unavailable(f"it was broken off, and what it had started was taken back{rest}") from None
    except Exception:
        runfiles.remove(home.unfinished)
        raise
    runfiles.remove(home.unfinished)


def read(home: Home) -> Unfinished | None:
    """Return what is known of an `up` that has not ended, None if there is none or nobody can tell."""
    with contextlib.suppress(OSError, UniosError):
        return system.read(home.unfinished, Unfinished)
    return None


def end(home: Home) -> None:
    """Take back an `up` that was killed, once all nodes are down."""
    began = read(home)
    if began is not None:
        take_back(home, began, at_once=False)


def break_off(home: Home) -> None:
    """Tell an `up` that is under way to end, and wait for it."""
    began = read(home)
    if began is not None and runfiles.kill(running := runfiles.Running(began.pid, began.start), signal.SIGTERM):
        runfiles.wait_gone(running, END_S)


def take_back(home: Home, began: Unfinished, *, at_once: bool) -> list[str]:
    """Do what the plan says; return the nodes that cannot be made to leave now, and stay members."""
    undo = plan_undo(began, look(home), at_once=at_once)
    stayed = [name for name in undo.leave if not _leave(home, name)]
    for name in undo.stop if set(undo.stop) - set(undo.remove) else ():  # what goes altogether need not be asked
        with contextlib.suppress(OSError, UniosError):
            founding.ask(home.node(name), "node.stop", Leave(force=True), timeout_ms=LEAVE_MS)
    sweep.stop([home.node(name) for name in (*undo.stop, *undo.leave)])
    for name in undo.remove:
        if name not in stayed:
            shutil.rmtree(home.node(name).path, ignore_errors=True)
    if undo.system and not stayed:
        runfiles.remove(home.system_file)
        for folder in (home.ca, home.store):
            shutil.rmtree(folder, ignore_errors=True)
    runfiles.remove(home.unfinished)
    return stayed


def look(home: Home) -> Seen:
    names = sorted(entry.name for entry in os.scandir(home.nodes_folder) if entry.is_dir()) if home.nodes_folder.exists() else []
    folders = [home.node(name) for name in names]
    return Seen(names, _running(home), [folder.name for folder in folders if _entered(folder)], _used(home, folders))


def _running(home: Home) -> list[str]:
    return [folder.name for folder in home.nodes() if runfiles.read(folder.run / "supervisor.json") is not None]


def _entered(folder: NodeFolder) -> bool:
    """Whether it may have been in the system: it has taken links, or registered."""
    with contextlib.suppress(OSError, UniosError):
        if system.read(folder.node_file, system.NodeFile).address:
            return True
    return folder.ready.exists() or (folder.run / "lease.json").exists()


def _used(home: Home, folders: list[NodeFolder]) -> bool:
    if any(folder.trees.exists() and any(os.scandir(folder.trees)) for folder in folders):
        return True
    with contextlib.suppress(OSError, UniosError):
        known = system.read(home.system_file, system.SystemFile)
        return any(machine != known.machine for machine in known.machines.values())
    return home.system_file.exists()


def _leave(home: Home, name: str) -> bool:
    """Take a new node out of its system: by itself if it answers, else by another of this machine once its lease has ended."""
    folder = home.node(name)
    with contextlib.suppress(OSError, UniosError):
        founding.ask(folder, "node.leave", Leave(force=True), timeout_ms=LEAVE_MS)
        return True
    sweep.stop([folder])
    until = time.monotonic() + 3 * LEASE_TTL_MS / 1000
    for other in home.nodes():
        while other.name != name and founding.is_ready(other):
            try:
                founding.ask(other, "node.remove", RemoveNode(name), timeout_ms=LEAVE_MS)
                return True
            except CallerError:  # its lease stands still
                if time.monotonic() > until:
                    return False
                time.sleep(0.05)
            except (OSError, UniosError):
                break
    return False
