"""Full screen: a terminal taken over for a while and given back as it was, whatever happens.

Plain escape sequences that every terminal of today knows, instead of curses: nothing to import, and what is drawn is a list of lines that tests
compare. The terminal is given back at the end of the `with`, at an exception, at SIGTERM and SIGHUP (which raise Ended), and while stopped by
Ctrl-Z. Only SIGKILL cannot be helped: then `reset` does.
"""

import contextlib
import os
import signal
import termios
from types import FrameType
from typing import Any, Final

from unios.client import readiness
from unios.errors import CallerError
from unios.shell.session import write
from unios.shell.top_screen import Line

_ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE: Final = b"\x1b[?7h\x1b[?25h\x1b[0m\x1b[?1049l"
_STYLES: Final = {"bold": b"1", "dim": b"2", "reverse": b"7", "red": b"31", "yellow": b"33", "cyan": b"36"}
_COLOURS: Final = {"red", "yellow", "cyan"}
_SEQUENCES: Final = {
    b"[A": "up",
    b"[B": "down",
    b"[C": "right",
    b"[D": "left",
    b"OA": "up",
    b"OB": "down",
    b"OC": "right",
    b"OD": "left",
    b"[5~": "pageup",
    b"[6~": "pagedown",
    b"[H": "home",
    b"[F": "end",
    b"OH": "home",
    b"OF": "end",
    b"[1~": "home",
    b"[4~": "end",
    b"[7~": "home",
    b"[8~": "end",
}
_CONTROLS: Final = {0x0D: "enter", 0x0A: "enter", 0x7F: "backspace", 0x08: "backspace", 0x03: "interrupt", 0x0E: "down", 0x10: "up"}
_ESCAPE: Final = 0x1B
_SEQUENCE_BYTES_MAX: Final = 16
_ESCAPE_S: Final = 0.05
"""A lone Escape is one if nothing follows it for so long."""


class Ended(BaseException):
    """A signal asks this command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def keys(data: bytes, *, final: bool) -> tuple[list[str], bytes]:
    """Return the keys in what a terminal sent, and the rest that is not whole yet. `final`: nothing follows, an Escape at the end is one."""
    found: list[str] = []
    at = 0
    while at < len(data):
        byte = data[at]
        if byte == _ESCAPE:
            length = _sequence(data[at + 1 :])
            if length is None and not final:
                return found, data[at:]
            if not length:
                found.append("escape")
                at += 1
                continue
            found.append(_SEQUENCES.get(data[at + 1 : at + 1 + length], "unknown"))
            at += 1 + length
        elif byte < 0x20 or byte == 0x7F:
            found.append(_CONTROLS.get(byte, "unknown"))
            at += 1
        else:
            length = 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            if len(data) - at < length and not final:
                return found, data[at:]
            text = data[at : at + length].decode("utf-8", "replace")
            found.append(text if len(text) == 1 and text.isprintable() else "unknown")
            at += length
    return found, b""


def _sequence(after: bytes) -> int | None:
    """Return how long a sequence after an Escape is: 0 if there is none, None if it is not whole."""
    if not after:
        return None
    if after[:1] not in b"[O":
        return 0
    for length in range(2, min(len(after), _SEQUENCE_BYTES_MAX) + 1):
        if 0x40 <= after[length - 1] <= 0x7E:
            return length
    return None if len(after) < _SEQUENCE_BYTES_MAX else _SEQUENCE_BYTES_MAX


def paint(lines: list[Line], before: list[Line], *, colour: bool) -> bytes:
    """Return what makes a terminal that shows `before` show `lines`; an empty `before`: nothing is known of it."""
    parts = [] if before else [b"\x1b[0m\x1b[2J"]
    for at, line in enumerate(lines):
        if at < len(before) and before[at] == line:
            continue
        style = _STYLES.get(line.style, b"") if colour or line.style not in _COLOURS else b""
        text = line.text.encode("utf-8", "backslashreplace")
        parts.append(b"\x1b[%d;1H" % (at + 1) + (b"\x1b[%sm" % style if style else b"") + text + b"\x1b[0m\x1b[K")
    return b"".join(parts)


class FullScreen:
    """Enter it with `with`. Belongs to the main thread; `wake` may be called from any."""

    def __init__(self, descriptor_in: int = 0, descriptor_out: int = 1, *, colour: bool = True) -> None:
        self._in, self._out, self._colour = descriptor_in, descriptor_out, colour
        self._modes: list[Any] = []
        self._handlers: dict[int, Any] = {}
        self._shown: list[Line] = []
        self._rest = b""
        self._wake_read, self._wake_write = -1, -1
        self._wakeup_before = -1

    def __enter__(self) -> "FullScreen":
        try:
            self._modes = termios.tcgetattr(self._in)
        except termios.error as error:
            raise CallerError("this needs a terminal: `--once` prints the same as plain text") from error
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup_before = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number, handler in (
            (signal.SIGTERM, self._on_end),
            (signal.SIGHUP, self._on_end),
            (signal.SIGTSTP, self._on_stop),
            (signal.SIGWINCH, self._on_resize),
        ):
            self._handlers[number] = signal.signal(number, handler)
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._wake_read)
        wake_write, self._wake_write = self._wake_write, -1
        os.close(wake_write)

    def _begin(self) -> None:
        raw: list[Any] = [part[:] if isinstance(part, list) else part for part in self._modes]
        raw[3] &= ~(termios.ICANON | termios.ECHO)
        raw[0] &= ~(termios.ICRNL | termios.IXON)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._in, termios.TCSADRAIN, raw)
        self._shown = []
        write(self._out, _ENTER)

    def _end(self) -> None:
        with contextlib.suppress(CallerError, BrokenPipeError):  # a terminal that is gone needs nothing
            write(self._out, _LEAVE)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._modes)

    def _on_end(self, number: int, _frame: FrameType | None) -> None:
        raise Ended(number)

    def _on_resize(self, _number: int, _frame: FrameType | None) -> None:
        self._shown = []

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._end()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        os.kill(os.getpid(), signal.SIGTSTP)  # stops here; SIGCONT goes on
        signal.signal(signal.SIGTSTP, self._on_stop)
        self._begin()

    def size(self) -> tuple[int, int]:
        """Return (rows, columns), 24 x 80 if the terminal does not say."""
        try:
            size = os.get_terminal_size(self._out)
        except OSError:
            return 24, 80
        return size.lines or 24, size.columns or 80

    def show(self, lines: list[Line]) -> None:
        """Make the screen show these lines. Writes only those that have changed."""
        data = paint(lines, self._shown if len(self._shown) == len(lines) else [], colour=self._colour)
        self._shown = lines
        if data:
            write(self._out, data)

    def wake(self) -> None:
        """Make `wait` return."""
        with contextlib.suppress(OSError):  # full: it will wake; closed: nobody waits any more
            os.write(self._wake_write, b"\0")

    def wait(self, timeout_s: float) -> list[str]:
        """Return keys as soon as there are some; none when woken, resized, or at the timeout. Raises Ended when the terminal is gone."""
        ready, _writable = readiness.wait([self._in, self._wake_read], timeout_s=_ESCAPE_S if self._rest else timeout_s)
        if self._wake_read in ready:
            with contextlib.suppress(OSError):
                os.read(self._wake_read, 4096)
        if self._in not in ready:
            found, self._rest = keys(self._rest, final=True)
            return found
        try:
            data = os.read(self._in, 4096)
        except OSError:
            data = b""
        if not data:
            raise Ended(signal.SIGHUP)
        found, self._rest = keys(self._rest + data, final=False)
        return found
