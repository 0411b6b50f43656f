"""Reconciling against real inits, one of which does not answer: the others' deadline does not wait for it, and it thaws only on a claim that stands."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.kernel.rig import FOREVER, Rig, info
from tests.kernel.test_stopping import MemoryStore
from tests.wire.pairs import bounded, until
from unios.core.processes import ProcessRecord, process_key
from unios.errors import CallerError, Denied, NoRoom, NotFound, ProgramNotFound, Unavailable, UniosError, UserUnknown
from unios.kernel import freezer, linux_pids
from unios.kernel.reconciling import Reconciling
from unios.kernel.records import Records
from unios.kernel.runfiles import start_of
from unios.kernel.tree_peer import TreePeer
from unios.kernel.trees import TreeInfo, Trees
from unios.store.model import Put, Transaction

PIDS = (800, 801, 802)
TICKING = "while :; do echo x; sleep 0.02; done"


class Scene:
    """Three trees with records, and what reconciling sees of the node."""

    def __init__(self, rig: Rig, trees: Trees) -> None:
        self.rig, self.trees, self.store = rig, trees, MemoryStore()
        self.lease = 1
        node = SimpleNamespace(
            name="n1",
            store=self.store,
            trees=trees,
            records=Records(self.store),  # type: ignore[arg-type]
            leasing=self,
            starts=SimpleNamespace(tasks={}),
            recorder=SimpleNamespace(running=lambda *_key: None),
        )
        self.reconciling = Reconciling(node)  # type: ignore[arg-type]

    @property
    def incarnation(self) -> int:
        return self.lease

    async def record(self, pid: int, incarnation: int = 1) -> None:
        record = ProcessRecord(pid, incarnation, "running", "root", node="n1" if incarnation == 1 else "n2")
        await self.store.transact(Transaction(then=(Put(process_key(pid), msgspec.msgpack.encode(record)),)))

    async def start(self) -> None:
        for pid in PIDS:
            await self.rig.spawn(self.trees, pid, "sh", "-c", TICKING)
            await self.record(pid)

    def stop_init(self, pid: int) -> None:
        os.kill(self.trees.trees[pid, 1].init_pid, signal.SIGSTOP)

    def go_on(self, pid: int) -> None:
        os.kill(self.trees.trees[pid, 1].init_pid, signal.SIGCONT)

    async def state(self, pid: int) -> str:
        return str((await self.trees.init(pid, 1).ask("stats"))["state"])

    async def reaches(self, pid: int, state: str) -> None:
        while await self.state(pid) != state:
            await asyncio.sleep(0.01)

    async def freeze_all(self) -> None:
        """The deadline passes."""
        self.rig.lease(1, self.lease)
        for pid in PIDS:
            await self.reaches(pid, "frozen")

    async def check(self) -> float:
        """Check the claims; return how long it took."""
        began = time.monotonic()
        await self.reconciling.check_claims(self.lease)
        return time.monotonic() - began


def scene(work: Callable[[Scene], Awaitable[None]]) -> None:
    rig = Rig("--freezer", "signals")
    try:

        async def main(trees: Trees) -> None:
            made = Scene(rig, trees)
            await made.start()
            try:
                await work(made)
            finally:
                for pid in PIDS:
                    if start_of(trees.trees[pid, 1].init_pid):
                        made.go_on(pid)

        rig.run(main)
    finally:
        rig.close()


def test_one_init_that_does_not_answer_holds_up_nobody_and_is_told_when_it_does() -> None:
    async def work(one: Scene) -> None:
        await one.freeze_all()
        one.stop_init(800)
        one.rig.lease(FOREVER, one.lease)
        assert await one.check() < 1.5
        for pid in PIDS[1:]:
            await one.reaches(pid, "running")
        one.go_on(800)
        await one.reaches(800, "running")
        await until(lambda: not one.reconciling._telling)

    scene(work)


def test_a_confirmation_of_an_older_lease_thaws_nothing() -> None:
    async def work(one: Scene) -> None:
        await one.freeze_all()
        one.stop_init(800)
        one.rig.lease(FOREVER, one.lease)
        await one.check()  # it lies in the init's socket now
        one.lease = 2
        one.rig.lease(FOREVER, one.lease)
        await one.record(800, incarnation=2)  # while the first lease had ended, another node took its place
        one.go_on(800)
        for _ in range(20):
            assert await one.state(800) == "frozen"
        await one.check()
        assert "incarnation 2" in (await one.rig.exit_of(800))["reason"]

    scene(work)


def test_an_init_with_a_full_backlog_is_told_once_it_takes_connections_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(one: Scene) -> None:
        await one.freeze_all()
        one.trees.close()  # no connections: they have to be made anew
        one.stop_init(800)
        path = str(one.rig.folder / "trees/800.1/sock")
        waiting = []
        while True:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            waiting.append(sock)
            try:
                sock.connect(path)
            except BlockingIOError:
                break
        one.rig.lease(FOREVER, one.lease)
        assert await one.check() < 1.5
        await one.reaches(801, "running")
        for sock in waiting:
            sock.close()
        one.go_on(800)
        while True:
            try:
                await one.reaches(800, "running")
                break
            except Unavailable:
                await asyncio.sleep(0.05)

    scene(work)


def launchers(one: Scene) -> list[int]:
    """Return the Linux pids of those who will start the next programs: each is the child of a spare init, a child of the guard."""
    children = linux_pids.parents()
    taken = {tree.init_pid for tree in one.trees.trees.values()}
    return [pid for init in children[one.rig.guard.pid] if init not in taken for pid in children.get(init, ())]


def begun(one: Scene, pid: int) -> bool:
    """Whether the init has let its launcher start the program."""
    try:
        return (one.rig.folder / f"trees/{pid}.1/.exit").read_bytes()[:1] != b" "
    except OSError:
        return False


async def begin_slowly(one: Scene, pid: int, timeout_ms: int) -> "asyncio.Task[TreeInfo]":
    """Ask for a start, and return when its init has the job. Its launcher stands still: soon the init would let it go on, and frozen it will not."""
    await one.store.transact(Transaction(then=(Put(process_key(pid), msgspec.msgpack.encode(ProcessRecord(pid, 1, "pending", "root", node="n1"))),)))
    while (await info(one.trees))["spares"]["ready"] < 1:
        await asyncio.sleep(0.01)
    stopped = launchers(one)
    for launcher in stopped:
        os.kill(launcher, signal.SIGSTOP)
    start = asyncio.create_task(one.trees.spawn(one.rig.spec(pid, "sh", "-c", TICKING, lease=one.lease), timeout_ms))
    await until(lambda: begun(one, pid))
    return start


@pytest.mark.parametrize("patient", [True, False], ids=["answered", "given up"])
def test_what_begins_while_the_lease_is_lost_runs_when_the_next_one_is_there(patient: bool) -> None:
    async def work(one: Scene) -> None:
        start = await begin_slowly(one, 803, 20_000 if patient else 1)
        one.lease = 2
        one.rig.lease(1, one.lease)
        init = one.trees.open_init(803, 1, lambda _event: None)
        while (await init.ask("stats"))["state"] != "frozen":
            await asyncio.sleep(0.01)
        if not patient:
            with pytest.raises(Unavailable):
                await start
        one.rig.lease(FOREVER, one.lease)
        await one.check()
        if patient:
            assert (await start).state == "running"
        while (803, 1) in one.trees.begun or one.trees.trees[803, 1].state != "running":
            await one.trees.look_again()
        await one.reaches(803, "running")
        init.close()

    scene(work)


def test_what_began_and_has_become_another_nodes_meanwhile_is_ended() -> None:
    async def work(one: Scene) -> None:
        start = await begin_slowly(one, 803, 20_000)
        one.lease = 2
        one.rig.lease(1, one.lease)
        await one.record(803, incarnation=2)
        one.rig.lease(FOREVER, one.lease)
        await one.check()
        with pytest.raises(Unavailable):
            await start
        assert (803, 1) not in one.trees.begun and (803, 1) not in one.trees.trees

    scene(work)


def test_a_connection_that_would_have_to_wait_is_unavailable_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
            listener.bind(str(tmp_path / "sock"))
            listener.listen(0)
            waiting.connect(str(tmp_path / "sock"))
            with pytest.raises(Unavailable):
                TreePeer(tmp_path / "sock", lambda _event: None)

    bounded(work)


# the freezer, when the group does not obey


def test_what_was_stopped_by_signal_since_the_group_did_not_obey_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    def refuse(*_args: object) -> None:
        raise OSError("no")

    place = SimpleNamespace(version="v2", path="/nowhere")
    one = freezer.Freezer(place, "tree", namespaces=True)  # type: ignore[arg-type]
    monkeypatch.setattr(one, "signal", lambda number: sent.append(number))
    monkeypatch.setattr(freezer.cgroups, "thaw", lambda *_args: None)
    monkeypatch.setattr(freezer.cgroups, "is_frozen", lambda *_args: False)
    stopped: list[Any] = [freezer.Member(7, 1, "T", 0, 0)]
    monkeypatch.setattr(freezer, "members", lambda **_options: stopped)
    monkeypatch.setattr(freezer.cgroups, "freeze", refuse)
    one.freeze()
    assert sent == [signal.SIGSTOP] and one.settled()
    monkeypatch.setattr(freezer.cgroups, "freeze", lambda *_args: None)
    one.freeze()
    one.thaw()
    assert sent == [signal.SIGSTOP, signal.SIGCONT]
    one.freeze()
    one.thaw()
    assert sent == [signal.SIGSTOP, signal.SIGCONT] and not one.settled()


@pytest.mark.parametrize(
    "refusal", [NoRoom("n1 is full"), UserUnknown("who"), ProgramNotFound("what"), NotFound("gone"), Denied("no"), CallerError("no room on the disk")]
)
def test_what_cannot_be_started_here_is_given_back_for_another_node(refusal: UniosError, monkeypatch: pytest.MonkeyPatch) -> None:
    """This node knows of itself alone: whether any other can run it say those who place."""

    async def refuse(*_all: object) -> None:
        raise refusal

    async def work() -> None:
        store = MemoryStore()
        node = SimpleNamespace(name="n1", store=store, records=Records(store))  # type: ignore[arg-type]
        record = ProcessRecord(800, 1, "pending", "root", node="n1")
        await store.transact(Transaction(then=(Put(process_key(800), msgspec.msgpack.encode(record)),)))
        monkeypatch.setattr("unios.kernel.spawning.start", refuse)
        reconciling = Reconciling(node)  # type: ignore[arg-type]
        reconciling._start(800, 1)
        await asyncio.wait(reconciling._tasks)
        now, _modified = await node.records.read(800)
        assert (now.state, now.node, now.incarnation) == ("pending", "", 1) and str(refusal) in now.reason

    bounded(work)
