"""A system of several nodes on this machine, driven by the command line as a person or a script would."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests import leash

T = TypeVar("T")
UNIOS = str(Path(sys.executable).parent / "unios")


class System:
    """One UNIOS_HOME of its own; `close` takes everything away and tells what was left behind."""

    def __init__(self, env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> None:
        self.home = leash.hold(Path(tempfile.mkdtemp(prefix="unios-e2e-")))
        self.prefix = prefix
        self.env = {**os.environ, "UNIOS_HOME": str(self.home / "home"), **(env or {})}
        if prefix:
            self.home.chmod(0o777)

    def unios(self, *words: str | bytes, timeout: float = 60, check: bool = True, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run one command to its end."""
        done = subprocess.run(
            [*self.prefix, UNIOS, *words],
            env=self.env,
            capture_output=True,
            timeout=timeout,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            **options,
        )
        assert b"Traceback" not in done.stderr + done.stdout, done.stderr.decode()
        if check:
            assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.unios(*words, "--json").stdout)

    def start(self, *words: str | bytes, **options: Any) -> "subprocess.Popen[bytes]":
        """Run one command beside the test."""
        return subprocess.Popen([*self.prefix, UNIOS, *words], env=self.env, stdin=subprocess.DEVNULL, **options)

    def run_detached(self, *argv: str, options: tuple[str, ...] = ()) -> int:
        return int(json.loads(self.unios("run", "-d", "--json", *options, "--", *argv).stdout)["pid"])

    def process(self, pid: int) -> dict[str, Any]:
        return next(p for p in json.loads(self.unios("ps", "-a", "--json").stdout) if p["pid"] == pid)

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node for node in json.loads(self.unios("nodes", "--json").stdout)}

    def wait_process(self, pid: int, reached: Callable[[dict[str, Any]], bool], what: str, timeout: float = 20) -> dict[str, Any]:
        """Wait until the record satisfies `reached`; fail with the record otherwise."""
        return wait_for(lambda: self.process(pid), reached, f"process {pid} {what}", timeout)

    def power_cut(self, node: str) -> None:
        """kill -9 every Linux process of a node, as a power cut would."""
        for pid in self.nodes()[node]["pids"]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def leftovers(self) -> list[str]:
        """Return what still runs with this home in its environment or arguments, and what is still mounted below it."""
        found = [f"{pid} {text[:200]!r}" for pid, text in leash.naming(self.home).items()]
        return found + [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self.home) in line]

    def __enter__(self) -> "System":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.unios("down", "--all", check=False)
        left = wait_for(self.leftovers, lambda left: not left, "nothing is left behind", 10)
        shutil.rmtree(self.home, ignore_errors=True)
        if not left:
            leash.let_go(self.home)
        assert not left


def nice_values(mark: str) -> set[int]:
    """Return those of the programs `sleep <mark>...` on this machine."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{name}/cmdline").read_bytes().startswith(b"sleep\0" + mark.encode()):
                found.add(os.getpriority(os.PRIO_PROCESS, int(name)))
        except OSError:
            continue
    return found


def wait_for(look: Callable[[], T], reached: Callable[[T], bool], what: str, timeout: float = 20) -> T:
    """Look again and again until it is so; fail with what was seen last."""
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if reached(seen):
            return seen
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}; last seen {seen}"
        os.sched_yield()
