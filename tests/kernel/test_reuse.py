"""Inits that have one tree after the other: what the next one gets is as if nobody had been there, or it gets another init."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.rig import Rig, info
from unios.kernel import cgroups
from unios.kernel.trees import TreeInfo, Trees
from unios.limits import RECYCLED_MAX
from unios.wire.doors import connect_unix

ROOT = os.geteuid() == 0
NOBODY = 65_534


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    complete: list[bool] = []

    async def look(trees: Trees) -> None:
        complete.append(trees.namespaces and "memory" in trees.bounded and ("cpu" in trees.bounded or bool(trees.counted)))

    made.run(look)
    if complete != [True]:
        made.close()
        pytest.skip("inits have one tree each where there are no namespaces, or memory and processor time are not counted by group")
    yield made
    made.close()


async def one(rig: Rig, trees: Trees, pid: int, *argv: str, **fields: Any) -> TreeInfo:
    """Run a program to its end, and wait until its init has decided what becomes of it."""
    tree = await rig.spawn(trees, pid, *argv, **fields)
    await rig.exit_of(pid)
    await settled(trees)
    assert not answers(rig, pid) and not groups_of(rig, tree.group)
    return tree


async def settled(trees: Trees) -> None:
    """Wait until nothing runs, no init is being made, and it is decided what becomes of each that has had a tree."""
    while (now := await info(trees))["trees"] or now["spares"]["making"] or now["spares"]["ending"] or not now["spares"]["ready"]:
        await asyncio.sleep(0.005)


def answers(rig: Rig, pid: int) -> bool:
    """Return whether anybody is at the tree's door: its init may have another tree by now, and must not be taken for the one of this."""
    try:
        connect_unix(rig.folder / f"trees/{pid}.1/sock", timeout_s=0).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def groups_of(rig: Rig, group: str) -> list[str]:
    return [path for _version, top in cgroups.recorded(str(rig.folder)) if os.path.isdir(path := f"{top}/{group}")]


