"""The kernel's part in moving the store to another engine: has a cluster begun on its node, asks the store's process to move, and adopts what came of it.

The store's process alone decides (kernel/moving.py). A kernel that dies in between leaves a member that nobody asks, which the next attempt throws away, or a
move that is done without it. What system.json says is written by the store's process; a kernel looks at it every second.

On another machine nothing has to be known of it: its kernels go on asking the store through those of its machine. They ask those after it, at their start and
with each generation, over a link whose certificate is of that machine, and believe nobody else. What comes of it is a gateway of their own machine, which can then
have a member.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from unios.core.nodes import covers
from unios.errors import CallerError, Denied, OutcomeUnknown, Unavailable, UniosError
from unios.kernel import cluster, owner, quorum_member, system
from unios.kernel.callers import Caller
from unios.kernel.node_records import change_node
from unios.kernel.system import ETCD, SQLITE, SystemFile
from unios.limits import DISK_RETRY_S
from unios.store.client import StoreClient
from unios.undecodable import UNDECODABLE
from unios.wire.keeping import AskEngine, Move, Moved, StoreEngine
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node

LOCK: Final = "moving.lock"
ASK_TIMEOUT_MS: Final = 5_000
Stamp = tuple[int, int]
NEVER: Final[Stamp] = (0, 0)


class _Busy(Unavailable):
    """Somebody of this machine moves the store."""


class EngineMoving:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._seen: Stamp = NEVER
        self._asked = ""
        """The generation for which the store's machine has been asked after its engine."""
        self._moves_told = node.system.moves
        self._tidying = asyncio.Lock()

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
                        await self._move_to_sqlite(client)
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

    async def _move_to_sqlite(self, client: StoreClient) -> None:
        node = self._node
        async with node.gateways.given_up(client) as (attempt, machines):
            await client.move(SQLITE, attempt, machines)

    async def _tidy(self) -> None:
        """Have no etcd on this machine that is not the store: of a move that was broken off, or of one back."""
        node = self._node
        client = StoreClient(node.store_way.peer)
        try:
            async with self._tidying:
                while True:
                    with contextlib.suppress(UniosError, OSError), _alone(node.home.store / LOCK):
                        return await self._tidy_alone(client)
                    await asyncio.sleep(DISK_RETRY_S)
        finally:
            await client.close()

    async def _tidy_alone(self, client: StoreClient) -> None:
        """Nobody else may begin a move meanwhile; one that is under way, as its asker has died, is waited for: what it goes to must not be taken from it."""
        node = self._node
        if node.system.has_store:
            await node.gateways.tidy(client)
        if not node.quorum.has_any() or (node.system.has_store and await client.move("") != SQLITE):
            return
        if system.read(node.home.system_file, SystemFile).engine == SQLITE:
            await node.quorum.unfound()

    async def look(self) -> None:
        """Adopt another engine if system.json says so."""
        node = self._node
        now = _stamp(node.home.system_file)  # before it is read: what is written meanwhile is read once more
        file = system.read(node.home.system_file, SystemFile)
        first, self._seen = self._seen == NEVER, now
        if first:
            node.start(self._tidy())
        known = node.system
        known.forgone = file.forgone
        if (file.engine, file.gateway, file.store_machine) == (known.engine, known.gateway, known.store_machine):
            return
        known.engine, known.gateway, known.store_machine = file.engine, file.gateway, file.store_machine
        if file.forgone and not file.gateway:  # for a moment: what the node could have, and has, stays
            return
        await node.quorum.begin()
        node.start(self._tell())
        node.start(self._tidy())

    async def follow(self) -> None:
        """Adopt what has changed since the last time. Raises OSError, UniosError: it is asked for again."""
        await self.look_if_changed()
        node, revision = self._node, self._node.nodes.revision
        if node.system.engine == SQLITE and not node.system.has_store and revision is not None and revision.generation != self._asked:
            if await self._ask():
                self._asked = revision.generation
            await self.look_if_changed()

    async def look_if_changed(self) -> None:
        """Adopt what system.json says if it has changed. Raises OSError, DataLost."""
        if _stamp(self._node.home.system_file) != self._seen:
            await self.look()

    async def _ask(self) -> bool:
        """Ask the store's machine which engine it has, and write that down; False if none of its nodes is linked."""
        node = self._node
        forgone = node.system.forgone
        if node.quorum.has_any():  # of the etcd that it had before: that goes first
            node.start(self._tidy())
            return False
        for name in node.links.names():
            if node.store_way.keeps(name):
                found = await node.links.call(name, "store.engine", AskEngine(settled=True), StoreEngine, user=node.user, timeout_ms=ASK_TIMEOUT_MS)
                if found.moving:
                    return False
                if found.engine == ETCD:
                    await asyncio.to_thread(self._adopt, found, forgone)
                return True
        return False

    def _adopt(self, found: StoreEngine, forgone: str) -> None:
        home = self._node.home
        gateway = bool(found.cluster) and find_spec("grpc") is not None
        if gateway:
            try:
                cluster.write(home, msgspec.json.decode(found.cluster, type=cluster.Cluster))
            except UNDECODABLE as error:
                raise Unavailable(f"the store's machine says where etcd is in a way that this version does not understand: {error}") from error
        system.note_engine(home.system_file, ETCD, gateway=gateway, forgone=forgone)

    async def engine(self, caller: Caller, call: Call) -> object:
        """Serve store.engine. Raises Denied, Unavailable."""
        if not caller.users:  # a request that a kernel passes on for its client does not get here (kernel/dispatch.py)
            raise Denied("it is told to the kernels of other machines")
        await self.look_if_changed()
        node = self._node
        settled = call.decode(AskEngine).settled
        moving = settled and node.system.has_store and node.system.engine == ETCD and await self._is_moving()
        if not node.system.has_store:
            if settled and node.system.forgone:
                raise Unavailable(f"the machine of {node.name} has given up its gateway itself")
            if node.system.engine == ETCD:
                return StoreEngine(ETCD)
            raise Unavailable(f"the store is not on the machine of {node.name}")
        kept = cluster.read(node.home) if node.system.gateway and covers(caller.users, node.identity.users) else None
        moves = system.read(node.home.system_file, SystemFile).moves
        return StoreEngine(node.system.engine, msgspec.json.encode(kept) if kept is not None and kept.members else b"", moves, moving)

    async def _is_moving(self) -> bool:
        """Say whether a move is under way on this machine, or what came of one is not noted yet; one whose asker is gone is waited for. Raises Unavailable."""
        client = StoreClient(self._node.store_way.peer)
        try:
            with _alone(self._node.home.store / LOCK, shared=True):
                engine = await client.move("")
                await self.look_if_changed()
                return engine != self._node.system.engine
        except _Busy:
            return True
        finally:
            await client.close()

    async def tell_generation(self, file: SystemFile) -> None:
        """Write why the store has begun a new generation, if it is this node's part: of a move the nodes of its machine know."""
        moved, self._moves_told = file.moves != self._moves_told, file.moves
        local = moved or file.engine == SQLITE
        if self._node.name != min((name for name in file.members if not local or file.machines.get(name) == file.store_machine), default=""):
            return
        why = "it was restored, or its etcd came back with an older state; what was written after that is gone"
        if moved:
            why = f"its records have been moved to {file.engine}, and nothing of them is lost"
        with contextlib.suppress(UniosError):
            await self._node.events.write("store", f"the store goes on in a new generation: {why}")

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
def _alone(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Be the only one of this machine who moves the store; `shared`: one of those who want that nobody does. Raises Unavailable."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise _Busy("the store is being moved: wait for it") from None
    finally:
        os.close(lock)
