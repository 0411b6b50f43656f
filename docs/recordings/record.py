"""Makes terminals.cast (asciicast v2): vim, bash job control and htop through `run -t` on another node, left, and attached again from a third.

`python docs/recordings/record.py` with the checkout's own Python; needs vim and htop, and takes a system of its own. A shell runs on a real pty and gets
keys, as from a person; what it shows is written down with the time. Nothing in the file is made up: each step waits for what it should have shown, and
fails if that does not come.
"""

import fcntl
import json
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

ROWS, COLUMNS = 30, 100
HERE = Path(__file__).resolve().parent
KEY_S = 0.03
PATIENCE_S = 30.0


class Recorder:
    """A shell on a pty, and what it has shown."""

    def __init__(self, home: Path) -> None:
        self.began = time.monotonic()
        self.events: list[tuple[float, str]] = []
        self.said = ""
        self._looked_at = 0
        self._cut = b""
        pid, self._master = os.forkpty()
        if pid == 0:
            path = f"{home}/bin:{os.environ['PATH']}"
            env = {"PATH": path, "HOME": str(home), "UNIOS_HOME": str(home / "system"), "TERM": "xterm-256color", "LANG": "C.UTF-8", "PS1": "here$ "}
            os.chdir(home)
            os.execvpe("bash", ["bash", "--norc"], env)
        self._pid = pid
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))

    def read(self, seconds: float) -> None:
        """Take down what is shown in the next so many seconds."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self._master], [], [], left)[0]:
                self._take(os.read(self._master, 65536))

    def _take(self, data: bytes) -> None:
        data = self._cut + data
        end = len(data)
        while end and end > len(data) - 4 and data[end - 1] & 0xC0 == 0x80:
            end -= 1
        if end and data[end - 1] >= 0xC0:
            end -= 1  # a character that has not come whole
        else:
            end = len(data)
        self._cut = data[end:]
        text = data[:end].decode("utf-8", "replace")
        self.said += text
        self.events.append((time.monotonic() - self.began, text))

    def wait(self, pattern: str) -> re.Match[str]:
        """Take down until the pattern was shown; RuntimeError if it is not."""
        until = time.monotonic() + PATIENCE_S
        while (found := re.compile(pattern, re.DOTALL).search(self.said, self._looked_at)) is None:
            if time.monotonic() > until:
                raise RuntimeError(f"{pattern!r} was not shown; last: {self.said[-800:]!r}")
            self.read(0.02)
        self._looked_at = found.end()
        return found

    def type(self, keys: str, rest_s: float = 0.4) -> None:
        """Press keys as a person does."""
        for key in keys:
            os.write(self._master, key.encode())
            self.read(KEY_S)
        self.read(rest_s)

    def line(self, text: str) -> None:
        self.type(text, 0.2)
        self.type("\r", 0.3)

    def write(self, file: Path) -> None:
        """Write the recording."""
        head = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "unios: terminals", "env": {"TERM": "xterm-256color", "SHELL": "bash"}}
        lines = [json.dumps(head), *(json.dumps([round(at, 3), "o", text]) for at, text in self.events)]
        file.write_text("\n".join(lines) + "\n")

    def close(self) -> None:
        os.close(self._master)
        os.waitpid(self._pid, 0)


def perform(recorder: Recorder) -> None:
    """Do what the recording shows."""
    recorder.wait(r"here\$ ")
    recorder.line("unios nodes")
    recorder.wait(r"n3 .*here\$ ")
    recorder.line("unios --node n1 run -t --on n2 -- bash --norc")
    recorder.wait(r"\$ ")
    recorder.line("PS1='$UNIOS_NODE$ '; tty; stty size; echo I am process $$")
    pid = recorder.wait(r"I am process (\d+)\r")[1]
    recorder.wait(r"n2\$ ")
    recorder.line("sleep 300")
    recorder.type("\x1a")
    recorder.wait("Stopped")
    recorder.line("jobs; bg")
    recorder.wait(r"sleep 300 &")
    recorder.line("fg")
    recorder.type("\x03")
    recorder.wait(r"n2\$ ")
    recorder.line("vim -u NONE hello.txt")
    recorder.wait("~.*~")
    recorder.type("iwritten with vim on another node", 0.4)
    recorder.type("\x1b:wq\r", 0.4)
    recorder.wait(r"n2\$ ")
    recorder.line("cat hello.txt")
    recorder.wait("written with vim on another node\r")
    recorder.line("htop")
    recorder.wait("Load average")
    recorder.read(2.0)
    recorder.type("\x1c\x1c")
    recorder.wait(f"detached from {pid}.*here\\$ ")
    recorder.read(1.0)
    recorder.line("unios ps")
    recorder.wait(r"running.*here\$ ")
    recorder.read(1.0)
    recorder.line(f"unios --node n3 attach {pid}")
    recorder.wait("Load average")
    recorder.read(2.5)
    recorder.type("q", 0.5)
    recorder.wait(r"n2\$ ")
    recorder.line("exit")
    recorder.wait(r"here\$ ")
    recorder.read(0.5)


def _command(home: Path) -> Path:
    """Make a `unios` in the recording's own folder, so that htop shows that one and not where this checkout is."""
    (home / "venv").symlink_to(Path(sys.prefix))
    command = home / "bin" / "unios"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {home}/venv/bin/python -m unios "$@"\n')
    command.chmod(0o755)
    return command


def main() -> int:
    """Return 0 once the recording is written."""
    for name in ("vim", "htop", "bash"):
        if shutil.which(name) is None:
            print(f"{name} is missing: install it to make the recording", file=sys.stderr)
            return 1
    home = Path(tempfile.mkdtemp(prefix="unios-recording-"))
    unios = _command(home)
    env = {**os.environ, "UNIOS_HOME": str(home / "system")}
    try:
        subprocess.run([unios, "up", "--nodes", "3"], env=env, check=True, stdout=subprocess.DEVNULL)
        recorder = Recorder(home)
        try:
            perform(recorder)
        finally:
            recorder.close()
        recorder.write(HERE / "terminals.cast")
    finally:
        subprocess.run([unios, "down", "--all"], env=env, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