def children_of(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def test_programs_of_one_user_have_one_init_after_the_other_and_each_its_own_everything(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        found = [await one(rig, trees, pid, "sh", "-c", f"echo $$ $PPID {pid}; exit {pid % 100}") for pid in range(1_000, 1_012)]
        assert len({tree.init_pid for tree in found}) < len(found) / 2
        assert len({tree.group for tree in found}) == len(found)
        for pid in range(1_000, 1_012):
            assert rig.output(pid) == f"{pid} 2 {pid}\n".encode()
            assert rig.exits[pid, 1]["code"] == pid % 100 and rig.exits[pid, 1]["out"] == len(rig.output(pid))

    rig.run(work)


def test_a_pid_right_after_that_of_the_launcher_is_no_obstacle(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        for pid in (400, 401, 400 + 2, 403):
            await one(rig, trees, pid, "sh", "-c", "true & wait")  # the namespace has given the next numbers away
            assert rig.exits[pid, 1]["code"] == 0

    rig.run(work)


@pytest.mark.skipif(not ROOT, reason="needs root to become another user")
def test_an_init_never_has_trees_of_two_users_or_groups(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        inits: dict[tuple[int, int, tuple[int, ...]], set[int]] = {}
        for number in range(12):
            who = [(0, 0, ()), (NOBODY, NOBODY, ()), (NOBODY, 0, ()), (NOBODY, NOBODY, (4,))][number % 4]
            pid = 1_000 + number
            tree = await one(rig, trees, pid, "sh", "-c", "id -u; id -g; id -G", uid=who[0], gid=who[1], groups=list(who[2]))
            inits.setdefault(who, set()).add(tree.init_pid)
            uid, gid, groups = rig.output(pid).decode().split("\n")[:3]
            assert (int(uid), int(gid)) == who[:2] and {int(one) for one in groups.split()} == {who[1], *who[2]}
        assert sum(map(len, inits.values())) == len(set[int]().union(*inits.values()))

    rig.run(work)


UNCLEAN = {
    "a daemon": "setsid sleep 60 </dev/null >/dev/null 2>&1 & sleep 0.2",
    "one outside of its group": "setsid sh -c 'for top in $(echo /sys/fs/cgroup/*/ /sys/fs/cgroup/); do echo 0 >$top/cgroup.procs; done; exec sleep 60'"
    " </dev/null >/dev/null 2>&1 & sleep 0.3",
    "a mount": "mount -t tmpfs none /mnt",
    "what mounts pass on": "mount --make-rshared /",
    "a mount over proc": "mount -t tmpfs none /proc",
    "limits of the init": "prlimit --pid 1 --nofile=77:77",
    "limits of the launcher": "prlimit --pid 2 --nproc=777:777",
    "niceness of the init": "renice -n 5 -p 1",
    "niceness of the launcher": "renice -n 5 -p 2",
    "processors of the init": "taskset -p 1 1",
    "what is killed first": "echo 500 > /proc/2/oom_score_adj",
    "what a core of the launcher's children holds": "echo 0 > /proc/2/coredump_filter",
    "priority of input and output": "ionice -c 3 -p 2",
    "a session keyring": f"exec {sys.executable} -c 'import ctypes; c = ctypes.CDLL(None); c.syscall(250, 1, 0); exit(c.syscall(250, 18) != 0)'",
    "a stopped launcher": "kill -STOP 2",
    "a killed launcher": "kill -KILL 2",
}


@pytest.mark.skipif(not ROOT, reason="only root can leave these behind")
@pytest.mark.parametrize("script", UNCLEAN.values(), ids=UNCLEAN)
def test_what_a_program_leaves_behind_the_next_one_does_not_find(rig: Rig, script: str) -> None:
    if "syscall" in script and os.uname().machine != "x86_64":
        pytest.skip("the script has the numbers of x86_64")
    if script.startswith("taskset") and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one processor: nothing to change")

    async def work(trees: Trees) -> None:
        first = await one(rig, trees, 1_000, "sh", "-c", script)
        assert rig.exits[1_000, 1]["code"] == 0, rig.output(1_000, name="err")
        for pid in range(1_001, 1_007):
            assert (await one(rig, trees, pid, "true")).init_pid != first.init_pid

    rig.run(work)


@pytest.mark.skipif(not ROOT or not os.path.isdir("/sys/fs/cgroup/blkio"), reason="needs root and a hierarchy in which unios has no groups")
def test_a_launcher_in_a_group_of_somebody_else_has_no_other_program(rig: Rig) -> None:
    mine = Path(f"/sys/fs/cgroup/blkio/unios-elsewhere-{os.getpid()}")
    mine.mkdir()

    async def work(trees: Trees) -> None:
        first = await one(rig, trees, 1_000, "sh", "-c", f"echo 2 > {mine}/cgroup.procs")
        assert rig.exits[1_000, 1]["code"] == 0
        for pid in range(1_001, 1_006):
            assert (await one(rig, trees, pid, "true")).init_pid != first.init_pid

    try:
        rig.run(work)
    finally:
        assert cgroups.remove_empty(str(mine), 5.0)


def test_a_program_has_no_descriptors_but_its_three(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        for pid in range(1_000, 1_006):
            await one(
                rig, trees, pid, "sh", "-c", "for one in /proc/$$/fd/*; do echo ${one##*/}; done", limits={"nofile": [64, 64]} if pid % 3 == 2 else {}
            )
            assert {"0", "1", "2"} == set(rig.output(pid).decode().split()) - {"3", "10", "255"}, rig.output(pid)

    rig.run(work)


def test_a_tree_that_was_frozen_or_killed_is_its_inits_last(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        for pid, op in ((1_000, "kill"), (2_000, "freeze")):
            tree = await rig.spawn(trees, pid, "sleep", "60")
            await trees.init(pid, 1).ask(op)
            if op != "kill":
                await trees.init(pid, 1).ask("kill")
            await rig.exit_of(pid)
            for next_ in range(pid + 1, pid + 5):
                assert (await one(rig, trees, next_, "true")).init_pid != tree.init_pid

    rig.run(work)


def test_bounds_and_use_of_one_tree_are_not_those_of_the_next(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        busy = "held = bytearray(40_000_000); [number for number in range(2_000_000)]"
        first = await one(rig, trees, 1_000, sys.executable, "-S", "-c", busy, bounds={"memory_bytes": 256 * 2**20, "tasks": 7})
        pid, second = 1_000, first
        while second.init_pid != first.init_pid or second is first:
            pid += 1
            second = await rig.spawn(trees, pid, "sh", "-c", "read line", stdin=True)
            bounds = trees.bounds(second)
            tasks = [Path(f"{one.path}/{second.group}/pids.max").read_text() for one in trees.hierarchies if "pids" in one.kinds]
            assert all(text.strip() not in ("7", "max") for text in tasks)
            assert 0 <= bounds.memory_peak_bytes() < 20 * 2**20 and bounds.memory_kills() == 0
            await trees.init(pid, 1).ask("stdin_eof")
            await rig.exit_of(pid)
            await settled(trees)
        assert rig.exits[1_000, 1]["cpu_ms"] > 20 + rig.exits[pid, 1]["cpu_ms"]
        assert rig.exits[1_000, 1]["memory_peak_bytes"] > 20_000_000 > rig.exits[pid, 1]["memory_peak_bytes"]

    rig.run(work)


def test_a_guard_that_dies_takes_waiting_inits_along_and_its_successor_knows_what_ended(rig: Rig) -> None:
    async def first(trees: Trees) -> None:
        for pid in range(1_000, 1_006):
            await one(rig, trees, pid, "true")
        await rig.spawn(trees, 1_006, "sleep", "60")

    async def second(trees: Trees) -> None:
        while (1_000, 1) not in trees.trees:
            await asyncio.sleep(0.005)
        states = {pid: trees.trees[pid, 1].state for pid in range(1_000, 1_007)}
        assert states == {**dict.fromkeys(range(1_000, 1_006), "ended"), 1_006: "running"}
        await trees.init(1_006, 1).ask("kill")
        await rig.exit_of(1_006)

    rig.run(first)
    rig.guard.kill()
    rig.guard.wait()
    rig.start()
    rig.run(second)


def test_after_a_rush_no_more_inits_wait_than_at_rest(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        async def lane(base: int) -> None:
            for pid in range(base, base + 8):
                await rig.spawn(trees, pid, "true")
                await rig.exit_of(pid)

        await asyncio.gather(*(lane(1_000 + 100 * number) for number in range(2 * RECYCLED_MAX)))
        assert (await info(trees))["spares"]["ready"] > 2
        while (await info(trees))["spares"] != {"ready": 2, "making": 0, "ending": 0}:
            await asyncio.sleep(0.02)
        while len(os.listdir(rig.folder / "spares")) != 2:  # the folders of those that have ended
            await asyncio.sleep(0.02)

    rig.run(work)


def test_many_programs_after_each_other_leave_no_descriptor_group_or_process(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        held: dict[int, list[int]] = {}
        for pid in range(1_000, 1_040):
            tree = await rig.spawn(trees, pid, "sh", "-c", "sleep 0.02; read line", stdin=True)
            held.setdefault(tree.init_pid, []).append(len(os.listdir(f"/proc/{tree.init_pid}/fd")))
            assert len(children_of(tree.init_pid)) == 1
            await trees.init(pid, 1).ask("stdin_eof")
            await rig.exit_of(pid)
            await settled(trees)
            await trees.forget(pid, 1)
        longest = max(held.values(), key=len)
        assert len(longest) > 5 and max(longest[2:]) <= longest[1] + 2

    rig.run(work)


def test_a_guard_removes_groups_in_which_nobody_is(rig: Rig) -> None:
    """A tree may be forgotten while its init, which removes its groups, dies with the guard."""

    async def alive(trees: Trees) -> None:
        await rig.spawn(trees, 1_000, "sleep", "60")

    rig.run(alive)
    left = [f"{top}/left" for _version, top in cgroups.recorded(str(rig.folder))]
    for path in left:
        os.makedirs(path)
    rig.guard.kill()
    rig.guard.wait()
    rig.start()
    assert not any(map(os.path.isdir, left))

    async def still(trees: Trees) -> None:
        assert trees.trees[1_000, 1].state == "running" and groups_of(rig, trees.trees[1_000, 1].group)

    rig.run(still)
