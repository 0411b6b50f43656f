"""The kernel's operations on blocks: put, get, has, drop, list.

Rights: each user has blocks of his own, and a name gives no right to another's. The privileged may name a user. Decides nothing about where blocks
should be: whoever puts says how many nodes shall have them. Blocks of files are the system's: for the privileged alone, whoever bears such a name.
"""

from typing import TYPE_CHECKING, Final

from unios.errors import CallerError, Denied
from unios.kernel.callers import Caller
from unios.limits import BLOCK_NAMES_MAX, BLOCKS_COPIES, FILES_USER
from unios.wire import manifests
from unios.wire.carries import BlockView, Dropped, ListBlocks, OfBlocks, Stored
from unios.wire.operations import Empty
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.carrying import Carrying

LIST_MAX: Final = 10_000


def owner(caller: Caller, user: str) -> str:
    """Return whose blocks are meant. Raises Denied."""
    if user and user != caller.user and not caller.privileged:
        raise Denied(f"blocks of {user[:80]} are his own")
    whose = user or caller.user
    if whose == FILES_USER and not caller.privileged:
        raise Denied("blocks of files are for the system itself")
    return whose


def _names(body: OfBlocks) -> list[bytes]:
    names = manifests.split(body.names)
    if len(names) > BLOCK_NAMES_MAX:
        raise CallerError(f"{len(names)} blocks are named at once; at most {BLOCK_NAMES_MAX} may be")
    return names


class BlockOperations:
    """Serves `blocks.*`."""

    def __init__(self, carrying: "Carrying") -> None:
        self._carrying = carrying

    async def has(self, caller: Caller, call: Call) -> object:
        """The names of those that are not here. The others count as used now."""
        body = call.decode(OfBlocks)
        user = owner(caller, body.user)
        return b"".join(await self._carrying.threaded(self._carrying.blocks.missing, user, _names(body)))

    async def get(self, caller: Caller, call: Call) -> object:
        """The blocks, one by one and verified; what is not to be had is left out."""
        body = call.decode(OfBlocks)
        user, names = owner(caller, body.user), _names(body)
        if body.elsewhere:
            await self._carrying.sources.fetch(user, names)
        async for bundle in self._carrying.sources.bundles(user, names):
            await call.send(bundle)
        return Empty()

    async def put(self, caller: Caller, call: Call) -> object:
        """Take blocks in; answer when they are on disk, and all that are named on as many nodes as asked for. NoRoom. Idempotent."""
        body = call.decode(OfBlocks)
        user, names = owner(caller, body.user), _names(body)
        if not 1 <= body.copies <= BLOCKS_COPIES:
            raise CallerError(f"a block has 1 to {BLOCKS_COPIES} copies")
        if body.bytes > 0:
            self._carrying.blocks.check_room(body.bytes)
        taken = 0
        with self._carrying.batch(user) as batch:
            while (bundle := await call.receive(list[bytes])) is not None:
                await self._carrying.sources.take(batch, bundle)
                taken += sum(map(len, bundle))
            await self._carrying.threaded(batch.commit)
        await self._carrying.threaded(self._carrying.blocks.make_sure, user, names)
        missing = await self._carrying.threaded(self._carrying.blocks.missing, user, names)
        if missing:
            raise CallerError(f"{len(missing)} of the blocks that were named did not come; the first is {missing[0].hex()}")
        copied = await self._carrying.sources.copy(user, names, body.copies, body.prefer)
        return Stored(taken, copied.nodes, copied.refused)

    async def drop(self, caller: Caller, call: Call) -> object:
        """Remove blocks, but none that a live process needs. Idempotent."""
        body = call.decode(OfBlocks)
        user, names = owner(caller, body.user), _names(body)
        return Dropped(await self._carrying.threaded(self._carrying.blocks.drop, user, names, self._carrying.pinned))

    async def list(self, caller: Caller, call: Call) -> object:
        """What this node keeps of one user."""
        body = call.decode(ListBlocks)
        found = await self._carrying.threaded(self._carrying.blocks.list, owner(caller, body.user), body.after, LIST_MAX)
        return tuple(BlockView(name, size) for name, size in found)
