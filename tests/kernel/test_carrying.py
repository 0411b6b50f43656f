"""What stands between a record and a working folder: a record may have been written by a member of the system, and laying out takes its time."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from unios.core.processes import ProcessRecord, ProcessSpec, process_key
from unios.demands import Carry
from unios.errors import CallerError, PeerRestarted, Unavailable
from unios.kernel.blocks import BlockStore
from unios.kernel.carrying import Carrying, _make_empty
from unios.kernel.porting import Account
from unios.limits import WORK_KEPT
from unios.wire import manifests
from unios.wire.manifests import Entry

JOB = {"uid": 0, "gid": 0, "groups": []}
RECORD = ProcessRecord(300, 1, "pending", "ann", node="n1")
SPEC = ProcessSpec((b"x",), user="ann", carry=Carry(b"m" * 32))


class Scene:
    """A carrying of which only what is asked for is there."""

    def __init__(self, top: Path) -> None:
        self.now = RECORD
        self.laid: list[str] = []

        async def nothing() -> None:
            pass

        async def read(_pid: int) -> tuple[ProcessRecord, int]:
            return self.now, 1

        async def lay(_account: object, _carry: Carry, path: str) -> None:
            self.laid.append(path)

        async def threaded(work: Any, *arguments: Any) -> Any:
            return work(*arguments)

        node = SimpleNamespace(name="n1", trees=SimpleNamespace(trees={}, wait_up=nothing), records=SimpleNamespace(read=read))
        node.processes, node.starts = SimpleNamespace(values={}), SimpleNamespace(tasks={})
        self.node: Any = node
        self.carrying: Any = Carrying.__new__(Carrying)
        self.carrying.node, self.carrying._work, self.carrying._laid, self.carrying._pins = node, str(top), set(), {}
        self.carrying._lay, self.carrying.threaded, self.carrying.blocks = lay, threaded, BlockStore(str(top / "blocks"))

    def lay_out(self, spec: ProcessSpec = SPEC) -> None:
        asyncio.run(self.carrying.lay_out(RECORD, spec, cast(Any, JOB)))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_folder_is_laid_out_for_one_that_is_still_to_be_started_here(scene: Scene) -> None:
    scene.lay_out()
    assert len(scene.laid) == 1
    scene.node.trees.trees[300, 1] = SimpleNamespace(state="running")
    scene.lay_out()
    assert len(scene.laid) == 1  # it runs in there already


def test_what_a_record_says_of_its_folder_is_checked_again_before_it_is_acted_upon(scene: Scene) -> None:
    with pytest.raises(CallerError):
        scene.lay_out(msgspec.structs.replace(SPEC, carry=Carry(b"m" * 32, cwd=b"../..")))
    assert scene.laid == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"node": "n2"}, PeerRestarted),
        ({"incarnation": 2}, PeerRestarted),
        ({"state": "exited"}, PeerRestarted),
        ({"wanted": "stopped"}, Unavailable),
    ],
)
def test_one_that_was_moved_or_ended_meanwhile_is_not_started(change: dict[str, Any], error: type[Exception], scene: Scene) -> None:
    scene.now = msgspec.structs.replace(RECORD, **change)
    with pytest.raises(error):
        scene.lay_out()


def test_what_live_processes_need_and_results_consist_of_is_pinned_for_their_user(scene: Scene) -> None:
    store = scene.carrying.blocks
    with store.batch("ann", frozenset) as batch:
        block = batch.add(b"data")
        manifest = batch.add(manifests.encode([Entry(b"f", "f", size=4, blocks=block)]))
        batch.commit()
    both = {("ann", manifest), ("ann", block)}

    def pinned(**fields: Any) -> object:
        record = ProcessRecord(**{"pid": 300, "incarnation": 1, "state": "running", "user": "ann", **fields})
        scene.node.processes.values = {process_key(300): record}
        return scene.carrying.pinned()

    assert pinned(carried=manifest) == both == pinned(results=manifest, state="exited")
    assert pinned(carried=manifest, state="exited") == set()
    assert pinned(carried=manifest, user="bob") == set()
    assert store.drop("ann", [manifest, block], lambda: both) == 0


def test_working_folders_that_are_kept_for_a_person_are_bounded_and_the_rest_goes(scene: Scene, tmp_path: Path) -> None:
    for pid in range(300, 300 + WORK_KEPT + 3):
        (tmp_path / f"{pid}.1").mkdir()
        scene.carrying._laid.add((pid, 1))
        scene.node.processes.values[process_key(pid)] = ProcessRecord(pid, 2, "running", "ann", node="n2")
    scene.node.processes.values[process_key(300)] = ProcessRecord(300, 1, "running", "ann", node="n1")
    scene.node.processes.values[process_key(301)] = ProcessRecord(301, 1, "exited", "ann", node="n1")
    asyncio.run(scene.carrying._tidy())
    kept = {path.name for path in tmp_path.glob("*.1")}
    assert "300.1" in kept and "301.1" not in kept and len(kept) == 1 + WORK_KEPT


def test_a_working_folder_is_its_users_alone_and_made_anew_without_following_a_link(tmp_path: Path) -> None:
    account = Account("ann", 65_534, 65_534, []) if os.geteuid() == 0 else Account("ann", os.getuid(), os.getgid(), [])
    path, outside = tmp_path / "300.1", tmp_path / "outside"
    for folder in (path, outside):
        folder.mkdir()
        (folder / "kept").touch()
    (path / "link").symlink_to(outside)
    _make_empty(str(path), account)
    seen = path.stat()
    assert (seen.st_mode & 0o777, seen.st_uid, seen.st_gid) == (0o700, account.uid, account.gid) and not list(path.iterdir())
    path.rmdir()
    path.symlink_to(outside)
    with pytest.raises(Unavailable):
        _make_empty(str(path), account)
    assert (outside / "kept").exists() and outside.stat().st_uid == os.getuid()
