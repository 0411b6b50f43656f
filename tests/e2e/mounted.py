"""A system whose nodes have the tree of files mounted, and programs in it. Nothing of this process ever touches a mount: a hung one would hang the test."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests import leash
from tests.e2e.system import System, wait_for
from unios.fuse import mounting
from unios.kernel import runfiles
from unios.wire.home import Home, NodeFolder

ROOT = Path(__file__).parents[2]
PROGRAM_S = 120


class Mounted(System):
    """`folders[name]` is where the tree is mounted on a node."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.place = leash.hold(Path(tempfile.mkdtemp(prefix="unios-mnt-")))
        self.folders = {f"n{at}": self.place / f"n{at}" for at in range(1, nodes + 1)}
        self.unios("up", "--nodes", str(nodes))
        for name, folder in self.folders.items():
            folder.mkdir()
            self.unios("--node", name, "mount", os.fspath(folder))

    def node(self, name: str) -> NodeFolder:
        return Home(self.home / "home").node(name)

    def kill(self, name: str, part: str) -> None:
        """kill -9 a part of a node, if it runs."""
        running = runfiles.read(self.node(name).run / f"{part}.json")
        if running is not None:
            runfiles.kill(running, signal.SIGKILL)

    def owner(self) -> str:
        """Return the node that owns the tree, once one does: only its service keeps a journal that is being written."""

        def look() -> str:
            found = [
                name
                for name in self.folders
                if (self.node(name).path / "files").is_dir() and any((self.node(name).path / "files").glob("*/journal-*"))
            ]
            return max(
                found, key=lambda name: max(path.stat().st_mtime_ns for path in (self.node(name).path / "files").glob("*/journal-*")), default=""
            )

        return wait_for(look, bool, "somebody owns the tree")

    def start(self, *words: str | bytes, **options: Any) -> "subprocess.Popen[bytes]":
        return super().start(*words, **options)

    def program(self, code: str, *given: object) -> "subprocess.Popen[str]":
        """Begin a Python program; it is killed after PROGRAM_S."""
        command = ["timeout", "-s", "KILL", str(PROGRAM_S), sys.executable, "-c", "import os, sys, time, fcntl, mmap\n" + code, *map(str, given)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)

    def run(self, code: str, *given: object) -> str:
        """Run a program to its end, and return what it has said."""
        program = self.program(code, *given)
        said, _ = program.communicate()
        assert program.returncode == 0, said
        return said.strip()

    def try_run(self, code: str, *given: object) -> str:
        """Run a program, which may fail; return what it has said at last."""
        said, _ = self.program(code, *given).communicate()
        return (said.strip().splitlines() or [""])[-1]

    def close(self) -> None:
        try:
            super().close()
        finally:
            for folder in self.folders.values():
                mounting.unmount(folder)
            shutil.rmtree(self.place)
            leash.let_go(self.place)
