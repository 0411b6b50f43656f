"""The kernel's part in moving the store to another engine: has a cluster begun on its node, asks the store's process to move, and adopts what came of it.

The store's process alone decides (kernel/moving.py). A kernel that dies in between leaves a member that nobody asks, which the next attempt throws away, or a
move that is done without it. What system.json says is written by the store's process; a kernel looks at it every second.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from unios.errors import CallerError, Denied, OutcomeUnknown, Unavailable, UniosError
from unios.kernel import owner, quorum_member, system
from unios.kernel.callers import Caller
from unios.kernel.node_records import change_node
from unios.kernel.system import ETCD, SQLITE, SystemFile
from unios.limits import DISK_RETRY_S
from unios.store.client import StoreClient
from unios.wire.keeping import Move, Moved
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node

LOCK: Final = "moving.lock"
Stamp = tuple[int, int]
NEVER: Final[Stamp] = (0, 0)


class EngineMoving:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._seen: Stamp = NEVER

    async def move(self, caller: Caller, call: Call) -> object:
        """Serve store.move. Raises CallerError, Denied, Unavailable: the store is where it was; OutcomeUnknown: asked again it says where it is."""
        to, node = call.decode(Move).to, self._node
        if not caller.privileged:
            raise Denied("only the system's owner may move the store")
        if to not in (SQLITE, ETCD):
            raise CallerError(f"the store can be moved to {ETCD} or to {SQLITE}, not to {to[:80]}")
        if not node.system.has_store:
            raise CallerError(f"the store is moved by a node of its own machine, and {node.name} is on another: say --node")
        client = StoreClient(node.store_way.peer)
        try:
            with _alone(node.home.store / LOCK):
                before = await client.move("")  # one whose asker went away is waited for
                if before != to:
                    if to == ETCD:
                        self._check()
                        await self._move_to_etcd(client)
                    else:
                        await client.move(to)
                await self.look()
                await self._tidy_alone(client)
        finally:
            await client.close()
        return Moved(before, to)

    def _check(self) -> None:
        if owner.is_owned(self._node.home):
            raise CallerError("the store of a system that ends with its program stays with it")
        if find_spec("grpc") is None:
            raise Unavailable("etcd needs the package grpcio, which this Python has not: install unios[etcd]")
        if not quorum_member.binary():
            raise Unavailable("etcd is not found on this machine: install it (Debian: etcd-server), or have it in PATH")

    async def _move_to_etcd(self, client: StoreClient) -> None:
        quorum = self._node.quorum
        try:
            await quorum.found()
            await client.move(ETCD)
        except OutcomeUnknown:
            raise
        except (UniosError, OSError):
            with contextlib.suppress(UniosError):
                if await client.move("") != ETCD:
                    await quorum.unfound()
            raise

    async def _tidy(self) -> None:
        """Have no etcd on this machine that is not the store: of a move that was broken off, or of one back."""
        client = StoreClient(self._node.store_way.peer)
        try:
            with contextlib.suppress(UniosError, OSError), _alone(self._node.home.store / LOCK):
                await self._tidy_alone(client)
        finally:
            await client.close()

    async def _tidy_alone(self, client: StoreClient) -> None:
        """Nobody else may begin a move meanwhile; one that is under way, as its asker has died, is waited for: what it goes to must not be taken from it."""
        node = self._node
        if not node.quorum.has_any() or not node.system.has_store or await client.move("") != SQLITE:
            return
        if system.read(node.home.system_file, SystemFile).engine == SQLITE:
            await node.quorum.unfound()

    async def look(self) -> None:
        """Adopt another engine if system.json says so."""
        node = self._node
        file, now = system.read(node.home.system_file, SystemFile), _stamp(node.home.system_file)
        first, self._seen = self._seen == NEVER, now
        if first:
            node.start(self._tidy())
        if (file.engine, file.gateway) == (node.system.engine, node.system.gateway):
            return
        node.system.engine, node.system.gateway, node.system.store_machine = file.engine, file.gateway, file.store_machine
        await node.quorum.begin()
        node.start(self._tell())
        node.start(self._tidy())

    async def look_if_changed(self) -> None:
        """Do that if the file is another than at the last look."""
        if _stamp(self._node.home.system_file) != self._seen:
            await self.look()

    async def _tell(self) -> None:
        """Have the record say whether this node can have a member, however long that takes."""
        node = self._node
        while True:
            with contextlib.suppress(UniosError):
                await change_node(node.store, node.name, node.addresses.as_it_is)
                return
            await asyncio.sleep(DISK_RETRY_S)


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the only one of this machine who moves the store. Raises Unavailable."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Unavailable("the store is being moved: wait for it") from None
    finally:
        os.close(lock)
