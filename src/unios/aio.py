"""unios for asyncio: `await unios.aio.connect(name)`, `listen(name, handlers)`, `put(value)`, `get(ref)`, `system()`: as the same names of `unios`; and
`capability(given)`, for who holds one.

Ports have an asyncio shell of their own. Objects and the system are used in a thread of the loop's pool: what they wait for is short, or a fetch from another node.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

from unios.client import embedded
from unios.client.embedded import System
from unios.client.messages import aio_port, aio_server
from unios.client.messages.aio_capability import AsyncCapability
from unios.client.messages.aio_port import AsyncPort
from unios.client.messages.aio_server import AsyncServer
from unios.client.messages.capabilities import Capability
from unios.client.objects import getting, putting
from unios.client.objects.ref import Ref

__all__ = ["AsyncCapability", "AsyncPort", "AsyncServer", "capability", "connect", "get", "listen", "put", "system"]
T = TypeVar("T")


async def system() -> System:
    """Return the system that this program uses, started if need be. As `unios.system`."""
    return await asyncio.to_thread(embedded.system)


async def put(value: T, *, remake: Callable[[], T] | tuple[Any, ...] | None = None) -> Ref[T]:
    """Keep a value for everybody who has the reference. Do not change the value before this has returned. Arguments and errors as of `unios.put`."""
    return await asyncio.to_thread(putting.put, value, remake=remake)


@overload
async def get(refs: Ref[T], timeout: float | None = None) -> T: ...
@overload
async def get(refs: Sequence[Ref[T]], timeout: float | None = None) -> list[T]: ...
async def get(refs: "Ref[Any] | Sequence[Ref[Any]]", timeout: float | None = None) -> Any:
    """Return the object of a reference, or a list. Cancelled, a fetch goes on, and its result is kept on this node. Arguments and errors as of `unios.get`."""
    return await asyncio.to_thread(getting.get, refs, timeout)


async def listen(name: str, target: Mapping[str, Callable[..., Any]] | object, *, mode: int = 0o600, node: str = "") -> AsyncServer:
    """Open a port and answer on it in this loop, until it is closed. Handlers may be coroutine functions. Arguments and errors as of `unios.listen`."""
    home = (await system()).home
    return await aio_server.listen(name, target, mode=mode, home=home, node=node)


async def connect(name: str, *, timeout: float | None = None, node: str = "") -> AsyncPort:
    """Return a port that somebody listens on; waits up to `timeout` seconds for him. Arguments and errors as of `unios.connect`."""
    home = (await system()).home
    return await aio_port.connect(name, timeout=timeout, home=home, node=node)


def capability(given: Capability) -> AsyncCapability:
    """Return a capability for use in this loop: one that was minted here, or has come in a message."""
    return AsyncCapability(given)
