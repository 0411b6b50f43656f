"""The local terminal as the seat of an attachment: in raw mode while a program elsewhere has it, and given back as it was, whatever happens.

Where stdin is no terminal its bytes are typed all the same, and its end is Ctrl-D. Signals to this command only set marks and wake whoever waits; what
they mean is the command's business. When it is suspended the terminal is given back too.
"""

import contextlib
import errno
import os
import signal
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final, Self

from unios.client.output import Anew
from unios.client.screen import Screen
from unios.counted import counted, is_or_are
from unios.errors import CallerError
from unios.limits import DETACH_KEY_S
from unios.shell.keys import DetachKeys
from unios.shell.session import Session, write
from unios.wire.operations import Chunk
from unios.wire.terminals import Typed

_READ_BYTES: Final = 16 * 1024
_END: Final = b"\x04"
_MARKED: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)


class LocalTerminal:
    """Use `with`: it catches the signals, and gives terminal and signals back at the end."""

    def __init__(self, session: Session, keys: bytes, *, typing: bool = True, watching: bool = False, end: bytes = _END) -> None:
        self._session = session
        self._keys = DetachKeys(keys)
        self._held_at = 0.0
        self._end = end
        """What the end of a stdin that is no terminal is for the program."""
        self._typing = typing
        """Whether stdin is read."""
        self._watching = watching
        """Whether what is typed goes nowhere; the keys that detach do so all the same."""
        self.screen = Screen()
        self.raw_wanted = False
        self._saved: list[Any] | None = None
        self._before: dict[int, Any] = {}
        self._resized = self._redrawn = False
        self.caught: list[int] = []
        """Signals that have come and that nobody has dealt with."""
        self.gone = False
        """Whether the terminal itself has gone."""
        self.left = False

    # signals

    def __enter__(self) -> Self:
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in _MARKED:
            self._before[number] = signal.signal(number, lambda caught, _frame: self.caught.append(caught))
        self._before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._on_resize)
        self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._on_suspend)
        self._before[signal.SIGCONT] = signal.signal(signal.SIGCONT, self._on_resume)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.rest()
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._wake)
        os.close(self._woken)

    def _on_resize(self, _number: int, _frame: FrameType | None) -> None:
        self._resized = True

    def _on_suspend(self, _number: int, _frame: FrameType | None) -> None:
        wanted, modes = self.raw_wanted, self.screen.modes()
        self.rest()
        os.kill(os.getpid(), signal.SIGSTOP)
        if wanted:
            self._take()
            self._write(1, self.screen.show(modes))
        self._resized = self._redrawn = True

    def _on_resume(self, _number: int, _frame: FrameType | None) -> None:
        if self.raw_wanted:
            self._set_raw()  # the shell has set its own modes meanwhile
        self._resized = self._redrawn = True

    # the terminal

    def begin(self, *, terminal: bool) -> None:
        """Let the program elsewhere have the terminal; idempotent."""
        if terminal and not self.raw_wanted:
            self._take()

    def _take(self) -> None:
        self.raw_wanted = True
        with contextlib.suppress(termios.error):
            if self._saved is None and os.isatty(0) and self._typing:
                self._saved = termios.tcgetattr(0)
            self._set_raw()

    def _set_raw(self) -> None:
        if self._saved is not None:
            with contextlib.suppress(termios.error):
                tty.setraw(0, termios.TCSADRAIN)

    def rest(self) -> None:
        """Give the terminal back as it was; idempotent."""
        if not self.raw_wanted:
            return
        self.raw_wanted = False
        if not self.gone and os.isatty(1):
            with contextlib.suppress(OSError, CallerError):
                below = b"\r\n" if self.left and not self.screen.other else b""  # not behind a prompt
                write(1, self.screen.undo() + below)
        if self._saved is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    def window(self) -> tuple[int, int]:
        """Return rows and columns of the local terminal, (0, 0) if there is none that counts."""
        if self._watching:
            return 0, 0
        for descriptor in (0, 1, 2):
            with contextlib.suppress(OSError):
                size = os.get_terminal_size(descriptor)
                if size.lines and size.columns:
                    return size.lines, size.columns
        return 0, 0

    # what is typed

    def descriptors(self, *, typing: bool) -> list[int]:
        return [self._wake, 0] if typing and self._typing else [self._wake]

    def patience_s(self) -> float | None:
        return max(0.0, self._held_at + DETACH_KEY_S - time.monotonic()) if self._keys.holding else None

    def typed(self, ready: list[int]) -> Iterator[Typed]:
        """Return what was typed and resized."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 512)
        if self.caught:
            self.on_signals()
        if self._resized:
            nudge, self._resized, self._redrawn = self._redrawn, False, False
            rows, columns = self.window()
            if rows and not self._watching:
                yield Typed(rows=rows, columns=columns, nudge=nudge)
        if 0 in ready:
            yield from self._read()
        elif self._keys.holding and time.monotonic() >= self._held_at + DETACH_KEY_S:
            held = self._keys.release()
            if not self._watching:
                yield Typed(held)

    def on_signals(self) -> None:
        """Deal with `caught`: here each means that the person has left."""
        self.left = True

    def _read(self) -> Iterator[Typed]:
        try:
            data = os.read(0, _READ_BYTES)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        if not data:
            self._typing = False
            if os.isatty(0) or self._saved is not None:
                self.gone = True
                self.caught.append(signal.SIGHUP)
                self.on_signals()
            elif not self._watching:
                yield Typed(self._end) if self._end else Typed(end=True)
            return
        passed = self._keys.feed(data)
        self._held_at = time.monotonic()
        if passed and not self._watching:
            yield Typed(passed)
        if self._keys.found:
            self.left = True

    # what is shown

    def replay(self, past: bytes, modes: bytes, *, whole: bool) -> None:
        self._write(1, self.screen.replay(past, modes, whole=whole))

    def show(self, chunk: Chunk) -> None:
        if chunk.lost:
            self.note(f"{counted(chunk.lost, 'byte')} of its output before this {is_or_are(chunk.lost)} gone: only the last are kept")
        self.say(chunk.stream, chunk.data)

    def say(self, stream: str, data: bytes) -> None:
        self._write(1 if stream == "out" else 2, self.screen.show(data))

    def _write(self, descriptor: int, data: bytes) -> None:
        try:
            write(descriptor, data)
        except (BrokenPipeError, CallerError):
            self.gone = True
            self.caught.append(signal.SIGHUP)
            self.on_signals()

    def tell(self, anew: Anew) -> None:
        self.note(str(anew))

    def note(self, text: str) -> None:
        """Say something to the person, on a line of its own."""
        if self.gone:
            return
        raw = self.raw_wanted and os.isatty(2)
        if raw:
            self._write(2, b"\r\n")
        self._session.note(text)
        if raw:
            self._write(2, b"\r")
