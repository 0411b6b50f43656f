"""Blocks that no file has any more go, on every node, and none that anybody needs: not what is there, what is just being made, or what the log goes on from."""

import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unios.client import blocks as client
from unios.core.files.entry import Entry
from unios.core.files.inode import BLOCK_BYTES, Owner
from unios.services.files.blocks import Blocks
from unios.services.files.journal import Journal
from unios.services.files.stage import Stage
from unios.services.files.sweeping import Sweep, blocks_in
from unios.services.files.volume import Volume
from unios.wire.carries import BlockView, Dropped, ListBlocks, OfBlocks

ROOT = Owner(0, 0)


class Cluster:
    """Two nodes with blocks, and an owner. `before_drop` is done when a node is asked to drop some."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes: dict[str, dict[bytes, bytes]] = {"n1": {}, "n2": {}}
        self.log: list[Entry] = []
        self.volume = Volume(Stage(folder / "stage", fresh=True), Journal.begin(folder, 0), self.log.append)
        self.volume.commit(self.volume.tree.found(ROOT, 0o777, 1))
        self.blocks = Blocks(SimpleNamespace(path=folder / "a" / "b", name="n1"), self.volume, lambda _at, then: then(None))  # type: ignore[arg-type]
        self.before_drop: Callable[[], None] = lambda: None
        monkeypatch.setattr(Blocks, "_connection", lambda _self: None)
        monkeypatch.setattr(client, "keep", self.keep)

    def keep(self, _connection: Any, names: list[bytes], content: Any, **_more: Any) -> None:
        for kept in self.nodes.values():
            kept.update({name: content.read(name) for name in names if name not in kept})

    def ask(self, _op: str, *_more: Any) -> Any:
        return tuple(SimpleNamespace(name=name, state="ready") for name in self.nodes)

    def call(self, op: str, body: Any, _type: Any, *, node: str) -> Any:
        kept = self.nodes[node]
        if op == "blocks.list":
            assert isinstance(body, ListBlocks) and body.user == "files."
            return tuple(BlockView(name, len(kept[name])) for name in sorted(kept) if name > body.after)[:3]
        assert op == "blocks.drop" and isinstance(body, OfBlocks) and body.user == "files."
        self.before_drop()
        names = [body.names[at : at + 32] for at in range(0, len(body.names), 32)]
        return Dropped(len([kept.pop(name) for name in names]))

    def make(self, name: bytes, data: bytes) -> int:
        ino = self.volume.commit(self.volume.tree.make(1, name, stat.S_IFREG | 0o644, ROOT, 2))
        self.volume.write(ino, 0, data, 3)
        return ino

    def seal(self) -> None:
        while self.blocks.tidy(idle_s=0):
            pass

    def unlink(self, name: bytes) -> None:
        self.volume.commit(self.volume.tree.unlink(1, name, 4))

    def sweep(self, between: Callable[[], None] = lambda: None) -> int:
        """Sweep; `between` is done after the snapshot."""
        sweep = Sweep(self, self.blocks)  # type: ignore[arg-type]
        _at, parts = self.volume.snapshot()
        between()
        return sweep.run(parts, set())

    def used(self) -> set[bytes]:
        return blocks_in(self.volume.snapshot()[1])


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path, monkeypatch)


def test_what_no_file_has_goes_on_every_node_and_what_one_has_stays(cluster: Cluster) -> None:
    for at in range(9):
        cluster.make(b"%d" % at, b"%d" % at * 1_000)
    cluster.seal()
    assert len(cluster.nodes["n1"]) == len(cluster.nodes["n2"]) == 9
    assert cluster.sweep() == 0
    for at in range(5):
        cluster.unlink(b"%d" % at)
    assert cluster.sweep() == 10
    assert set(cluster.nodes["n1"]) == set(cluster.nodes["n2"]) == cluster.used()


def test_what_goes_after_the_snapshot_stays_for_who_goes_on_from_it(cluster: Cluster) -> None:
    cluster.make(b"a", b"a" * 1_000)
    cluster.seal()
    assert cluster.sweep(lambda: cluster.unlink(b"a")) == 0
    assert cluster.sweep() == 2


def test_the_block_that_is_being_written_over_stays_as_long_as_the_log_stands_on_it(cluster: Cluster) -> None:
    ino = cluster.make(b"a", b"a" * 1_000)
    cluster.seal()
    cluster.volume.write(ino, 10, b"b", 5)
    assert cluster.used() == set(cluster.nodes["n1"]) and cluster.sweep() == 0
    cluster.seal()
    assert cluster.sweep() == 2


def test_what_is_made_after_the_snapshot_stays_also_if_it_was_there_before_and_of_no_use(cluster: Cluster) -> None:
    data = b"again" * 1_000
    cluster.make(b"a", data)
    cluster.seal()
    cluster.unlink(b"a")

    def again() -> None:
        cluster.make(b"b", data)
        cluster.seal()

    assert cluster.sweep(again) == 0
    assert cluster.sweep() == 0
    cluster.unlink(b"b")
    assert cluster.sweep() == 2


def test_what_was_being_made_when_it_began_and_is_in_no_file_yet_stays(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = list[int]()
    keep = cluster.keep

    def slow(*given: Any, **more: Any) -> None:
        keep(*given, **more)
        swept.append(cluster.sweep())  # it is on the disks, and in nothing

    monkeypatch.setattr(client, "keep", slow)
    cluster.make(b"a", b"a" * BLOCK_BYTES)
    cluster.seal()
    assert swept == [0] and set(cluster.nodes["n2"]) == cluster.used()


def test_a_block_that_is_let_go_of_just_now_is_made_again_afterwards(cluster: Cluster) -> None:
    data = b"again" * 1_000
    cluster.make(b"a", data)
    cluster.seal()
    cluster.unlink(b"a")
    ino = cluster.make(b"b", data)

    def meanwhile() -> None:
        cluster.before_drop = lambda: None
        cluster.blocks.sync(ino, lambda _error: None)  # little: it goes into the log
        cluster.blocks._pool.submit(cluster.seal)

    cluster.before_drop = meanwhile
    assert cluster.sweep() >= 1
    cluster.blocks._pool.shutdown()
    assert cluster.used() and cluster.used() <= set(cluster.nodes["n1"]) & set(cluster.nodes["n2"])
