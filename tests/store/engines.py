"""The engines that the conformance suite runs on. A further engine is added here, and the suite stays as it is."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from unios.store import client
from unios.store.model import Store
from unios.wire.doors import connect_unix


class Engine:
    """A store that a test can open, kill and start again. `restart` loses every connection and keeps what was acknowledged."""

    async def open(self) -> Store:
        raise NotImplementedError

    def restart(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class SqliteProcess(Engine):
    """The embedded engine in its process."""

    def __init__(self, folder: Path, *, wrap: tuple[str, ...] = ()) -> None:
        self.folder = folder / "store"
        self._wrap = wrap
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "sock").unlink()
        self.process = subprocess.Popen([*self._wrap, sys.executable, "-m", "unios.store.server", str(self.folder)])
        deadline = time.monotonic() + 10
        while not self._listens() and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.005)

    def _listens(self) -> bool:
        """Whether it takes connections: its socket's file is there a moment earlier."""
        try:
            connect_unix(self.folder / "sock").close()
        except OSError:
            return False
        return True

    async def open(self) -> Store:
        return client.StoreClient(client.at(self.folder))

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


ENGINES: dict[str, Callable[[Path], Engine]] = {"sqlite": SqliteProcess}


@contextlib.asynccontextmanager
async def opened(engine: Engine) -> AsyncIterator[Store]:
    store = await engine.open()
    try:
        yield store
    finally:
        await store.close()


def with_store(engine: Engine, work: Callable[[Store], Awaitable[None]]) -> None:
    """Run `work` on an open store, bounded in time."""

    async def main() -> None:
        async with asyncio.timeout(30), opened(engine) as store:
            await work(store)

    asyncio.run(main())


def on_sqlite(folder: Path, work: Callable[[Store], Awaitable[None]]) -> None:
    """Run `work` on a SQLite store of its own, which is gone after it."""
    engine = SqliteProcess(folder)
    try:
        with_store(engine, work)
    finally:
        engine.stop()
