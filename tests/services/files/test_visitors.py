"""Mounts of other nodes: who may ask; what is answered is in the log before; a node that does not come back has nothing open and holds nothing."""

import asyncio
import errno
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.services.files.played import PlayedAround, PlayedMount, Then, ino_of, lock, volume_in
from unios.core.files.entry import Entry
from unios.core.files.inode import ROOT, Owner
from unios.core.files.ranges import WRITE
from unios.errors import CallerError, Denied
from unios.fuse import abi
from unios.fuse.abi import Op
from unios.services.files import visitors as visitors_of
from unios.services.files.replicating import Replicating
from unios.services.files.serving import Serving
from unios.services.files.visitors import Visitors
from unios.wire.filing import Ask, Stay, Told, Unmounted
from unios.wire.operations import Accepted, Empty

SOON_S = 20.0
MOUNT = 77


def raw(op: int, body: bytes, node: int = ROOT, *, unique: int = 2) -> bytes:
    """Return a request as Linux has it."""
    return abi.IN_HEADER.pack(abi.IN_HEADER.size + len(body), op, unique, node, 0, 0, 1, 0, 0) + body


def mkdir(name: bytes, *, unique: int = 2) -> bytes:
    return raw(Op.MKDIR, (0o755).to_bytes(4, "little") + bytes(4) + name + b"\0", unique=unique)


def lookup(name: bytes, *, unique: int = 2) -> bytes:
    return raw(Op.LOOKUP, name + b"\0", unique=unique)


def write(node: int, data: bytes, *, unique: int = 2) -> bytes:
    return raw(Op.WRITE, abi.WRITE_IN.pack(0, 0, len(data), 0, 0, 0, 0) + data, node, unique=unique)


class PlayedLog:
    """A log that takes what comes when it is let."""

    def __init__(self) -> None:
        self.lets = asyncio.Event()
        self.count = 0

    async def append(self, *entries: bytes) -> int:
        await self.lets.wait()
        self.count += len(entries)
        return self.count - len(entries)


