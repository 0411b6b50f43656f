"""System: unios on this machine in a UNIOS_HOME of its own, driven as a user would, and taken away again whatever happens."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from unios.client.connection import Connection
from unios.store.client import StoreClient, at
from unios.store.model import StoreStatistics

COMMAND = Path(sys.executable).parent / "unios"


class System:
    """Use it with `with`: leaving it stops every node, ends what is left of them and removes the folder."""

    def __init__(self, nodes: int = 3) -> None:
        self.nodes = nodes
        self.folder = Path(tempfile.mkdtemp(prefix="unios-bench-"))
        self.home = self.folder / "home"
        self.env = {**os.environ, "UNIOS_HOME": str(self.home)}
        self.env.pop("UNIOS_NODE", None)

    def __enter__(self) -> "System":
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        with _uninterrupted():
            with contextlib.suppress(subprocess.SubprocessError, RuntimeError, OSError):
                self.command("down", "--all", timeout_s=60)
            for pid in self._left():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                print(f"process {pid} was left behind by `unios down --all` and had to be killed", file=sys.stderr)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _left(self) -> list[int]:
        """Return the processes that still name this home, after up to 3 s of grace."""
        deadline = time.monotonic() + 3
        while (found := self.pids()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def pids(self) -> list[int]:
        """Return the processes of this system that live, those of programs too."""
        return [pid for pid in _pids() if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes() + b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return pid != os.getpid() and str(self.folder).encode() in text

    def command(self, *words: str, timeout_s: float = 120) -> bytes:
        """Run one `unios` command to its end and return its output; RuntimeError with what it said if it fails."""
        done = subprocess.run([COMMAND, *words], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s)
        if done.returncode:
            raise RuntimeError(f"unios {' '.join(words)} exited with {done.returncode}: {done.stderr.decode(errors='replace').strip()[-500:]}")
        return done.stdout

    def up(self) -> None:
        """Start the nodes, or those that are missing."""
        self.command("up", "--nodes", str(self.nodes))

    def views(self) -> dict[str, dict[str, Any]]:
        """Return what `unios nodes --json` says, by name."""
        return {view["name"]: view for view in json.loads(self.command("nodes", "--json"))}

    def connect(self, node: str = "") -> Connection:
        """Return a new connection, through the door of `node` if it is named."""
        return Connection(self.home, node, role="benchmark")

    def store_node(self) -> str:
        """Return the name of the node that hosts the store's process, "" if none does now."""
        for folder in self.connect().home.nodes():
            if self.part_pid(folder.name, "store"):
                return folder.name
        return ""

    def part_pid(self, node: str, part: str) -> int:
        """Return the pid in the run file of a node's part, 0 if there is none or it has ended."""
        try:
            fields = json.loads((self.home / "nodes" / node / "run" / f"{part}.json").read_bytes())
            stat = Path(f"/proc/{fields['pid']}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
        except (OSError, ValueError, IndexError):
            return 0
        return int(fields["pid"]) if stat[0] not in "ZX" and int(stat[19]) == fields["start"] else 0

    def store_statistics(self) -> StoreStatistics:
        """Return the store's own figures, asked at its own door."""

        async def ask() -> StoreStatistics:
            client = StoreClient(at(self.home / "store"))
            try:
                return await client.statistics()
            finally:
                await client.close()

        return asyncio.run(ask())


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let a second Ctrl-C not cut the cleaning up short."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
