"""Attachment: a person's terminal at a process, whatever happens to kernels and nodes meanwhile.

Each byte of output is shown once; after a broken connection it goes on where it was. Where the process was started again elsewhere, that is said and the
output begins anew. What is typed is sent once or not at all: what was under way when a connection broke may be lost, as on any line.
"""

import time
from collections.abc import Iterable
from typing import Protocol

from unios.client import processes
from unios.client.connection import PASSING, Connection
from unios.client.conversation import Local, converse
from unios.client.output import Anew
from unios.client.processes import ENDED
from unios.errors import NotFound, Unavailable, UniosError
from unios.limits import CLIENT_LOOK_MS, CLIENT_OUTPUT_RETRY_MS, CLIENT_RETRY_MS, TERMINAL_REPLAY_BYTES
from unios.wire.operations import Chunk, Follow, ProcessView
from unios.wire.terminals import AskTerminal, Attach, TerminalView, Typed

_TURN_S = 0.2
_WAITING_MAX = 256
_IDLE_MAX = 3


class Seat(Local, Protocol):
    """The person's side of an attachment."""

    def begin(self, *, terminal: bool) -> None:
        """The process is there: its terminal takes over, if it has one. Idempotent."""

    def rest(self) -> None:
        """There is no process for now: the local terminal is the person's own. Idempotent."""

    def window(self) -> tuple[int, int]:
        """Return rows and columns, (0, 0) where there are none."""

    def replay(self, past: bytes, modes: bytes, *, whole: bool) -> None:
        """Show the last output of a terminal that has just been attached."""

    def show(self, chunk: Chunk) -> None:
        """Show output."""

    def tell(self, anew: Anew) -> None:
        """Say that the process was started again."""


