"""An etcd of one member in a folder, with any number of gateways to it in this process."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time
from contextlib import AsyncExitStack
from pathlib import Path

from unios.kernel.clocks import boot_ms
from unios.store.etcd.gateway import Gateway
from unios.store.model import Put, Transaction

START_S = 10.0


class OneMember:
    """Use it with `with`: leaving it ends the member. Its folder is the caller's."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("etcd")
        if binary is None:
            raise RuntimeError("no etcd binary is found")
        self._folder, self._binary = folder, binary
        self._gateways: list[Gateway] = []
        with socket.socket() as one, socket.socket() as two:
            for sock in (one, two):
                sock.bind(("127.0.0.1", 0))
            self.port, self._peer_port = one.getsockname()[1], two.getsockname()[1]

    def __enter__(self) -> "OneMember":
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
            "log-level": "error",
        }
        with (self._folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen([self._binary, *(f"--{name}={value}" for name, value in flags.items())], stdout=log, stderr=log)
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            time.sleep(0.01)
        raise RuntimeError("etcd did not start")

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()

    async def heard_all(self) -> None:
        """Wait until each gateway has heard of all that has been written by now."""
        last = self._gateways[0]
        revision = (await last.do(Transaction(then=(Put("/marks/one", b""),)))).revision  # type: ignore[union-attr]
        while any(gateway._recent.heard < revision.number for gateway in self._gateways):
            await asyncio.sleep(0.005)

    async def gateways(self, stack: AsyncExitStack, count: int) -> list[Path]:
        """Return the folders of so many gateways that serve until the stack is left."""
        from unios.store.etcd.address import parse
        from unios.store.etcd.channel import Channel
        from unios.store.etcd.server import GatewayRequests
        from unios.store.server import Server

        address = parse(f"etcd://127.0.0.1:{self.port}/measured")
        folders = [self._folder / f"gateway{number}" for number in range(count)]
        for folder in folders:
            folder.mkdir()
            gateway = Gateway(Channel(address), address.root, boot_ms)
            self._gateways.append(gateway)
            stack.push_async_callback(gateway.close)
            running = asyncio.create_task(gateway.run())
            stack.callback(running.cancel)
            stack.callback(Server(folder, GatewayRequests(gateway)).close)
        return folders
