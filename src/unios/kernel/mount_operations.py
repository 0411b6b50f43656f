"""The kernel's operations on mounts: add, remove, list, open, note, give.

Rights: the privileged, for all of them: who has the descriptor of a mount answers whatever its users ask, and sees it.
"""

from unios.errors import CallerError, Denied
from unios.kernel.callers import Caller
from unios.kernel.mount_keeping import MountKeeping
from unios.mount_limits import MOUNT_AGREED_BYTES_MAX, MOUNT_FOLDER_BYTES_MAX, MOUNTS_WAIT_MS_MAX
from unios.wire.mounts import GiveMount, ListMounts, Mount, NoteMount, OfMount, OpenMount, Unmounted
from unios.wire.operations import Empty
from unios.wire.peer import Answer, Call


def _check(caller: Caller) -> None:
    if not caller.privileged:
        raise Denied("mounts of a node are for root there, or whoever runs the node")


def _folder(folder: bytes) -> bytes:
    if not folder.startswith(b"/") or b"\0" in folder or len(folder) > MOUNT_FOLDER_BYTES_MAX:
        raise CallerError("a folder to mount on is named from / on, as Linux takes it")
    return folder


def _agreed(agreed: bytes) -> bytes:
    if len(agreed) > MOUNT_AGREED_BYTES_MAX:
        raise CallerError(f"at most {MOUNT_AGREED_BYTES_MAX} bytes are kept beside a mount")
    return agreed


class MountOperations:
    """Serves `mounts.*`."""

    def __init__(self, keeping: MountKeeping) -> None:
        self._keeping = keeping

    async def add(self, caller: Caller, call: Call) -> object:
        """Mount on a folder, and have it served; answered when the record is on disk. Idempotent."""
        _check(caller)
        return await self._keeping.add(_folder(call.decode(Mount).folder))

    async def remove(self, caller: Caller, call: Call) -> object:
        """Take a mount away for good, also while somebody is in it. Idempotent."""
        _check(caller)
        return Unmounted(await self._keeping.remove(_folder(call.decode(OfMount).folder)))

    async def list(self, caller: Caller, call: Call) -> object:
        """What is mounted, or to be; waits for another version than `since`."""
        _check(caller)
        body = call.decode(ListMounts)
        await self._keeping.table.wait_changed(body.since, min(body.wait_ms, MOUNTS_WAIT_MS_MAX) / 1000)
        return self._keeping.table.view()

    async def open(self, caller: Caller, call: Call) -> object:
        """The mount and a duplicate of its descriptor."""
        _check(caller)
        body = call.decode(OpenMount)
        view, descriptor = self._keeping.open(body.folder, body.number)
        return Answer(view, [descriptor])

    async def note(self, caller: Caller, call: Call) -> object:
        """Keep what was agreed at INIT, as long as this kernel or the service lives. Idempotent."""
        _check(caller)
        body = call.decode(NoteMount)
        self._keeping.note(body.folder, body.number, _agreed(body.agreed))
        return Empty()

    async def give(self, caller: Caller, call: Call) -> object:
        """Take the descriptor of a mount of before. Idempotent."""
        _check(caller)
        body = call.decode(GiveMount)
        agreed = _agreed(body.agreed)
        if len(call.descriptors) != 1:
            raise CallerError(f"a mount is given with its one descriptor; {len(call.descriptors)} came")
        self._keeping.give(body.folder, body.number, agreed, call.take_descriptors()[0])
        return Empty()
