"""A person at a terminal of his own: a command of unios on a real pty, what it shows, and keys."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from typing import Any

from tests.e2e.system import UNIOS, System


class Keyboard:
    """Use `with`: at the end the command is gone. `said` is everything shown so far."""

    def __init__(self, system: System, *words: str, rows: int = 24, columns: int = 80, through: tuple[str, ...] = ()) -> None:
        self.master, slave = os.openpty()
        self.resize(rows, columns, tell=False)
        self.before = termios.tcgetattr(slave)
        self.said = b""
        self._read = 0
        env = {**system.env, "TERM": "xterm-256color", "PS1": "$ "}
        self.command = subprocess.Popen([*through, UNIOS, *words], env=env, stdin=slave, stdout=slave, stderr=slave, preexec_fn=_own_terminal)
        self.slave = slave

    def __enter__(self) -> "Keyboard":
        return self

    def __exit__(self, *_exc: object) -> None:
        for descriptor in (self.master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)
        if self.command.poll() is None:
            self.command.kill()
        self.command.wait()

    def type(self, keys: str | bytes) -> None:
        os.write(self.master, keys.encode() if isinstance(keys, str) else keys)

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def wait_for(self, pattern: str | bytes, timeout: float = 20) -> re.Match[bytes]:
        """Read until what was not looked at yet has the pattern in it; go on after it."""
        expression = re.compile(pattern.encode() if isinstance(pattern, str) else pattern, re.DOTALL)
        deadline = time.monotonic() + timeout
        while True:
            found = expression.search(self.said, self._read)
            if found:
                self._read = found.end()
                return found
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} was not shown; but {self.said[self._read :][-2000:]!r}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    self.said += os.read(self.master, 65536)
                except OSError:
                    assert expression.search(self.said, self._read), f"{pattern!r} was not shown before the end; but {self.said[-2000:]!r}"

    def hang_up(self) -> None:
        """Close the terminal, as a window that is closed or a line that breaks."""
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = -1

    def modes(self) -> Any:
        return termios.tcgetattr(self.slave)

    def ends(self, timeout: float = 20) -> int:
        """Return the command's exit code, reading meanwhile what it shows."""
        deadline = time.monotonic() + timeout
        while self.command.poll() is None:
            assert time.monotonic() < deadline, f"it has not ended; last shown {self.said[-2000:]!r}"
            if self.master >= 0 and select.select([self.master], [], [], 0.02)[0]:
                self.said += os.read(self.master, 65536)
        return self.command.returncode


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
