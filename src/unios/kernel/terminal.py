"""Terminal: the pseudo-terminal of one tree. Its master belongs to the tree's init, its slave is the program's stdin, stdout and stderr.

What the program writes goes into the stream `out` like any other output; what is typed arrives as stdin does. Typing never ends: nobody who leaves
closes the terminal. The window is that of whoever spoke last. A typist who asked for it and vanishes hangs the terminal up: SIGHUP, as from a modem.

Invariants: the master lives as long as the init; an end-of-file of the master ends nothing, since another process of the tree may open the slave again.
"""

import contextlib
import errno
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable
from typing import Any, Final

from unios.kernel.poller import Client, Poller
from unios.kernel.pumps import InputPump, OutputPump
from unios.limits import STREAM_HOLD_S, TERMINAL_AGAIN_S, TERMINAL_NUDGE_S, WINDOW_MAX
from unios.wire.modes import Modes

_SIZE: Final = struct.Struct("4H")
_INPUT_IS_UTF8: Final = 0o40000


def open_pair(uid: int, rows: int, columns: int) -> tuple[int, int]:
    """Return master and slave of a new terminal of that size, whose slave belongs to `uid`. Raises OSError."""
    master, slave = os.openpty()
    try:
        os.set_blocking(master, False)
        if os.fstat(slave).st_uid != uid:
            os.fchown(slave, uid, -1)
        modes = termios.tcgetattr(slave)
        modes[0] |= _INPUT_IS_UTF8  # so that backspace takes a whole character
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        set_size(master, rows, columns)
    except OSError:
        os.close(master)
        os.close(slave)
        raise
    return master, slave


def set_size(descriptor: int, rows: int, columns: int) -> None:
    """Set the window's size; Linux sends SIGWINCH if it is another one."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, _SIZE.pack(clamped(rows), clamped(columns), 0, 0))


def clamped(cells: int) -> int:
    return max(1, min(int(cells), WINDOW_MAX))


class Terminal:
    """That of one tree. `program()` is the program's pid while it lives, else 0. Raises OSError if Linux gives no terminal."""

    def __init__(self, poller: Poller, uid: int, size: tuple[int, int], program: Callable[[], int]) -> None:
        self._poller, self._program = poller, program
        self.master, self._slave = open_pair(uid, *size)
        self.path = os.ttyname(self._slave)
        self.modes = Modes()
        self._size = (clamped(size[0]), clamped(size[1]))
        self._typists: dict[Client, bool] = {}
        """Who types, and whether his vanishing hangs up."""
        self._left_in_anger = 0

    # what the door asks

    def ask(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Resize, nudge or hang up, as far as `fields` say so; return what the terminal is."""
        if int(fields.get("rows", 0)) > 0:
            self._resize((clamped(fields["rows"]), clamped(fields["columns"])))
        if fields.get("nudge"):
            self._nudge()
        if fields.get("hang_up"):
            self.hang_up()
        return {"rows": self._size[0], "columns": self._size[1], "modes": self.modes.text().decode("ascii")}

    def _resize(self, size: tuple[int, int]) -> None:
        self._size = size
        set_size(self.master, *size)

    def _nudge(self) -> None:
        """Make a full-screen program draw everything again: the window is one row off for a moment. A bare SIGWINCH is ignored where nothing changed."""
        rows, columns = self._size
        set_size(self.master, rows - 1 if rows > 1 else rows + 1, columns)
        self._poller.after(TERMINAL_NUDGE_S, lambda: set_size(self.master, *self._size))

    def types(self, client: Client, *, hang_up: bool) -> None:
        """Note a typist; asked again with `hang_up` off, he may go without consequence."""
        self._typists[client] = hang_up

    def gone(self, client: Client) -> None:
        """Forget a typist. If his vanishing shall hang up, he has a while to come back, or another who wants the same has."""
        if self._typists.pop(client, False):
            self._left_in_anger += 1
            number = self._left_in_anger
            self._poller.after(STREAM_HOLD_S, lambda: self._abandoned(number))

    def _abandoned(self, number: int) -> None:
        if number == self._left_in_anger and not self._typists:
            self.hang_up()

    def hang_up(self) -> None:
        """Send SIGHUP to the program and to what is in the foreground, and let go on what is stopped. The terminal stays: what ignores it can be attached."""
        for number in (signal.SIGHUP, signal.SIGCONT):
            with contextlib.suppress(OSError):
                group = struct.unpack("i", fcntl.ioctl(self.master, termios.TIOCGPGRP, b"\0" * 4))[0]
                if group > 0:
                    os.killpg(group, number)
            with contextlib.suppress(OSError):
                if self._program():
                    os.kill(self._program(), number)


class TerminalOutput(OutputPump):
    """What comes out of the master, into the stream of a pump that gives it up."""

    def __init__(self, terminal: Terminal, poller: Poller, before: OutputPump) -> None:
        super().__init__(poller, terminal.master, *before.give_up())
        self._modes = terminal.modes
        self._resting = False

    def update(self) -> None:
        if not self._resting:
            super().update()

    def take(self, into: memoryview) -> int:
        """Read from the master; while nobody has the slave open Linux says EIO, which is no end: somebody may open it again."""
        try:
            count = super().take(into)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._rest()
            raise BlockingIOError from None
        self._modes.see(bytes(into[:count]))
        return count

    def _rest(self) -> None:
        if not self._resting:
            self.unwatch()
            self._resting = True
            self._poller.after(TERMINAL_AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        self._resting = False
        self.update()


class TerminalInput(InputPump):
    """What goes into the master: a descriptor of its own, since the other one is watched for reading. It has no end."""

    def __init__(self, terminal: Terminal, poller: Poller, progress: Callable[[], None]) -> None:
        super().__init__(poller, fcntl.fcntl(terminal.master, fcntl.F_DUPFD_CLOEXEC, 0), progress)

    def end(self) -> None:
        """Do nothing: who has no more to type leaves, and the terminal stays."""
