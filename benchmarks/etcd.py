"""An etcd of one member in a folder, with any number of gateways to it in this process."""

import asyncio
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

from tests.store.engines import EtcdMember

from unios.kernel.clocks import boot_ms
from unios.store.etcd.gateway import Gateway
from unios.store.model import Put, Transaction


class OneMember:
    """Use it with `with`: leaving it ends the member. Its folder is the caller's."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("etcd") is None:
            raise RuntimeError("no etcd binary is found")
        self._folder = folder
        self._gateways: list[Gateway] = []

    def __enter__(self) -> "OneMember":
        self._member = EtcdMember(self._folder, hasty=False)
        return self

    def __exit__(self, *_error: object) -> None:
        self._member.stop()

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

        address = parse(f"etcd://127.0.0.1:{self._member.port}/measured")
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
