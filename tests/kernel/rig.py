"""A real guard in a folder of its own, driven without a kernel: what a node's kernel would tell it, the test tells it."""

import asyncio
import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests import leash
from unios.kernel import freezer
from unios.kernel.clocks import boot_ns
from unios.kernel.trees import TreeInfo, Trees
from unios.wire.home import NodeFolder

FOREVER = 2**64 - 1
ENV = [["PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"], ["LANG", "C.UTF-8"]]


class Rig:
    """`options` are the guard's: --no-namespaces, --freezer KIND. `user`: run it as that uid (needs root)."""

    def __init__(self, *options: str, user: int | None = None) -> None:
        self.top = leash.hold(Path(tempfile.mkdtemp(prefix="unios-guard-")))
        self.top.chmod(0o755)
        self.folder = self.top / "n1"
        (self.folder / "run").mkdir(parents=True)
        self.user = user
        self.lease(FOREVER)
        if user is not None:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, user, user)
        self._options = options
        self.exits: dict[tuple[int, int], dict[str, Any]] = {}
        self.start()

    def start(self) -> None:
        (self.folder / "guard.sock").unlink(missing_ok=True)
        prefix = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"] if self.user is not None else []
        with open(self.top / "guard.log", "ab") as log:
            self.guard = subprocess.Popen(
                [*prefix, sys.executable, "-m", "unios.kernel.guard", "--folder", str(self.folder), *self._options], stderr=log, cwd="/"
            )
        deadline = time.monotonic() + 10
        while not (self.folder / "guard.sock").exists() and time.monotonic() < deadline:
            time.sleep(0.005)

    def log(self) -> str:
        return (self.top / "guard.log").read_text()

    def lease(self, until_ns: int, number: int = 1) -> None:
        """Set the deadline as a kernel does."""
        path = self.folder / "lease"
        with open(path, "r+b" if path.exists() else "wb") as file:
            file.write(struct.pack("<QQ", until_ns, number))

    def lease_for(self, ms: float, number: int = 1) -> None:
        self.lease(boot_ns() + int(ms * 1e6), number)

    def run(self, work: Callable[[Trees], Coroutine[Any, Any, None]]) -> None:
        """Run `work` with a connection to the guard, bounded in time."""

        async def main() -> None:
            trees = Trees(NodeFolder(self.folder), lambda pid, incarnation, fields: self.exits.update({(pid, incarnation): fields}), lambda: None)
            task = asyncio.create_task(trees.run())
            try:
                async with asyncio.timeout(45):
                    await trees.wait_up()
                    await work(trees)
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                trees.close()

        asyncio.run(main())

    def spec(self, pid: int, *argv: str, incarnation: int = 1, **fields: Any) -> dict[str, Any]:
        ids = {"uid": self.user, "gid": self.user} if self.user is not None else {}
        return {"pid": pid, "incarnation": incarnation, "argv": list(argv), "env": ENV, "cwd": "/", **ids, **fields}

    async def spawn(self, trees: Trees, pid: int, *argv: str, incarnation: int = 1, **fields: Any) -> TreeInfo:
        return await trees.spawn(self.spec(pid, *argv, incarnation=incarnation, **fields), 5_000)

    async def exit_of(self, pid: int, incarnation: int = 1) -> dict[str, Any]:
        while (pid, incarnation) not in self.exits:
            await asyncio.sleep(0.005)
        return self.exits[pid, incarnation]

    def output(self, pid: int, incarnation: int = 1, name: str = "out") -> bytes:
        return b"".join(path.read_bytes() for path in sorted((self.folder / f"trees/{pid}.{incarnation}").glob(f"{name}.*")))

    def close(self) -> list[int]:
        """Take everything away; return what still lived of the trees."""
        with contextlib.suppress(ProcessLookupError):
            self.guard.send_signal(signal.SIGKILL)
        self.guard.wait()
        left = self.alive()
        for _round in range(3):
            for pid in self.alive():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            freezer.sweep(self.folder)
            time.sleep(0.02)
        shutil.rmtree(self.top, ignore_errors=True)
        leash.let_go(self.top)
        return left

    def alive(self) -> list[int]:
        from unios.kernel import linux_pids

        return linux_pids.of_node(NodeFolder(self.folder))


async def info(trees: Trees) -> dict[str, Any]:
    """Return what the guard says of itself."""
    assert trees._guard is not None
    return await trees._guard.ask("info")
