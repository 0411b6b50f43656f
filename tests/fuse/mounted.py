"""A mount for tests: this process keeps the descriptor, another serves it, programs use it. Nothing of this process ever touches the mount itself."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests import leash
from unios.fuse import mounting

CAN_MOUNT = os.geteuid() == 0 and os.access(mounting.DEVICE, os.R_OK | os.W_OK)
needs_fuse = pytest.mark.skipif(not CAN_MOUNT, reason="no /dev/fuse here, or not root")
ROOT = Path(__file__).parents[2]


class Mounted:
    """`folders` are mounts of one tree, as on several nodes."""

    def __init__(self, *options: str, mounts: int = 1) -> None:
        self.home = leash.hold(Path(tempfile.mkdtemp(prefix="unios-fuse-")))
        self.folders, self.descriptors = [], []
        for at in range(mounts):
            folder = self.home / f"mount{at}"
            folder.mkdir()
            self.descriptors.append(mounting.mount(folder))
            self.folders.append(folder)
        self.session = ""
        self.server = self.serve(*options)

    @property
    def folder(self) -> Path:
        return self.folders[0]

    def serve(self, *options: str) -> "subprocess.Popen[str]":
        """Begin a process that serves; with a session that there is it adopts."""
        adopt = ("--adopt", self.session) if self.session else ()
        command = [sys.executable, "-m", "tests.fuse.server", *map(str, self.descriptors), *adopt, *options]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=self.descriptors, cwd=ROOT)
        assert self.server.stdout is not None
        self.session = self.server.stdout.readline()
        assert self.session, "the server has ended"
        return self.server

    def do(self, *words: str) -> Any:
        """Have the server do something to its tree."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(words) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def until(self, name: str, value: object) -> None:
        deadline = time.monotonic() + 10
        while (state := self.do("state"))[name] != value:
            assert time.monotonic() < deadline, state

    def kill(self) -> None:
        self.server.kill()
        self.server.wait()

    def start(self, code: str, *given: str, at: int = 0) -> "subprocess.Popen[str]":
        """Begin a program in the mount; it is let go of when the mount is cut."""
        prelude = (
            f"import errno, fcntl, mmap, os, signal, sys, time\nos.chdir({str(self.folders[at])!r})\n"  # not before exec: this process waits for that
        )
        return subprocess.Popen(
            [sys.executable, "-c", prelude + code, *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, code: str, *given: str, at: int = 0) -> str:
        """Run a program in the mount to its end, and return what it has said."""
        program = self.start(code, *given, at=at)
        try:
            said, _ = program.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.cut()
            program.kill()
            raise
        assert program.returncode == 0, said
        return said.strip()

    def cut(self) -> None:
        """Let nobody have the descriptor: whoever waits is let go."""
        self.kill()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []

    def close(self) -> None:
        self.cut()
        for folder in self.folders:
            mounting.unmount(folder)
        shutil.rmtree(self.home)
        leash.let_go(self.home)

    def __enter__(self) -> "Mounted":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
