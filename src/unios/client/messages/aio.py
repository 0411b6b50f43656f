"""The asyncio twins of `port` and `server`: the same conversations, the same meaning of each call, in one loop."""

from unios.client.messages.aio_port import AsyncPort, connect
from unios.client.messages.aio_server import AsyncServer, listen

__all__ = ["AsyncPort", "AsyncServer", "connect", "listen"]