class Attachment:
    """`hang_up`: should this side vanish, the terminal is hung up. `hold`: the process waits for this reader rather than lose output."""

    def __init__(self, connection: Connection, pid: int, seat: Seat, *, hang_up: bool = False, hold: bool = False) -> None:
        self._connection, self._pid, self._seat = connection, pid, seat
        self._hang_up, self._hold = hang_up, hold
        self._incarnation, self._node = 0, ""
        self._offsets = {"out": 0, "err": 0}
        self._waiting: list[Typed] = []
        self._failure: UniosError | None = None
        self._seen = False
        """Whether all output that there was has been shown."""
        self._idle = 0
        """How often it was attached in a row without any output: its record may say a moment later that it has ended."""
        self._fresh = True
        """Whether what was said before has still to be shown."""
        self._own = False
        """Whether we have started it."""

    def run(self, begun: ProcessView | None = None) -> ProcessView | None:
        """Stay until the process has ended for good (returns its record) or the person has left (None).

        `begun`: it was submitted just now by us, in a terminal, so its output is shown from the start; else its last output is shown first. Raises NotFound,
        Denied, and Unavailable when no kernel answers for CLIENT_RECONNECT_MS.
        """
        give_up_at = 0.0
        watch = processes.Watch(self._connection, self._pid)
        self._fresh, self._own = begun is None, begun is not None
        if begun is not None:
            self._incarnation, self._node = begun.incarnation, begun.node
        while not self._seat.left:
            now = self._settled(watch)
            if now is None:
                break
            self._follow_to(now)
            if now.state in ENDED:
                if (self._seen and self._failure is None) or now.state == "failed":
                    return now
                give_up_at = give_up_at or time.monotonic() + CLIENT_OUTPUT_RETRY_MS / 1000
                if time.monotonic() >= give_up_at:
                    return now  # the rest of its output cannot be reached: the node is gone
            self._failure = None
            try:
                if not self._sit():
                    break
                self._seen = True
                self._idle += 1
                if self._idle > _IDLE_MAX:
                    watch.look()
                    time.sleep(CLIENT_RETRY_MS / 1000)
            except NotFound as error:
                self._failure = error
            except PASSING as error:
                self._failure = error
            if self._failure is not None:
                time.sleep(CLIENT_RETRY_MS / 1000)
        return None

    def _settled(self, watch: processes.Watch) -> ProcessView | None:
        """Return the record once it is not pending; None if the person has left meanwhile."""
        while True:
            now = processes.wait(self._connection, self._pid, timeout_s=0)
            if now.state != "pending":
                return now
            self._seat.rest()
            watch.look()
            processes.wait(self._connection, self._pid, timeout_s=_TURN_S)
            self._keep(self._seat.typed([]))
            if self._seat.left:
                return None

    def _keep(self, typed: Iterable[Typed]) -> None:
        """Keep what is typed ahead; what exceeds the bound is dropped."""
        self._waiting = [*self._waiting, *typed][:_WAITING_MAX]

    def _follow_to(self, now: ProcessView) -> None:
        if self._incarnation and now.incarnation > self._incarnation:
            self._seat.rest()
            self._seat.tell(Anew(now.pid, now.incarnation, now.node, self._node, now.reason if now.state not in ENDED else ""))
            self._offsets, self._seen = {"out": 0, "err": 0}, False
        self._incarnation, self._node = now.incarnation, now.node

    def _sit(self) -> bool:
        """Attach once. True when the connection or the incarnation has ended, False when the person has left."""
        there = self._ask_terminal()
        self._seat.begin(terminal=there.rows > 0 or self._own)
        fresh = self._fresh
        if fresh:
            self._catch_up(there)
        offsets = self._offsets
        channel = self._connection.channel()
        attach = Attach(self._pid, self._incarnation, offsets["out"], offsets["err"], self._hold, self._hang_up)
        asked = self._connection.begin("processes.attach", attach)
        try:
            if there.rows and fresh:
                self._connection.call("processes.terminal", AskTerminal(self._pid, nudge=True), TerminalView)
                self._fresh = False
            for typed in self._waiting:
                asked.send(typed)
            self._waiting = []
            stayed = converse(channel, asked, self._seat, Chunk, self._take, quiet_s=CLIENT_LOOK_MS / 1000, quiet=self._is_there)
            if not stayed:
                asked.end_items()
                asked.finish(timeout_s=1.0)
            return stayed
        except PASSING:
            if self._seat.left:
                return False
            raise
        finally:
            asked.close()

    def _ask_terminal(self) -> TerminalView:
        rows, columns = self._seat.window()
        try:
            found: TerminalView = self._connection.call("processes.terminal", AskTerminal(self._pid, rows, columns), TerminalView)
        except (NotFound, Unavailable):  # it has ended; its output may still be there
            return TerminalView()
        return found

    def _catch_up(self, there: TerminalView) -> None:
        """Show the last output, and go on where that ends."""
        start = {"out": max(0, there.out_end - TERMINAL_REPLAY_BYTES), "err": max(0, there.err_end - TERMINAL_REPLAY_BYTES)}
        if not there.incarnation:
            start = {"out": -TERMINAL_REPLAY_BYTES, "err": -TERMINAL_REPLAY_BYTES}
        asked = self._connection.begin("processes.follow", Follow(self._pid, self._incarnation, start["out"], start["err"], follow=False))
        past, first = b"", 0
        try:
            while (chunk := asked.next(Chunk)) is not None:
                self._offsets[chunk.stream] = chunk.offset + len(chunk.data)
                if not there.rows:
                    self._seat.show(Chunk(chunk.stream, chunk.incarnation, chunk.offset, chunk.data))
                elif chunk.stream == "out":
                    first = first if past else chunk.offset
                    past += chunk.data
        finally:
            asked.close()
        if there.rows:
            self._seat.replay(past, there.modes, whole=first == 0)
        else:
            self._fresh = False

    def _take(self, chunk: Chunk) -> None:
        self._offsets[chunk.stream] = chunk.offset + len(chunk.data)
        self._idle = 0
        self._seat.show(chunk)

    def _is_there(self) -> bool:
        return processes.view(self._connection, self._pid).incarnation == self._incarnation


def hang_up(connection: Connection, pid: int, *, timeout_s: float) -> None:
    """Hang a process's terminal up: SIGHUP to it and to what is in the foreground."""
    connection.call("processes.terminal", AskTerminal(pid, hang_up=True), TerminalView, timeout_s=timeout_s)
