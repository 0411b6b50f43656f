"""Carrying: the folders that processes of this node took along: laid out before a start, collected after the end, and cleared away.

A working folder is `work/<pid>.<incarnation>`, 0700, its user's. Laying out and collecting are done by a porter with that user's rights, from and into the
block store of this node; what is not here is fetched from others. Results are on disk before the end of the process is recorded, so that who hears of
the end finds them. A process that takes nothing along costs one look into a set.

What is left of a working folder when its process has been started again elsewhere is kept for a person, WORK_KEPT of them.
"""

import asyncio
import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from unios.core import carries, claims
from unios.core.processes import LIVE, ProcessRecord, ProcessSpec, process_key
from unios.demands import Carry
from unios.errors import CallerError, DataLost, NoRoom, NotFound, OutcomeUnknown, PeerRestarted, Unavailable, UniosError
from unios.kernel import porting
from unios.kernel.block_sources import BlockSources
from unios.kernel.blocks import Batch, BlockStore, free_bytes, lacks
from unios.kernel.callers import account_of, user_of
from unios.kernel.porter_turns import PorterTurns
from unios.limits import BLOCKS_COPIES, DISK_FREE_BYTES_MIN, RECORD_RETRY_MS_MAX, WORK_KEPT
from unios.wire import manifests
from unios.wire.manifests import Entry

if TYPE_CHECKING:
    from unios.kernel.node import Node

T = TypeVar("T")
TIDY_S: Final = 30.0
ATTEMPTS_MAX: Final = 3
"""So often blocks that turn out to be damaged while a folder is laid out are fetched again."""
MISSING_SHOWN: Final = 5
UNCOLLECTED: Final = "could not be collected"
"""Said in the reason of a process whose working folder is therefore kept."""
_WORK: Final = re.compile(r"([0-9]+)\.([0-9]+)")


class Found(NamedTuple):
    """What a collection came to: the names of the results' manifest, and a sentence for the record if something is to be said."""

    results: bytes = b""
    note: str = ""
    failed: bool = False


NOTHING: Final = Found()


