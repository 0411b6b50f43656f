"""Terminals as the inits make them: the slave is the user's and the program's own, and a terminal nobody is at any more is hung up when it shall be."""

import asyncio
import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.rig import Rig
from tests.kernel.test_guard import NOBODY, ROOT, runs_as
from unios.kernel import terminal
from unios.kernel.poller import Poller
from unios.kernel.pumps import OutputPump
from unios.kernel.streams import StreamWriter
from unios.kernel.terminal import Terminal, TerminalInput, TerminalOutput
from unios.kernel.trees import Trees
from unios.limits import WINDOW_MAX

KINDS = [
    pytest.param(((), None), id="as here"),
    pytest.param((("--freezer", "signals", "--no-namespaces"), None), id="without namespaces"),
    pytest.param(((), NOBODY), id="ordinary user"),
]


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    options, user = request.param
    if user is not None and not (ROOT and runs_as(user)):
        pytest.skip(f"needs root, and a Python that user {user} can run")
    made = Rig(*options, user=user)
    yield made
    assert made.close() == []


def python(rig: Rig) -> str:
    """Return a Python that the rig's user can execute."""
    return sys.executable if rig.user is None else "/usr/bin/python3"


async def until(rig: Rig, pid: int, what: bytes) -> bytes:
    while what not in (said := rig.output(pid)):
        await asyncio.sleep(0.005)
    return said


@pytest.mark.parametrize("limits", [{}, {"nofile": [100, 100]}], ids=["spawned", "forked"])
def test_the_program_has_a_terminal_of_its_user_as_its_controlling_one(rig: Rig, limits: dict[str, Any]) -> None:
    script = "tty; stty size; stat -c %u $(tty); echo from-dev-tty >/dev/tty; [ $(ps -o tpgid= -p $$) = $$ ] && echo foreground; cat; echo end"

    async def work(trees: Trees) -> None:
        await rig.spawn(trees, 1001, "sh", "-c", script, terminal=[33, 99], limits=limits)
        said = await until(rig, 1001, b"foreground")
        assert said.split()[0].startswith(b"/dev/pts/")
        assert said.split()[1:4] == [b"33", b"99", b"%d" % (rig.user if rig.user is not None else os.geteuid())]
        assert b"from-dev-tty" in said
        init = trees.open_init(1001, 1, lambda _event: None)
        await init.send_data("grüß\x7f\x04".encode())
        await until(rig, 1001, b"gr\xc3\xbc\xc3\x9f\b \b")  # one character goes, not half of one
        await init.send_data(b"\x04\x04")
        assert (await rig.exit_of(1001))["code"] == 0
        assert rig.output(1001).endswith(b"end\r\n") and rig.output(1001, name="err") == b""

    rig.run(work)


def test_size_and_modes_are_told_a_nudge_and_a_hang_up_are_felt(rig: Rig) -> None:
    script = (
        "import os,signal,sys\n"
        "signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b'<%d %d>' % os.get_terminal_size()))\n"
        "os.write(1, b'\\x1b[?1049h\\x1b[?1hready')\n"
        "while 1: signal.pause()\n"
    )

    async def work(trees: Trees) -> None:
        await rig.spawn(trees, 1001, python(rig), "-c", script, terminal=[24, 80])
        await until(rig, 1001, b"ready")
        init = trees.open_init(1001, 1, lambda _event: None)
        told = await init.ask("terminal", rows=40, columns=100)
        assert (told["rows"], told["columns"], told["modes"]) == (40, 100, "\x1b[?1049h\x1b[?1h")
        await until(rig, 1001, b"<100 40>")
        before = len(rig.output(1001))
        await init.ask("terminal", nudge=True)
        while not rig.output(1001)[before:].endswith(b"<100 40>"):
            await asyncio.sleep(0.005)
        await init.ask("terminal", hang_up=True)
        assert (await rig.exit_of(1001))["signal"] == signal.SIGHUP

    rig.run(work)


