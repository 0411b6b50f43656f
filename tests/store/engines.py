"""The engines that the conformance suite runs on. A further engine is added here, and the suite stays as it is."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from unios.store import client, sharing
from unios.store.model import Store
from unios.wire.doors import connect_unix
from unios.wire.peer import Peer
from unios.wire.transport import SocketTransport


class Engine:
    """A store that a test can open, kill and start again. `restart` loses every connection and keeps what was acknowledged."""

    dense = True
    """Whether each revision number is one more than that of the write before. Not where renewals are writes, or others write too."""

    goes_back = False
    """Whether a revision that it has not reached yet is taken for a sign that it is back with an older state: then a new generation begins."""

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
        self.process = subprocess.Popen([*self._wrap, sys.executable, "-m", "unios.store.server", self.argument()])
        deadline = time.monotonic() + 10
        while not self._listens() and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.005)

    def argument(self) -> str:
        """Return how the process calls its folder."""
        return str(self.folder)

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


class EtcdMember:
    """An etcd of one member, on a folder of its own and loopback ports. `hasty`: it beats, and elects itself again, in a fifth of etcd's own times."""

    def __init__(self, folder: Path, *, hasty: bool = True, flags: dict[str, str | None] | None = None) -> None:
        """`flags`: other ones than ours, None for what etcd itself has."""
        binary = shutil.which("etcd")
        if binary is None:
            pytest.skip("no etcd binary is found: install etcd-server (Debian), or put etcd into PATH")
        if find_spec("grpc") is None:
            pytest.skip("the package grpcio is not installed: pip install unios[etcd]")
        self._binary = binary
        self._folder, self._hasty, self._flags = folder, hasty, flags or {}
        self.port, self._peer_port = _free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        own, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self._peer_port}"
        flags = {
            "name": "member",
            "data-dir": str(self._folder / "etcd"),
            "listen-client-urls": own,
            "advertise-client-urls": own,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"member={peer}",
            "max-txn-ops": "1024",
            "max-request-bytes": str(8 * 1024 * 1024),
            "logger": "zap",
            "log-level": "error",
            **({"heartbeat-interval": "20", "election-timeout": "100"} if self._hasty else {}),
            **self._flags,
        }
        with (self._folder / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._binary, *(f"--{name}={value}" for name, value in flags.items() if value is not None)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.01)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """It loses nothing by that; what it wrote is in a temporary folder."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait()


class EtcdGateway(SqliteProcess):
    """A gateway in its process, to an etcd of its own, or to that of another."""

    dense = False
    goes_back = True

    def __init__(self, folder: Path, *, member: EtcdMember | None = None, system: str = "tested") -> None:
        folder.mkdir(exist_ok=True)
        self._owned = member is None
        self.member = member or EtcdMember(folder)
        self._system = system
        super().__init__(folder)

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "sock").unlink()
        environment = {**os.environ, "UNIOS_ETCD": f"etcd://127.0.0.1:{self.member.port}/{self._system}"}
        self.process = subprocess.Popen([sys.executable, "-m", "unios.store.etcd.server", str(self.folder)], env=environment)
        deadline = time.monotonic() + 10
        while not self._listens() and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.005)

    def restart(self) -> None:
        """Both die at once, and come back."""
        self.kill()
        self.member.stop()
        self.member.start()
        self.start()

    def stop(self) -> None:
        super().stop()
        if self._owned:
            self.member.stop()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class SharedConnection(SqliteProcess):
    """The embedded engine as a node without a store on its machine has it: over the connection of its kernel, which it shares."""

    async def open(self) -> Store:
        shared = sharing.Shared(client.StoreClient(client.at(self.folder)))

        async def connect() -> Peer:
            ours, far = socket.socketpair()
            shared.serve(SocketTransport(far))
            peer = Peer(SocketTransport(ours), role="a service")
            await peer.start()
            return peer

        return Sharing(connect, shared)


class Sharing(client.StoreClient):
    """A service's client, which takes the kernel's with it when it is closed."""

    def __init__(self, connect: client.Connect, shared: sharing.Shared) -> None:
        super().__init__(connect)
        self.shared = shared

    async def close(self) -> None:
        await super().close()
        await self.shared.store.close()


ENGINES: dict[str, Callable[[Path], Engine]] = {"etcd": EtcdGateway, "sqlite": SqliteProcess}
WITH_SHARED: dict[str, Callable[[Path], Engine]] = {**ENGINES, "shared": SharedConnection}
"""And ways to them that pass on what a node needs, neither copies of all there is nor restores."""


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
