"""Sends each request to the operation it names, here or on the node it is meant for. The kernel's one table of operations.

A request may come from a client of this machine (identified by Linux) or over a link (identified by the peer's certificate, which
also says for whose users it may speak). Forwarding is transparent: answers, streams and errors are those of the other node.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import msgspec

from unios.errors import CallerError, Denied, UniosError
from unios.kernel.callers import Caller
from unios.wire.passing import Passage
from unios.wire.peer import Call, Stream

if TYPE_CHECKING:
    from unios.kernel.links import Links

Operation = Callable[[Caller, Call], Awaitable[object]]

STREAMED: Final = frozenset(
    {
        "processes.follow",
        "processes.feed",
        "processes.attach",
        "processes.exec",
        "processes.reach",
        "node.events",
        "node.audit",
        "ports.relay",
        "blocks.put",
        "blocks.get",
    }
)
"""Operations with items in either direction; forwarded as streams."""

KERNELS_ONLY: Final = frozenset({"ports.relay", "node.certify", "node.cut", "node.note", "store.engine", "store.forgo", "store.keys"})
"""Operations that only another kernel may ask for, in its own name: what it passes on for a client comes with its certificate, too."""

LOCAL_ONLY: Final = frozenset({"ports.listen", "ports.connect", "mounts.open", "mounts.give"})
"""Operations that give descriptors or take them and so belong to the machine; connecting to other nodes' ports is their own business."""


class Dispatch:
    """The table, and the way to other nodes."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._table: dict[str, Operation] = {}
        self.links: Links | None = None
        self.told: Callable[[Caller, Call, UniosError | None], None] = lambda _caller, _call, _error: None
        """Hears how each operation has come out here."""

    def offer(self, **operations: Operation) -> None:
        """Add operations; `ports_listen=f` offers ports.listen."""
        self._table.update((name.replace("_", ".", 1), operation) for name, operation in operations.items())

    @property
    def operations(self) -> list[str]:
        return sorted(self._table)

    async def from_client(self, caller: Caller, call: Call) -> object:
        """Serve a client of this machine."""
        self._check(caller, call, is_kernel=False)
        if call.node and call.node != self._node:
            return await self.forward(caller, call, call.node)
        return await self._serve(caller, call)

    async def from_link(self, caller: Caller, call: Call) -> object:
        """Serve another kernel, on behalf of the caller it may speak for."""
        if call.op in LOCAL_ONLY:
            raise CallerError(f"{call.op} gives descriptors, which cannot travel between machines")
        self._check(caller, call, is_kernel=not call.hops)
        return await self._serve(caller, call)

    def _check(self, caller: Caller, call: Call, *, is_kernel: bool) -> None:
        if call.op in KERNELS_ONLY and not is_kernel:
            self.told(caller, call, error := Denied(f"{call.op} is for kernels"))
            raise error

    async def _serve(self, caller: Caller, call: Call) -> object:
        operation = self._table.get(call.op)
        if operation is None:
            raise CallerError(f"this kernel has no operation {call.op[:80]}: its unios may be older than the caller's")
        try:
            found = await operation(caller, call)
        except UniosError as error:
            self.told(caller, call, error)
            raise
        self.told(caller, call, None)
        return found

    async def forward(self, caller: Caller, call: Call, node: str) -> object:
        """Have `node` do it, in the caller's name."""
        if call.op in LOCAL_ONLY:
            raise CallerError(f"{call.op} gives descriptors: ask a kernel of this machine")
        if self.links is None:
            raise UniosError("no links yet")
        if call.op not in STREAMED:
            return await self.links.call(node, call.op, call.body, msgspec.Raw, user=caller.user, hops=call.hops + 1)
        async with await self.links.stream(node, call.op, call.body, user=caller.user, hops=call.hops + 1) as stream:
            return await relay(call, stream)


async def relay(call: Call, stream: Stream) -> object:
    """Pass a stream on: answers to the asker, the asker's items to the stream; return the final answer."""

    async def upward() -> None:
        with contextlib.suppress(UniosError):
            while (item := await call.receive(msgspec.Raw)) is not None:
                await stream.send(item)
            stream.end()

    task = asyncio.get_running_loop().create_task(upward())
    passage = Passage(stream, call)
    try:
        await passage.over
        await stream.next(msgspec.Raw)  # raises what has ended it
        return stream.result
    finally:
        passage.close()
        task.cancel()
