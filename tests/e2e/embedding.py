"""Python programs that use unios on a machine of which nothing else is known, and what they leave behind."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e.system import wait_for
from tests.paths import found

SOURCE = Path(__file__).parents[2] / "src"
BEGIN = """
import json, os, sys, signal, threading, time, subprocess
import unios
def tell(**fields):
    sys.stdout.write(json.dumps(fields) + "\\n")
    sys.stdout.flush()
"""


class Programs:
    """A folder where homes of embedded systems go, and programs that get it for XDG_RUNTIME_DIR."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ux-", dir="/tmp"))
        self.runtime = self.folder / "r"
        self.runtime.mkdir(mode=0o700)
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("UNIOS_", "PYTEST"))}
        self.env = {**keep, "XDG_RUNTIME_DIR": str(self.runtime), "HOME": str(self.folder), "PYTHONPATH": str(SOURCE)}
        self.started: list[subprocess.Popen[str]] = []
        self.groups: set[str] = set()
        """Control groups that a node of theirs has settled in, as far as they were seen."""

    def start(self, code: str, **env: str) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        argv = [sys.executable, "-c", BEGIN + code]
        started = subprocess.Popen(argv, env={**self.env, **env}, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=self.folder)
        self.started.append(started)
        return started

    def told(self, program: "subprocess.Popen[str]") -> dict[str, Any]:
        """Return what the program tells next; remember the groups of all nodes that are there by then."""
        assert program.stdout is not None and program.stderr is not None
        said = program.stdout.readline()
        assert said, program.stderr.read()
        self.look()
        fields = json.loads(said)
        assert isinstance(fields, dict)
        return fields

    def look(self) -> None:
        for file in found(self.runtime, "*/nodes/*/cgroup"):
            try:
                self.groups.update(path for _version, path in json.loads(file.read_text()))
            except (OSError, ValueError):
                continue

    def homes(self) -> list[str]:
        return sorted(os.listdir(self.runtime))

    def left(self) -> list[str]:
        """Return what there is of the programs' systems: processes, folders, control groups, mounts."""
        self.look()
        needle, programs = str(self.folder).encode(), {str(each.pid) for each in self.started}
        left = [*self.homes(), *(group for group in self.groups if os.path.exists(group))]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and entry.name not in programs:
                try:
                    text = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
                except OSError:
                    continue
                if needle in text:
                    left.append(f"{entry.name} {text[:120]!r}")
        return left + [mount for mount in Path("/proc/self/mounts").read_text().splitlines() if str(self.folder) in mount]

    def wait_nothing_left(self) -> None:
        wait_for(self.left, lambda left: not left, "nothing is left behind", 15)

    def close(self) -> None:
        for program in self.started:
            program.kill()
            program.communicate()
        try:
            self.wait_nothing_left()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
