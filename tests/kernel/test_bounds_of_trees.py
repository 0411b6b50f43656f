"""What a tree may use, with real control groups: bounds that hold, figures that are right, groups that are gone afterwards."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.rig import Rig
from unios.kernel import cgroups
from unios.kernel.trees import Trees

MIB = 1 << 20


def groups_of(rig: Rig) -> list[str]:
    """Return every control group of the node, in every hierarchy."""
    found = []
    for place in cgroups.recorded(str(rig.folder)):
        for folder, _folders, _files in os.walk(place.path):
            found.append(folder)
    return found


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()
    assert groups_of(made) == []


def needs(rig: Rig, trees: Trees, kind: str) -> None:
    if kind not in trees.bounded:
        pytest.skip(f"nothing bounds {kind} here")


GRAB = "import sys; x = bytearray(int(sys.argv[1])); print(len(x), flush=True)"


def test_who_takes_more_memory_than_it_asked_for_is_out_of_memory_with_figures(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        needs(rig, trees, "memory")
        await rig.spawn(trees, 1000, sys.executable, "-c", GRAB, str(200 * MIB), bounds={"memory_bytes": 64 * MIB})
        fields = await rig.exit_of(1000)
        assert (fields["code"], fields["signal"]) == (137, 9)
        assert fields["reason"] == "out of memory: it had used 64 MiB of the 64 MiB that it asked for (killed by Linux)"
        await rig.spawn(trees, 1001, sys.executable, "-c", GRAB, str(20 * MIB), bounds={"memory_bytes": 64 * MIB})
        fields = await rig.exit_of(1001)
        assert (fields["code"], fields["reason"]) == (0, "")
        assert 20 * MIB <= fields["memory_peak_bytes"] <= 64 * MIB

    rig.run(work)


def test_a_child_that_is_killed_for_want_of_memory_is_told_though_the_program_lives_on(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        needs(rig, trees, "memory")
        script = f"{sys.executable} -c '{GRAB}' {200 * MIB}; exit 3"
        await rig.spawn(trees, 1000, "sh", "-c", script, bounds={"memory_bytes": 64 * MIB})
        fields = await rig.exit_of(1000)
        assert fields["code"] == 3
        assert fields["reason"].startswith("out of memory: Linux killed a process of its tree, not its program; it had used 64 MiB of the 64 MiB")

    rig.run(work)


def test_a_kill_by_its_user_is_not_called_out_of_memory(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        needs(rig, trees, "memory")
        await rig.spawn(trees, 1000, "sh", "-c", f"{sys.executable} -c '{GRAB}' {200 * MIB}; echo x; sleep 1000", bounds={"memory_bytes": 64 * MIB})
        while not rig.output(1000):
            await asyncio.sleep(0.01)
        await trees.init(1000, 1).ask("signal", number=9, all=False)
        assert "not its program" in (await rig.exit_of(1000))["reason"]

    rig.run(work)


BOMB = """
import os, time
n = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(1000)
        n += 1
    except OSError as error:
        print(n, error.errno, flush=True)
        time.sleep(1000)
"""


def test_a_fork_bomb_gets_so_far_and_the_node_goes_on(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        needs(rig, trees, "pids")
        await rig.spawn(trees, 1000, sys.executable, "-c", BOMB, bounds={"tasks": 60})
        while b"\n" not in rig.output(1000):
            await asyncio.sleep(0.01)
        count, number = map(int, rig.output(1000).split())
        assert number == 11 and 50 <= count < 60
        await rig.spawn(trees, 1001, "true")
        assert (await rig.exit_of(1001))["code"] == 0
        await trees.init(1000, 1).ask("signal", number=9, all=False)
        await rig.exit_of(1000)

    rig.run(work)


def test_every_tree_is_bounded_though_it_asked_for_nothing(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        needs(rig, trees, "pids")
        await rig.spawn(trees, 1000, "sleep", "1000")
        paths = [path for path in groups_of(rig) if os.path.exists(f"{path}/pids.max") and "/unios-" in path and cgroups.members(path)]
        assert paths and all(Path(path, "pids.max").read_text().strip() == "1024" for path in paths)

    rig.run(work)


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        open(sys.argv[1], 'w')
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""


@pytest.mark.parametrize("options", [(), ("--freezer", "v1"), ("--freezer", "signals"), ("--freezer", "signals", "--no-namespaces")], ids=str)
def test_processor_time_counts_daemons_and_those_nobody_waited_for(options: tuple[str, ...]) -> None:
    rig = Rig(*options)

    async def work(trees: Trees) -> None:
        await rig.spawn(trees, 1000, sys.executable, "-c", DAEMON, str(rig.top / "done"))
        fields = await rig.exit_of(1000)
        assert fields["code"] == 0
        assert 300 <= fields["cpu_ms"] < 1_500
        assert fields["memory_peak_bytes"] > MIB

    rig.run(work)
    rig.close()
    assert groups_of(rig) == []


def test_what_is_asked_for_is_written_into_the_groups(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        needs(rig, trees, "cpu")
        asked = {"cpu_milli": 500, "cpu_milli_max": 1_500, "tasks": 77}
        tree = await rig.spawn(trees, 1000, "sleep", "1000", bounds=asked)
        told = {}
        for path in groups_of(rig):
            if os.path.basename(path) == tree.group:
                for name in ("cpu.shares", "cpu.cfs_quota_us", "cpu.weight", "cpu.max", "pids.max"):
                    if os.path.exists(f"{path}/{name}"):
                        told[name] = Path(path, name).read_text().strip()
        v1 = {"cpu.shares": "512", "cpu.cfs_quota_us": "150000", "pids.max": "77"}
        v2 = {"cpu.weight": "50", "cpu.max": "150000 100000", "pids.max": "77"}
        assert all(told.get(name) == value for name, value in (v1 if "cpu.shares" in told else v2).items()), told

    rig.run(work)


@pytest.mark.parametrize("bounds", [{"memory_bytes": -1}, {"memory_bytes": "x"}, {"tasks": 1 << 62}, [1], {"cpu_milli": None}], ids=str)
def test_bounds_that_make_no_sense_are_refused_with_a_sentence(rig: Rig, bounds: Any) -> None:
    from unios.errors import CallerError

    async def work(trees: Trees) -> None:
        with pytest.raises(CallerError):
            await rig.spawn(trees, 1000, "true", bounds=bounds)

    rig.run(work)
