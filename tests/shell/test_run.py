"""What `unios run` asks of a kernel when nobody reads what its program says any more."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.scripted import ScriptedKernel
from unios.wire.operations import Chunk, Empty, Follow, Signal, Submitted
from unios.wire.peer import Call


class Flooding(ScriptedKernel):
    """A kernel with one process, which says something and then waits for its holder; it ends when another takes the hold over."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.heard: list[Follow | Signal] = []
        self.operations |= {"processes.follow": self._follow, "processes.signal": self._signal}
        self.services["placement"] = self._submit

    async def _submit(self, _call: Call) -> object:
        return Submitted(1001, "n1", "running", 1)

    async def _follow(self, call: Call) -> object:
        self.heard.append(follow := call.decode(Follow))
        if follow.out >= 0:
            await call.send(Chunk("out", 1, 0, b"y\n"))
            await asyncio.Event().wait()
        return Empty()

    async def _signal(self, call: Call) -> object:
        self.heard.append(call.decode(Signal))
        return Empty()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flooding]:
    monkeypatch.setenv("UNIOS_HOME", str(tmp_path))
    made = Flooding(tmp_path)
    yield made
    made.close()


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(("output", "code"), [(closed_pipe, 141), (lambda: os.open("/dev/full", os.O_WRONLY), 125)], ids=["no reader", "no room"])
def test_what_nobody_reads_is_let_go_so_that_the_program_can_end(kernel: Flooding, output: object, code: int) -> None:
    assert callable(output)
    stdout = output()
    try:
        done = subprocess.run([sys.executable, "-m", "unios", "run", "-n", "yes"], stdout=stdout, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(stdout)
    assert done.returncode == code, done.stderr
    first, signalled, second = kernel.heard
    assert isinstance(first, Follow) and first.hold and first.out == 0
    assert signalled == Signal(1001, 13, tree=True)
    assert second == Follow(1001, 0, -1, -1, True, True), "the hold is taken over at the present end"
