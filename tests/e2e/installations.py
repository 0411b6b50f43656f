"""Other installations of unios beside this checkout: its files with something changed, or as a commit has them; and what goes on while nodes are upgraded."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.e2e.system import System, wait_for

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SOURCE: Final = ROOT / "src"
BEFORE: Final = "dede5c40bc8a70c7742130e0b495c3176d496d90"
"""The last commit before etcd (decision 0037): the version before."""

WRITER: Final = """
import time
n = 0
while True:
    print(n, flush=True)
    n += 1
    time.sleep(0.01)
"""
CALLEE: Final = """
import itertools, time, unios
count = itertools.count()
with unios.listen("upgraded", {"next": lambda: next(count)}):
    while True:
        time.sleep(60)
"""
CALLER: Final = """
import sys, threading, time, unios
ended = []
threading.Thread(target=lambda: (sys.stdin.read(), ended.append(1)), daemon=True).start()
with unios.connect("upgraded") as port:
    while not ended:
        try:
            print(port.call("next"), flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        time.sleep(0.005)
"""


def changed(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """Make an installation of this checkout's files in `folder`, with (file below src/unios, text, other text) put in; return it as `--to` takes it."""
    shutil.copytree(SOURCE / "unios", folder / "src" / "unios", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text, other in changes:
        file = folder / "src" / "unios" / name
        found = file.read_text()
        assert text in found, (name, text)
        file.write_text(found.replace(text, other, 1))
    return folder


def committed(folder: Path, commit: str) -> Path | None:
    """Make an installation of a commit's files; None if this checkout does not have that commit."""
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "src"], capture_output=True)
    if packed.returncode:
        return None
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


def typing(folder: Path) -> dict[str, str]:
    """Return the environment in which `unios` is that of an installation."""
    return {"PYTHONPATH": str(folder / "src")}


class Goings:
    """What goes on in a system: a process that writes numbers, one that counts, and a caller of that. `nodes`: of the two, and of the caller."""

    def __init__(self, system: System, caller: "subprocess.Popen[bytes]", said: Path, pids: tuple[int, int]) -> None:
        self.system, self.caller, self._said = system, caller, said
        self.writer, self.callee = pids
        self._before = [self._alive(pid) for pid in pids]

    def _alive(self, pid: int) -> tuple[object, ...]:
        process = self.system.process(pid)
        return process["pid"], process["incarnation"], process["node"], process["state"]

    def numbers(self) -> list[str]:
        """Return what the caller has been answered so far, or what it said went wrong."""
        return self._said.read_bytes().decode().split("\n")[:-1]

    def check(self) -> None:
        """Fail unless both are the processes that they were, nothing of the output is missing, and each call was done once and has been answered."""
        assert [self._alive(pid) for pid in (self.writer, self.callee)] == self._before
        written = self.system.unios("logs", str(self.writer)).stdout.decode().split("\n")[:-1]
        assert written == [str(number) for number in range(len(written))]
        before = len(self.numbers())
        wait_for(lambda: len(self.numbers()), lambda seen: seen > before + 5, "calls go on")
        wait_for(lambda: len(self.system.unios("logs", str(self.writer)).stdout.split()), lambda seen: seen > len(written), "the output goes on")
        numbers = self.numbers()
        assert numbers == [str(number) for number in range(len(numbers))], [each for each in numbers if not each.isdigit()]


@contextmanager
def goings(system: System, nodes: tuple[str, str, str]) -> Iterator[Goings]:
    """Have something go on: the writer on the first node, the one that is called on the second, its caller at the third."""
    writer = system.run_detached(sys.executable, "-c", WRITER, options=("--on", nodes[0]))
    callee = system.run_detached(sys.executable, "-c", CALLEE, options=("--on", nodes[1]))
    said = system.home / "called"
    with said.open("wb") as output:
        caller = subprocess.Popen(
            [sys.executable, "-c", CALLER],
            env={**system.env, "UNIOS_NODE": nodes[2]},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        made = Goings(system, caller, said, (writer, callee))
        try:
            wait_for(lambda: len(made.numbers()), lambda seen: seen > 0, "the first call")
            yield made
        finally:
            assert caller.stdin is not None
            caller.stdin.close()
            try:
                caller.wait(20)
            finally:
                caller.kill()
                caller.wait()


def together(system: System, nodes: tuple[str, ...]) -> None:
    """Fail unless each node and the next one work together: run, streams, ps, kill, wait, events."""
    for here, there in zip(nodes, (*nodes[1:], nodes[0]), strict=True):
        done = system.unios("run", "--node", here, "--on", there, "--", "sh", "-c", "cat; exit 3", check=False)
        assert done.returncode == 3, done.stderr
        assert system.unios("run", "--node", here, "--on", there, "--", "echo", there).stdout.decode() == f"{there}\n"
        pid = system.run_detached("sleep", "1000", options=("--node", here, "--on", there))
        assert pid in [each["pid"] for each in system.json("ps", "--node", there)]
        system.unios("kill", "-s", "KILL", "--node", here, str(pid))
        assert system.unios("wait", "--node", there, str(pid), check=False).returncode == 137
        assert system.json("nodes", "--node", here)


__all__ = ["BEFORE", "CALLEE", "SOURCE", "Goings", "changed", "committed", "goings", "together", "typing"]
