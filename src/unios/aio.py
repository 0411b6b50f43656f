"""unios for asyncio: `await unios.aio.connect(name)`, `await unios.aio.listen(name, handlers)`. The twins of `unios.connect` and `unios.listen`."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from unios.client import embedded
from unios.client.messages import aio_port, aio_server
from unios.client.messages.aio_port import AsyncPort
from unios.client.messages.aio_server import AsyncServer

__all__ = ["AsyncPort", "AsyncServer", "connect", "listen"]


async def listen(name: str, target: Mapping[str, Callable[..., Any]] | object, *, mode: int = 0o600, node: str = "") -> AsyncServer:
    """Open a port and answer on it in this loop, until it is closed. Handlers may be coroutine functions. Arguments and errors as of `unios.listen`."""
    home = (await asyncio.to_thread(embedded.system)).home
    return await aio_server.listen(name, target, mode=mode, home=home, node=node)


async def connect(name: str, *, timeout: float | None = None, node: str = "") -> AsyncPort:
    """Return a port that somebody listens on; waits up to `timeout` seconds for him. Arguments and errors as of `unios.connect`."""
    home = (await asyncio.to_thread(embedded.system)).home
    return await aio_port.connect(name, timeout=timeout, home=home, node=node)
