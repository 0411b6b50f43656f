"""A terminal of 80x24 for tests: a real pty, and what its screen shows, as far as `unios top` uses one."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable

from tests.e2e.system import UNIOS, System

_PIECE = re.compile(rb"\x1b\[(\??[0-9;]*)([A-Za-z])|([^\x1b]+)")


class Screen:
    """One `unios` command on a pty of its own."""

    def __init__(self, system: System, *words: str, rows: int = 24, columns: int = 80, shell: str = "") -> None:
        """`shell`: a script of bash to run instead, with job control; $0 is `unios`."""
        self.rows, self.columns = rows, columns
        self.lines = [""] * rows
        self.alternate = False
        self._at = 0
        self._rest = b""
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.process = subprocess.Popen(
            ["bash", "-c", f"set -m; {shell}", UNIOS] if shell else [UNIOS, *words],
            env={**system.env, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=self._control,
        )

    def _control(self) -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def resize(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait(self, reached: Callable[[str], object], what: str, timeout: float = 20) -> str:
        """Read until the screen is so; return it."""
        deadline = time.monotonic() + timeout
        while not reached(self.text):
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}; the screen:\n{self.text}"
            if select.select([self._master], [], [], 0.2)[0]:
                self._take(os.read(self._master, 65536))
        return self.text

    def wait_for(self, text: str) -> str:
        return self.wait(lambda shown: text in shown, f"{text!r} is shown")

    def finish(self, timeout: float = 10) -> int:
        """Wait for the command's end and read what it said last; return its exit code."""
        code = self.process.wait(timeout)
        while select.select([self._master], [], [], 0)[0]:
            self._take(os.read(self._master, 65536))
        return code

    def is_restored(self) -> bool:
        """Whether the terminal is as it was before: modes, and the first of its two screens."""
        return termios.tcgetattr(self._slave) == self.before and not self.alternate

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def _take(self, data: bytes) -> None:
        data = self._rest + data
        end = data.rfind(b"\x1b")
        whole = len(data) if end < 0 or re.search(rb"[A-Za-z]", data[end:]) else end
        self._rest = data[whole:]
        for match in _PIECE.finditer(data[:whole]):
            numbers, command, text = match.groups()
            if text is not None:
                self._put(text.decode("utf-8", "replace"))
            elif command == b"H":
                self._at = int(numbers.split(b";")[0]) - 1
                self._grow()
                self.lines[self._at] = ""
            elif command == b"J":
                self.lines = [""] * self.rows
            elif numbers == b"?1049":
                self.alternate = command == b"h"

    def _put(self, text: str) -> None:
        self._grow()
        self.lines[self._at] += text

    def _grow(self) -> None:
        self.lines += [""] * (self._at + 1 - len(self.lines))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._slave)
        os.close(self._master)