class Carrying:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self.node = node
        self._threads = ThreadPoolExecutor(8, "blocks")
        self._porters = PorterTurns()
        self._work = f"{node.folder.path}/work"
        os.makedirs(self._work, exist_ok=True)
        os.chmod(self._work, 0o711 if os.geteuid() == 0 else 0o700)
        self.blocks = BlockStore(f"{node.folder.path}/blocks", owner=user_of(os.geteuid()), node=node.name)
        self.sources = BlockSources(self)
        self._laid: set[tuple[int, int]] = set(self._folders())
        """Those whose working folder is here."""
        self._collecting: dict[tuple[int, int], asyncio.Task[Found]] = {}
        self._pins: dict[tuple[str, bytes], frozenset[tuple[str, bytes]]] = {}

    def _folders(self) -> list[tuple[int, int]]:
        found = [match for match in map(_WORK.fullmatch, os.listdir(self._work)) if match]
        return [(int(match[1]), int(match[2])) for match in found]

    def path(self, pid: int, incarnation: int) -> str:
        return f"{self._work}/{pid}.{incarnation}"

    async def threaded(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what waits for the disk beside the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def batch(self, user: str) -> Batch:
        return self.blocks.batch(user, self.pinned)

    # laying out

    async def lay_out(self, record: ProcessRecord, spec: ProcessSpec, job: dict[str, Any]) -> None:
        """Make the working folder of one whose job has been found possible. Raises NotFound or CallerError if that cannot be here, Unavailable for now,
        PeerRestarted if it is not to be started here any more: laying out takes its time."""
        key = (record.pid, record.incarnation)
        carries.check(spec.carry)
        await self.node.trees.wait_up()
        path = self.path(*key)
        if key not in self.node.trees.trees:  # else it runs there already: asked again, nothing is touched
            account = porting.Account(record.user, job["uid"], job["gid"], job["groups"])
            self._laid.add(key)
            await self._lay(account, spec.carry, path)
            now, _modified = await self.node.records.read(record.pid)
            if not claims.holds(now, self.node.name, record.incarnation):
                raise PeerRestarted(f"process {record.pid} is not assigned to {self.node.name} any more")
            if now.wanted == "stopped":
                raise Unavailable(f"process {record.pid} was ended before it began")

    def placed(self, record: ProcessRecord, spec: ProcessSpec, job: dict[str, Any]) -> dict[str, Any]:
        """Return the job with the working folder as its place, if it has one."""
        if spec.carry.manifest:
            path = self.path(record.pid, record.incarnation)
            job["cwd"] = os.path.join(path, os.fsdecode(spec.carry.cwd)).rstrip("/")
            job["env"].append(["UNIOS_CARRIED", path])
        return job

    async def _lay(self, account: porting.Account, carry: Carry, path: str) -> None:
        for attempt in range(ATTEMPTS_MAX):
            entries = await self._brought(account.user, carry)
            await self.threaded(_make_empty, path, account)
            try:
                await self._porters.work(account.user, porting.lay_out, self.blocks, account, path, entries)
                return
            except porting.Damaged:
                if attempt == ATTEMPTS_MAX - 1:
                    raise
            except CallerError:
                await self.threaded(_remove, path)
                raise

    async def _brought(self, user: str, carry: Carry) -> list[Entry]:
        """Return what is to be laid out, when all of it is here. Raises NotFound if something is nowhere, CallerError if it cannot be here."""
        try:
            entries = await self.manifest(user, carry.manifest)
            needed, free = manifests.size_of(entries), free_bytes(self._work)
            if needed + DISK_FREE_BYTES_MIN > free:
                raise CallerError(f"there is no room for the carried folder: {lacks(self.node.name, needed, free)}")
            missing = await self.sources.fetch(user, manifests.blocks_of(entries))
        except NoRoom as error:  # which says: later, here. Another node may have room now, and waiting here would hold up others
            raise CallerError(f"there is no room for the carried folder: {error}") from error
        if missing:
            raise NotFound(_lost(entries, missing))
        return entries

    async def manifest(self, user: str, names: bytes) -> list[Entry]:
        """Return what a manifest says, fetched if it is not here. Raises NotFound if it is nowhere, CallerError if it is none."""
        if await self.sources.fetch(user, manifests.split(names)):
            raise NotFound("the list of the carried files is on no node that is left: carry the folder again")
        return await self.threaded(self._read_manifest, user, names)

    def _read_manifest(self, user: str, names: bytes) -> list[Entry]:
        blocks = [self.blocks.get(user, name) for name in manifests.split(names)]
        if None in blocks:
            raise porting.Damaged("the list of the carried files is damaged here")
        return manifests.decode(b"".join(block for block in blocks if block is not None))

    def begun(self, record: ProcessRecord, spec: ProcessSpec) -> None:
        """It has started: say beside that what it may miss here. Only of a restart, or where a folder was carried."""
        carry = spec.carry
        if (record.incarnation > 1 or carry.manifest) and (carry.manifest or carry.named):
            self.node.start(self._tell(record, carry))

    async def _tell(self, record: ProcessRecord, carry: Carry) -> None:
        node, text = self.node, []
        if carry.manifest and record.incarnation > 1:
            before = f"incarnation {record.incarnation - 1}"
            why = record.reason.partition(";")[0] or "it had ended"
            text.append(f"it began from the folder as it was carried: what {before} had written there did not come along ({why})")
        if carry.named:
            account = account_of(record.user)
            if account is not None:
                work = porting.Account(record.user, *account[:3])
                with contextlib.suppress(UniosError):
                    absent = await self._porters.work(record.user, porting.look, work, os.fspath(node.folder.path), carry.named)
                    if absent:
                        text.append(f"on {node.name} it did not find again: {', '.join(map(porting.shown, absent))}")
        if text:
            event = node.events.put("carry", f"process {record.pid}: {'; '.join(text)}", record.pid)
            with contextlib.suppress(UniosError):
                await node.store.put(event.key, event.value)
            if record.on_partition != "keep":  # there a reason says that it is out of sight
                await self._explain(record, "; ".join(text))

    async def _explain(self, record: ProcessRecord, text: str) -> None:
        def change(seen: ProcessRecord) -> ProcessRecord | None:
            return msgspec.structs.replace(seen, reason=text) if seen.state == "running" and not seen.reason else None

        key = process_key(record.pid)
        with contextlib.suppress(UniosError, TimeoutError):
            async with asyncio.timeout(TIDY_S):
                await self.node.processes.wait_for(key, lambda record: record is None or record.state != "pending")
                await self.node.records.change_own(self.node.name, record.pid, record.incarnation, change)

    # collecting

    def carries(self, pid: int, incarnation: int) -> bool:
        return (pid, incarnation) in self._laid

    async def collect(self, pid: int, incarnation: int, *, timeout_s: float | None = None) -> Found:
        """Return what its results are, on disk here and copied to another node; never raises. Idempotent, and one collection at a time."""
        key = (pid, incarnation)
        if key not in self._laid:
            return NOTHING
        task = self._collecting.get(key)
        if task is None:
            task = self._collecting[key] = asyncio.get_running_loop().create_task(self._collected(pid, incarnation))
            task.add_done_callback(lambda _task: self._collecting.pop(key, None))
        try:
            return await asyncio.wait_for(asyncio.shield(task), timeout_s)
        except TimeoutError:
            return self._failed(pid, incarnation, f"{timeout_s:g} s were not enough")

    def _failed(self, pid: int, incarnation: int, why: str) -> Found:
        kept = f"what there is of them is in {self.path(pid, incarnation)} on {self.node.name}"
        return Found(note=f"its results {UNCOLLECTED}: {why}; {kept}", failed=True)

    async def _collected(self, pid: int, incarnation: int) -> Found:
        try:
            record, spec = await self._read_both(pid)
            if not spec.carry.results and not spec.carry.every:
                return NOTHING
            return await self._collect(record, spec.carry, self.path(pid, incarnation))
        except Exception as error:  # noqa: BLE001 whatever it is: the end of the process is recorded, and says it
            return self._failed(pid, incarnation, str(error))

    async def _read_both(self, pid: int) -> tuple[ProcessRecord, ProcessSpec]:
        """Read what it is; waits out an unavailable store, without which its end cannot be recorded either."""
        while True:
            try:
                return await self.node.records.read_both(pid)
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(RECORD_RETRY_MS_MAX / 1000)

    async def _collect(self, record: ProcessRecord, carry: Carry, path: str) -> Found:
        account = account_of(record.user)
        if account is None:
            raise NotFound(f"{self.node.name} has no user {record.user}")
        known = await self.manifest(record.user, carry.manifest)

        def work() -> porting.Collected:
            user = porting.Account(record.user, *account[:3])
            return porting.collect(self.blocks, user, path, known, patterns=carry.results, every=carry.every, pinned=self.pinned)

        found = await self._porters.work(record.user, work)
        if found.manifest:
            names = manifests.split(found.manifest) + manifests.blocks_of(found.entries)
            await self.sources.copy(record.user, names, BLOCKS_COPIES)
        return Found(found.manifest, "; ".join(found.notes))

    async def done(self, pid: int, incarnation: int, found: Found) -> None:
        """Its end is recorded: the working folder goes, unless the results are only there."""
        if (pid, incarnation) in self._laid and not found.failed:
            await self._clear(pid, incarnation)

    async def _clear(self, pid: int, incarnation: int) -> None:
        await self.threaded(_remove, self.path(pid, incarnation))
        self._laid.discard((pid, incarnation))

    # tidying

    async def run(self) -> None:
        """Clear away what earlier lives of this node left; ends only by cancellation."""
        await self.threaded(self.blocks.count)
        await self.node.processes.wait_complete()
        await self.node.trees.wait_up()
        while True:
            with contextlib.suppress(UniosError, OSError):
                await self._tidy()
            await asyncio.sleep(TIDY_S)

    async def _tidy(self) -> None:
        kept: list[tuple[float, tuple[int, int]]] = []
        for key in list(self._laid):
            record = self.node.processes.values.get(process_key(key[0]))
            lives = record is not None and (record.node, record.incarnation) == (self.node.name, key[1]) and record.state in LIVE
            if key in self.node.starts.tasks or lives:
                continue
            tree = self.node.trees.trees.get(key)
            if tree is not None and tree.state != "ended":
                continue
            if record is not None and (record.incarnation > key[1] or UNCOLLECTED in record.reason or record.state == "lost"):
                with contextlib.suppress(OSError):
                    kept.append((os.stat(self.path(*key)).st_mtime, key))
            else:
                await self._clear(*key)
        for _at, key in sorted(kept)[: max(0, len(kept) - WORK_KEPT)]:
            await self._clear(*key)

    def pinned(self) -> Collection[tuple[str, bytes]]:
        """Return (user, block) of what live processes may need, and of results that are recorded, as far as their manifests are here."""
        found: set[tuple[str, bytes]] = set()
        used: dict[tuple[str, bytes], frozenset[tuple[str, bytes]]] = {}
        for record in tuple(self.node.processes.values.values()):
            for names in (record.carried if record.state in LIVE else b"", record.results):
                if names:
                    key = (record.user, names)
                    used[key] = self._pins.get(key) or self._pins_of(*key)
                    found |= used[key]
        self._pins = used
        return found

    def _pins_of(self, user: str, names: bytes) -> frozenset[tuple[str, bytes]]:
        try:
            whole = (*manifests.split(names), *manifests.blocks_of(self._read_manifest(user, names)))
        except UniosError:
            return frozenset()
        return frozenset((user, name) for name in whole)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._porters.close()


def _lost(entries: list[Entry], missing: Collection[bytes]) -> str:
    gone = set(missing)
    files = [porting.shown(entry.path) for entry in entries if gone.intersection(manifests.split(entry.blocks))]
    more = f" and {len(files) - MISSING_SHOWN} more" if len(files) > MISSING_SHOWN else ""
    return f"data lost: no node that is left has the content of {', '.join(files[:MISSING_SHOWN])}{more}; carry the folder again"


def _make_empty(path: str, account: porting.Account) -> None:
    """Make the working folder anew, its user's. Raises CallerError (no room: another node may have it), Unavailable."""
    try:
        _remove(path)
        os.mkdir(path, 0o700)
        if os.geteuid() == 0:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CallerError("there is no room for the carried folder: not even an empty one can be made") from error
        raise Unavailable(f"the working folder cannot be made: {error.strerror}") from error


def _remove(path: str) -> None:
    """Remove a working folder, whatever is in it; no link is followed."""

    def stubborn(_function: object, where: Any, _info: object) -> None:
        if os.geteuid() == 0:
            return  # root needs no right that a mode withholds, and goes by no path through a folder in which its owner may lay links meanwhile
        with contextlib.suppress(OSError):  # a folder that its owner may not write in keeps a node of his from emptying it
            os.chmod(os.path.dirname(where), 0o700)
            os.unlink(where) if not os.path.isdir(where) or os.path.islink(where) else shutil.rmtree(where, ignore_errors=True)

    if os.path.lexists(path):
        shutil.rmtree(path, onerror=stubborn)


async def hand_out(node: "Node", pid: int, check: Callable[[ProcessRecord], None]) -> tuple[ProcessRecord, Carry]:
    """Return record and what it took along. Raises NotFound if it took nothing."""
    check((await node.records.read(pid))[0])
    try:
        record, spec = await node.records.read_both(pid)
    except DataLost as error:
        raise NotFound(str(error)) from error
    if not spec.carry.manifest:
        raise NotFound(f"process {pid} took no folder along (`run --carry DIR`)")
    return record, spec.carry
