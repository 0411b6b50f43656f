"""An init that is killed when it has just got a job: another gets it if the program was certainly not started, and else nobody does."""

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.rig import Rig, info
from unios.errors import Unavailable
from unios.kernel import guard, guarded, linux_pids, runfiles
from unios.kernel.trees import Trees


@pytest.fixture(params=[(), ("--no-namespaces",)], ids=["namespaces", "without namespaces"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(*request.param)
    yield made
    made.close()


def named(parent: int, name: str) -> set[int]:
    found = set()
    for pid in linux_pids.parents().get(parent, []):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                found.add(pid)
    return found


async def spares_of(rig: Rig, trees: Trees) -> set[int]:
    """Return the inits that are ready, once the guard knows it of as many as there are at rest: else one more that is made gets the job."""
    while True:
        spares = (await info(trees))["spares"]
        inits = named(rig.guard.pid, "unios-init")
        if not spares["making"] and spares["ready"] == len(inits) >= 2 and all(linux_pids.parents().get(pid) for pid in inits):
            return inits
        await asyncio.sleep(0.01)


async def until(rig: Rig, reached: Any) -> int:
    """Return the init that has the job, once it is so."""
    folder = rig.folder / "trees/1000.1"
    while True:
        with contextlib.suppress(OSError, ValueError):
            if reached(folder):
                return int(json.loads((folder / "tree.json").read_text())["init_pid"])
        await asyncio.sleep(0.005)


def test_a_job_that_its_init_has_not_begun_goes_to_another_at_once(rig: Rig) -> None:
    ran = rig.top / "ran"
    ran.touch()
    ran.chmod(0o666)

    async def work(trees: Trees) -> None:
        inits = await spares_of(rig, trees)
        for pid in inits:
            os.kill(pid, signal.SIGSTOP)
        start = asyncio.create_task(rig.spawn(trees, 1000, "sh", "-c", f"echo x >> {ran}; exit 5"))
        init = await until(rig, lambda folder: (folder / "tree.json").exists())
        for pid in inits - {init}:
            os.kill(pid, signal.SIGCONT)
        os.kill(init, signal.SIGKILL)
        assert (await start).init_pid != init
        assert (await rig.exit_of(1000))["code"] == 5
        assert ran.read_text() == "x\n"

    rig.run(work)


def test_a_job_that_its_launcher_may_have_begun_goes_to_nobody(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        for init in await spares_of(rig, trees):
            for launcher in linux_pids.parents()[init]:
                os.kill(launcher, signal.SIGSTOP)
        start = asyncio.create_task(rig.spawn(trees, 1000, "true"))
        os.kill(await until(rig, lambda folder: (folder / guarded.EXIT_LAID).read_bytes()[:1] == b"{"), signal.SIGKILL)
        with pytest.raises(Unavailable, match="the init of the tree died before it could start the program"):
            await start

    rig.run(work)


def test_inits_that_are_killed_one_after_the_other_make_the_start_fail_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = guard.Guard.__new__(guard.Guard)
    made._connected, made._jobs, made._living, made._waiting, made._recorded = {}, {}, set(), [], ()
    monkeypatch.setattr(made, "_start_waiting", lambda: None)
    tree = guarded.Tree(f"{tmp_path}/1000.1", 1000, 1)
    made._trees = {(1000, 1): tree}
    made._kept = Counter([1000])
    told: list[dict[str, Any]] = []
    tree.answers.append(told.append)
    job = {"argv": ["true"]}
    for time in range(1, guard.INITS_MAX + 1):
        tree.init, tree.group = runfiles.Running(7, 7), f"group.{time}"
        made._jobs[tree] = job
        tree.inits += 1
        os.mkdir(tree.folder)
        Path(tree.folder, guarded.EXIT_LAID).write_text(" ")
        made._waiting.clear()
        made._buried(tree)
        assert made._waiting == ([(tree, job)] if time < guard.INITS_MAX else [])
        assert not os.path.exists(tree.folder)
    assert told == [{"error": "unavailable", "text": "the init of the tree died before it could start the program"}]


def test_what_cannot_be_marked_as_begun_counts_as_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = guarded.Tree(str(tmp_path), 1000, 1)
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    assert not tree.is_unbegun()
    guarded.begins(folder)  # it was not laid down
    assert not tree.is_unbegun()
    laid = tmp_path / guarded.EXIT_LAID
    laid.write_text("  ")
    assert tree.is_unbegun()

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        guarded.begins(folder)
    assert not tree.is_unbegun()
    laid.write_text("  ")
    guarded.begins(folder)
    assert not tree.is_unbegun() and laid.read_text() == "{ "
    os.close(folder)
