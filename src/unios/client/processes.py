"""Processes from the caller's side: start, watch, signal.

`submit`, `view`, `wait` and `list_processes` are idempotent and go on after the death of the kernel they talk to: another one is
asked, for at most CLIENT_RECONNECT_MS. `signal` is asked once. Following the output is in output.py.
"""

import os
import time

from unios.client import ports
from unios.client.channel import Channel
from unios.client.connection import Connection
from unios.errors import CallerError, DiskFull, Misused, NotFound, ProgramNotRunnable, Unavailable, UniosError
from unios.limits import ARGUMENT_BYTES_MAX, CALL_TIMEOUT_MS, CLIENT_TOLD_MS, SPEC_BYTES_MAX, SUBMIT_TIMEOUT_MS, SUBMIT_WAIT_MS
from unios.wire.operations import (
    Empty,
    ListProcesses,
    OfProcess,
    ProcessStats,
    ProcessView,
    Program,
    Renice,
    Signal,
    Signalled,
    Submit,
    Submitted,
    UserUsage,
)

ENDED = frozenset({"exited", "failed", "lost"})
_GLANCE_MS = 1
_TURN_MS = 20_000
"""`wait` asks in turns of this length, so that a silent connection is noticed."""


def check(program: Program) -> None:
    """Raise what the system would say of a program that it could never take: CallerError, or ProgramNotRunnable over the bounds."""
    if not program.argv or not program.argv[0]:
        raise Misused("no program was named")
    total = 0
    for text in (*program.argv, *(name + b"=" + value for name, value in program.env), program.cwd):
        total += len(text) + 1
        if b"\0" in text:
            raise CallerError("an argument or environment string holds a zero byte; Linux cannot pass it on")
        if len(text) > ARGUMENT_BYTES_MAX:
            raise ProgramNotRunnable(
                f"argument list too long: one argument or environment string has {len(text)} bytes, the limit is {ARGUMENT_BYTES_MAX}"
            )
    if total > SPEC_BYTES_MAX:
        raise ProgramNotRunnable(f"argument list too long: arguments and environment have {total} bytes together, the limit is {SPEC_BYTES_MAX}")


def submit(connection: Connection, program: Program) -> Submitted:
    """Start a program; the record is durable when this returns. A lost answer is asked for again under the same request id."""
    check(program)
    request = Submit(program, os.urandom(16).hex())

    def attempt() -> Submitted:
        placement = connection.service("placement", lambda: placement_of(connection))
        submitted: Submitted = placement.call("submit", request, Submitted, timeout_s=SUBMIT_TIMEOUT_MS / 1000)
        return submitted

    return connection.persist(attempt)


def placement_of(connection: Connection) -> Channel:
    """Return a channel to the placement service. Raises Unavailable, and NodeUnknown if the connection's node is none of the system."""
    connection.reach()
    try:
        return Channel(ports.connect_raw(connection, "placement", wait_ms=SUBMIT_WAIT_MS), role=connection.role)
    except NotFound as error:
        raise Unavailable(f"the placement service is not there: {error}; `unios status` says why") from error


def view(connection: Connection, pid: int) -> ProcessView:
    """Return the process as it stands; NotFound if there is none."""
    found: ProcessView = connection.ask("processes.wait", OfProcess(pid, _GLANCE_MS), ProcessView)
    return found


def wait(connection: Connection, pid: int, *, timeout_s: float | None = None) -> ProcessView:
    """Return the process once it has ended, or as it stands after `timeout_s`; whatever happens to nodes and kernels meanwhile."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    watch = Watch(connection, pid)
    while True:
        left_ms = watch.wait_ms if deadline is None else min(watch.wait_ms, int((deadline - time.monotonic()) * 1000))
        found: ProcessView = connection.ask("processes.wait", OfProcess(pid, max(left_ms, _GLANCE_MS)), ProcessView)
        if found.state in ENDED or left_ms <= 0:
            return found
        watch.look()


class Watch:
    """Looks, soon and then seldom, whether it is room on a disk that a command waits for, and says so once."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self._connection, self._pid = connection, pid
        self.wait_ms = _TURN_MS if connection.tell is None else CLIENT_TOLD_MS
        """Until it looks again."""
        self._at = time.monotonic() + self.wait_ms / 1000

    def look(self) -> None:
        """Look, if it is time, for CLIENT_TOLD_MS at most: a tree that does not answer holds up nobody. Never raises: it is about nothing but the sentence."""
        now = time.monotonic()
        if self._connection.tell is None or now < self._at:
            return
        self.wait_ms = min(4 * self.wait_ms, _TURN_MS)
        self._at = now + self.wait_ms / 1000
        try:
            self._connection.call("processes.stats", OfProcess(self._pid), ProcessStats, timeout_s=CLIENT_TOLD_MS / 1000)
        except DiskFull as error:
            self._connection.waits_for_room(f"{error}; it is recorded when there is room, and this command waits for that")
        except UniosError:
            pass


def list_processes(connection: Connection, *, ended: bool = False, stale: bool = False) -> tuple[ProcessView, ...]:
    """Return the processes of the system sorted by pid, linearizable; with `ended` those that have ended too; with `stale` as the node knows them, each with
    how old that may be, also while the store does not answer."""
    views: tuple[ProcessView, ...] = connection.ask("processes.list", ListProcesses(ended, stale), tuple[ProcessView, ...])
    return views


def usage(connection: Connection) -> tuple[UserUsage, ...]:
    """Return what each user's processes have used that have ended, sorted by user."""
    views: tuple[UserUsage, ...] = connection.ask("processes.usage", Empty(), tuple[UserUsage, ...])
    return views


def signal(connection: Connection, pid: int, number: int, *, tree: bool = False, timeout_s: float = CALL_TIMEOUT_MS / 1000) -> bool:
    """Send a signal to the program, or with `tree` to every Linux process of its tree; return whether it waits there, since the process is frozen.

    DiskFull: that it shall end cannot be recorded; nothing was sent.
    """
    answer: Signalled = connection.call("processes.signal", Signal(pid, number, tree), Signalled, timeout_s=timeout_s)
    return answer.waits


def freeze(connection: Connection, pid: int) -> None:
    """Stop the tree where it stands. Idempotent."""
    connection.ask("processes.freeze", OfProcess(pid), Empty)


def thaw(connection: Connection, pid: int) -> None:
    """Let a frozen tree go on. Idempotent."""
    connection.ask("processes.thaw", OfProcess(pid), Empty)


def renice(connection: Connection, pid: int, nice: int) -> None:
    """Give every Linux process of the tree a nice value, -20 to 19. Denied if that favours it and one is not privileged. Idempotent."""
    connection.ask("processes.renice", Renice(pid, nice), Empty)


def stats(connection: Connection, pid: int) -> ProcessStats:
    """Return what the tree uses."""
    found: ProcessStats = connection.ask("processes.stats", OfProcess(pid), ProcessStats)
    return found