class PlayedOwning(PlayedAround):
    """What Owning is to visitors."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.get_running_loop()
        self.replicating = Replicating()
        super().__init__(volume_in(folder, self.replicating.tell))
        self.serving = Serving(self.volume, self)
        self.recalled: list[tuple[int, ...]] = []

    def recall(self, inodes: tuple[int, ...], then: Callable[[], None]) -> None:
        self.recalled.append(inodes)
        then()


class PlayedPeer:
    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def closed(self) -> None:
        await self.gone.wait()


class PlayedCall:
    def __init__(self, op: str, body: Any, peer: PlayedPeer | None = None) -> None:
        self.op, self._body, self.peer = op, body, peer

    def decode(self, kind: type) -> Any:
        assert isinstance(self._body, kind)
        return self._body


class World:
    def __init__(self, folder: Path) -> None:
        self.owning = PlayedOwning(folder)
        self.volume, self.log = self.owning.volume, PlayedLog()
        self.holds, self.looked = True, 0
        self.visitors = Visitors(self.owning, self.look)  # type: ignore[arg-type]

    def look(self) -> bool:
        self.looked += 1
        return self.holds

    async def call(self, op: str, body: Any, *, node: str = "n2", privileged: bool = True, peer: PlayedPeer | None = None) -> Any:
        stamp = Accepted(1, "files", "somebody", privileged, node)
        return await self.visitors.serve(stamp, PlayedCall(op, body, peer))  # type: ignore[arg-type]

    def asking(self, data: bytes, *, mount: int = MOUNT, node: str = "n2", again: bool = False, known: bool = False) -> "asyncio.Task[Told]":
        return asyncio.create_task(self.call("ask", Ask(mount, data, again, known), node=node))

    async def ask(self, data: bytes, **more: Any) -> Told:
        return await asyncio.wait_for(self.asking(data, **more), SOON_S)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON_S):
            while not holds():
                await asyncio.sleep(0.001)

    def file(self, name: bytes) -> int:
        with self.volume.lock:
            return self.volume.commit(self.volume.tree.make(ROOT, name, stat.S_IFREG | 0o644, Owner(0, 0), 1))


def play(folder: Path, what: Callable[[World], Awaitable[None]], *, lets: bool = True) -> None:
    failed = list[object]()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failed.append(context))
        world = World(folder)
        if lets:
            world.log.lets.set()
        running = asyncio.create_task(world.owning.replicating.run(world.log, lambda _at, _place: None))  # type: ignore[arg-type]
        try:
            await what(world)
        finally:
            running.cancel()

    asyncio.run(main())
    assert failed == []


def test_only_the_systems_own_may_ask(tmp_path: Path) -> None:
    async def what(world: World) -> None:
        for op, body in (("ask", Ask(MOUNT, mkdir(b"d"))), ("stay", Stay("n2")), ("unmounted", Unmounted(MOUNT)), ("else", None)):
            with pytest.raises(Denied):
                await world.call(op, body, privileged=False)
        assert len(world.visitors) == 0 and not ino_of(world.volume, b"d")
        with pytest.raises(CallerError, match="no operation else"):
            await world.call("else", None)

    play(tmp_path, what)


def test_what_is_asked_is_done_and_answered(tmp_path: Path) -> None:
    async def what(world: World) -> None:
        told = await world.ask(mkdir(b"d"))
        assert told.error == 0 and abi.ENTRY.unpack_from(told.data)[0] == ino_of(world.volume, b"d")
        assert await world.ask(mkdir(b"d", unique=4)) == Told(errno.EEXIST)
        assert await world.ask(lookup(b"x", unique=6)) == Told(errno.ENOENT)
        assert await world.ask(raw(Op.FORGET, (1).to_bytes(8, "little"), unique=8)) == Told(-1)
        assert await world.ask(raw(Op.INTERRUPT, (2).to_bytes(8, "little"), unique=10)) == Told(-1)

    play(tmp_path, what)


def test_an_answer_comes_when_the_log_has_what_it_says_and_not_before(tmp_path: Path) -> None:
    async def what(world: World) -> None:
        made = world.asking(mkdir(b"d"))
        await world.until(lambda: bool(ino_of(world.volume, b"d")))
        seen, missing = world.asking(lookup(b"d", unique=4)), world.asking(mkdir(b"d", unique=6))
        await world.until(lambda: world.visitors._all[MOUNT].knowing._known != {} and not world.visitors._all[MOUNT]._waiting)
        assert not made.done() and not seen.done() and not missing.done(), "whoever asked could not be told otherwise later"
        world.log.lets.set()
        assert (await made).error == (await seen).error == 0 and (await missing).error == errno.EEXIST

    play(tmp_path, what, lets=False)


def test_what_was_written_is_answered_when_it_is_synced(tmp_path: Path) -> None:
    async def what(world: World) -> None:
        ino = world.file(b"f")
        for unique, error, told in ((2, None, 0), (4, OSError(errno.ENOSPC, "full"), errno.ENOSPC), (6, OSError("for no reason"), errno.EIO)):
            asked = world.asking(write(ino, b"data", unique=unique))
            await world.until(lambda: bool(world.owning.syncing))
            synced, then = world.owning.syncing.pop()
            assert synced == ino and not asked.done()
            then(error)
            answer = await asked
            assert answer.error == told and (told or abi.WRITTEN.unpack(answer.data)[0] == 4)
        assert await world.ask(write(999, b"data", unique=8)) == Told(errno.ESTALE) and world.owning.syncing == []

    play(tmp_path, what)


def test_what_is_asked_again_is_not_done_again(tmp_path: Path) -> None:
    async def what(world: World) -> None:
        first = await world.ask(mkdir(b"d"))
        assert (await world.ask(mkdir(b"d"), again=True)).data[:8] == first.data[:8]
        assert await world.ask(mkdir(b"d", unique=4)) == Told(errno.EEXIST), "that is another"
        assert await world.ask(mkdir(b"d"), again=True, mount=78, node="n3") == Told(errno.EEXIST)

    play(tmp_path, what)


def test_nothing_is_done_while_somebody_else_may_own_the_tree(tmp_path: Path) -> None:
    async def what(world: World) -> None:
        world.holds = False
        asked = world.asking(mkdir(b"d"))
        await world.until(lambda: world.looked == 3)
        assert not asked.done() and not ino_of(world.volume, b"d")
        world.holds = True
        assert (await asked).error == 0

    play(tmp_path, what)


def test_files_that_matter_are_called_back_from_other_mounts_first(tmp_path: Path) -> None:
    async def what(world: World) -> None:
        ino = world.file(b"f")
        for data in (lookup(b"f"), lookup(b"x", unique=4), raw(Op.GETATTR, bytes(16), ino, unique=6)):
            await world.ask(data)
        assert world.owning.recalled == [(ROOT, ino), (ROOT,), (ino,)]

    play(tmp_path, what)


class Waits:
    """Two visitors: `n2` holds a lock and an open file without a name; a mount of this node waits for the lock."""

    def __init__(self, world: World) -> None:
        self.world, self.local = world, PlayedMount(5, world.volume)
        self.locked = world.file(b"locked")

    async def begin(self) -> None:
        world = self.world
        locked = abi.LK_IN.pack(0, 7, 0, 9, WRITE, 1, 0, 0)
        assert (await world.ask(raw(Op.SETLK, locked, self.locked, unique=20))).error == 0
        self.nameless = world.file(b"nameless")
        assert (await world.ask(lookup(b"nameless", unique=22))).error == 0
        with world.volume.lock:
            world.volume.commit(world.volume.tree.unlink(ROOT, b"nameless", 2))
        self._ask()

    def _ask(self) -> None:
        self.world.owning.serving.one(self.local, lock(self.locked, 0, 9, WRITE))

    @property
    def is_held(self) -> bool:
        assert (self.nameless in self.world.volume.state.inodes) == (not self.local.told)
        return not self.local.told


def test_a_node_that_does_not_come_back_has_nothing_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def what(world: World) -> None:
        monkeypatch.setattr(visitors_of, "GRACE_S", 0.01)
        waits, peer = Waits(world), PlayedPeer()
        staying = asyncio.create_task(world.call("stay", Stay("n2"), peer=peer))
        await waits.begin()
        assert waits.is_held and not staying.done()
        peer.gone.set()
        assert await staying == Empty()
        await world.until(lambda: len(world.visitors) == 0)
        assert not waits.is_held

    play(tmp_path, what)


def test_a_node_that_comes_back_has_all_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def what(world: World) -> None:
        looked, real = list[str](), world.visitors._look

        def look(node: str) -> None:
            real(node)
            looked.append(node)

        monkeypatch.setattr(visitors_of, "GRACE_S", 0.01)
        monkeypatch.setattr(world.visitors, "_look", look)
        waits, peers = Waits(world), [PlayedPeer() for _ in range(3)]
        staying = [asyncio.create_task(world.call("stay", Stay("n2"), peer=peer)) for peer in peers[:1]]
        await waits.begin()
        for at in (1, 2):
            staying.append(asyncio.create_task(world.call("stay", Stay("n2"), peer=peers[at])))
            await asyncio.sleep(0)
            peers[at - 1].gone.set()
            await world.until(lambda at=at: len(looked) == at)  # type: ignore[misc]
            assert waits.is_held
        other = PlayedPeer()
        other.gone.set()
        await world.call("stay", Stay("n3"), node="n3", peer=other)
        await world.until(lambda: looked[-1] == "n3")
        assert waits.is_held, "another node has gone"
        peers[2].gone.set()
        await world.until(lambda: not waits.is_held)

    play(tmp_path, what)


def test_a_mount_that_is_none_any_more_has_nothing_at_once(tmp_path: Path) -> None:
    async def what(world: World) -> None:
        waits = Waits(world)
        await waits.begin()
        assert await world.call("unmounted", Unmounted(MOUNT + 1)) == Empty() and waits.is_held
        assert await world.call("unmounted", Unmounted(MOUNT)) == Empty()
        assert not waits.is_held and len(world.visitors) == 0

    play(tmp_path, what)


def test_a_mount_that_others_have_served_before_may_know_everything(tmp_path: Path) -> None:
    async def what(world: World) -> None:
        inos = [world.file(b"a"), world.file(b"b")]
        for known, ino, name in ((True, inos[0], b"a"), (False, inos[1], b"b")):
            await world.ask(lookup(b"x"), mount=known, known=known)
            with world.volume.lock:
                world.volume.commit(world.volume.tree.unlink(ROOT, name, 2))
            assert ino in world.volume.state.inodes
        await world.call("unmounted", Unmounted(True))
        assert not set(inos) & set(world.volume.state.inodes)

    play(tmp_path, what)


def test_an_answer_that_nobody_waits_for_any_more_is_dropped(tmp_path: Path) -> None:
    async def what(world: World) -> None:
        then = list[Then]()
        asked = world.asking(write(world.file(b"f"), b"data"))
        await world.until(lambda: bool(world.owning.syncing))
        then.append(world.owning.syncing.pop()[1])
        asked.cancel()
        await asyncio.sleep(0)
        threading.Thread(target=then[0], args=(None,)).start()
        assert (await world.ask(mkdir(b"d", unique=4))).error == 0

    play(tmp_path, what)


def test_entries_are_told_in_order_whoever_asks(tmp_path: Path) -> None:
    async def what(world: World) -> None:
        told: list[Entry] = []
        real = world.volume._tell

        def tell(entry: Entry) -> None:
            told.append(entry)
            real(entry)

        world.volume._tell = tell
        asked = [world.asking(mkdir(b"%d" % at, unique=2 * at), mount=at % 3 + 1, node=f"n{at % 3}") for at in range(1, 60)]
        assert {one.error for one in await asyncio.gather(*asked)} == {0}
        numbers = [entry.at for entry in told]
        assert numbers == sorted(numbers) and len(numbers) == 59

    play(tmp_path, what)