def test_a_process_without_a_terminal_says_so(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        await rig.spawn(trees, 1001, "sleep", "100")
        assert (await trees.init(1001, 1).ask("terminal", rows=10, columns=10, hang_up=True))["rows"] == 0
        await trees.init(1001, 1).ask("signal", number=9)
        await rig.exit_of(1001)

    rig.run(work)


def test_whoever_hangs_the_line_up_below_it_gets_the_rest_of_its_output(rig: Rig) -> None:
    """A login program closes the terminal and opens it again; nothing of what comes then is lost."""
    script = "import os; path=os.ttyname(0); [os.close(n) for n in (0,1,2)]; f=os.open(path, os.O_RDWR); os.write(f, b'again' * 1000)"

    async def work(trees: Trees) -> None:
        await rig.spawn(trees, 1001, python(rig), "-c", script, terminal=[24, 80])
        assert (await rig.exit_of(1001))["code"] == 0
        assert rig.output(1001) == b"again" * 1000

    rig.run(work)


# without an init around it


class Line:
    """A terminal with a program at it, and the loop of an init."""

    def __init__(self, folder: Path) -> None:
        self.poller = Poller()
        self.program: subprocess.Popen[bytes] | None = None
        self.terminal = Terminal(self.poller, os.geteuid(), (24, 80), lambda: self.program.pid if self.program else 0)
        self.folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        pipe = OutputPump(self.poller, os.open(os.devnull, os.O_RDONLY), StreamWriter(self.folder, "out"), lambda: True, lambda: 10**9)
        self.output = TerminalOutput(self.terminal, self.poller, pipe)
        self.input = TerminalInput(self.terminal, self.poller, lambda: None)

    def run(self, *argv: str) -> None:
        slave = os.open(self.terminal.path, os.O_RDWR | os.O_NOCTTY)
        self.program = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)

    def turn(self) -> None:
        self.poller.after(0.005, lambda: None)
        self.poller.turn()

    def close(self) -> None:
        if self.program is not None:
            self.program.kill()
            self.program.wait()
        self.output.close()
        self.input.close()
        os.close(self.terminal._slave)
        os.close(self.folder)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.close()


def test_a_typist_who_vanishes_hangs_up_after_a_while_and_one_who_leaves_does_not(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "STREAM_HOLD_S", 0.05)
    hung_up: list[bool] = []
    monkeypatch.setattr(line.terminal, "hang_up", lambda: hung_up.append(True))
    one, other, third = (object() for _ in range(3))
    for client in (one, other):
        line.terminal.types(client, hang_up=True)  # type: ignore[arg-type]
    line.terminal.types(third, hang_up=False)  # type: ignore[arg-type]
    line.terminal.gone(one)  # type: ignore[arg-type]
    for _ in range(20):
        line.turn()
    assert not hung_up  # others are there
    line.terminal.gone(third)  # type: ignore[arg-type]
    line.terminal.types(other, hang_up=False)  # type: ignore[arg-type]
    line.terminal.gone(other)  # type: ignore[arg-type]
    for _ in range(20):
        line.turn()
    assert not hung_up  # he said that he goes
    line.terminal.types(one, hang_up=True)  # type: ignore[arg-type]
    line.terminal.gone(one)  # type: ignore[arg-type]
    while not hung_up:
        line.turn()


def test_one_who_comes_back_in_time_finds_it_as_it_was(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "STREAM_HOLD_S", 0.05)
    monkeypatch.setattr(line.terminal, "hang_up", lambda: pytest.fail("it was hung up"))
    line.terminal.types("before", hang_up=True)  # type: ignore[arg-type]
    line.terminal.gone("before")  # type: ignore[arg-type]
    line.terminal.types("after", hang_up=True)  # type: ignore[arg-type]
    for _ in range(20):
        line.turn()


def test_hanging_up_ends_a_stopped_program_too(line: Line) -> None:
    line.run("sleep", "100")
    assert line.program is not None
    line.program.send_signal(signal.SIGSTOP)
    line.terminal.hang_up()
    assert line.program.wait(10) == -signal.SIGHUP


def test_a_terminal_that_nobody_has_open_is_no_end_and_takes_no_processor_time(line: Line, tmp_path: Path) -> None:
    os.close(line.terminal._slave)  # Linux says EIO from now on
    line.output.update()
    turns = 0
    while turns < 50:
        line.poller.after(0.01, lambda: None)
        line.poller.turn()
        turns += 1
        assert not line.output.eof
    line.terminal._slave = os.open(line.terminal.path, os.O_RDWR | os.O_NOCTTY)
    os.write(line.terminal._slave, b"back again")
    while line.output.end < 10:
        line.turn()
    assert line.output.drain()


def test_typing_has_no_end_and_sizes_have_a_bound(line: Line) -> None:
    line.input.end()
    line.input.feed(b"typed\n")
    assert not line.input.closed and os.read(line.terminal._slave, 100) == b"typed\n"
    assert line.terminal.ask({"rows": 10**9, "columns": 0})["rows"] == WINDOW_MAX
    size = struct.unpack("4H", fcntl.ioctl(line.terminal._slave, termios.TIOCGWINSZ, b"\0" * 8))
    assert size[:2] == (WINDOW_MAX, 1)
