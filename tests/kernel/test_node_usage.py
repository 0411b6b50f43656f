"""What trees use, with and without groups that count it; whatever there is to read, others have their turn in between."""

import asyncio
import os
import subprocess
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.wire.pairs import bounded
from unios.core.processes import ProcessRecord, process_key
from unios.kernel import node_usage, usage_operations
from unios.kernel.node_usage import Survey, Used
from unios.kernel.usage_operations import UsageOperations

WHOLE = Used(7, 8, 1)


class Counted:
    """Bounds of a tree: what its groups count; -1 for what they do not."""

    def __init__(self, used: Used) -> None:
        self._used = used

    def cpu_ms(self) -> int:
        return self._used.cpu_ms

    def memory_bytes(self) -> int:
        return self._used.memory_bytes

    def processes(self) -> int:
        return self._used.linux_processes + 1


def node(used: list[Used], *, bounded: bool) -> Any:
    me = os.getpid()
    trees = {(n, 1): SimpleNamespace(pid=n, incarnation=1, state="running", init_pid=me) for n in range(len(used))}
    record = {process_key(0): ProcessRecord(0, 1, "running", "ann")}
    kinds = frozenset({"memory", "cpu", "pids"} if bounded else {"cpu"})
    return SimpleNamespace(
        trees=SimpleNamespace(trees=trees, bounded=kinds, bounds=lambda tree: Counted(used[tree.pid])), processes=SimpleNamespace(values=record)
    )


async def turns_between(work: Any) -> tuple[Any, int]:
    """Do the work; return what came of it, and how often something else had its turn."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    found = await work
    task.cancel()
    return found, turns


def test_a_process_is_found_with_its_children_in_its_tree() -> None:
    with subprocess.Popen(["sh", "-c", "sh -c 'echo; kill -STOP $$' & wait"], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        survey = Survey()
        while survey.waiting:
            survey.take(7)
        trees: Any = [SimpleNamespace(pid=1, incarnation=2, init_pid=child.pid), SimpleNamespace(pid=2, incarnation=1, init_pid=1 << 23)]
        found = survey.of(trees)
        os.killpg(child.pid, 9)
    assert list(found) == [(1, 2)] and found[1, 2].linux_processes == 1 and found[1, 2].memory_bytes > 0


def test_trees_whose_groups_do_not_count_everything_are_looked_for_in_proc() -> None:
    async def work() -> None:
        one = UsageOperations(cast(Any, node([WHOLE, Used(-1, 8, 1), WHOLE], bounded=True)))
        found = await one._processes()
        assert [(view.pid, view.user) for view in found] == [(0, "ann"), (1, ""), (2, "")]
        assert [view.cpu_ms for view in found][::2] == [7, 7] and found[1].cpu_ms >= 0

    bounded(work)


@pytest.mark.parametrize("counted", [True, False])
def test_others_have_their_turn_while_many_are_read(counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        monkeypatch.setattr(usage_operations, "TREES_AT_ONCE", 4)
        monkeypatch.setattr(usage_operations, "PROCESSES_AT_ONCE", 4)
        monkeypatch.setattr(node_usage.os, "listdir", lambda _path: [str(os.getpid())] * 40)
        one = UsageOperations(cast(Any, node([WHOLE] * 40, bounded=counted)))
        found, turns = await turns_between(one._processes())
        assert len(found) == 40 and turns >= (9 if counted else 19)

    bounded(work)
