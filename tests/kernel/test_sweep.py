"""Nodes that are stopped: many that do not end by themselves take as long as one."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from unios.kernel import cgroups, freezer, runfiles, sweep
from unios.wire.home import Home, NodeFolder

NAMES = ("n1", "n2", "n3")


@pytest.fixture
def deaf(tmp_path: Path) -> "Iterator[tuple[list[NodeFolder], list[subprocess.Popen[bytes]]]]":
    """Nodes whose supervisors do not hear SIGTERM."""
    folders, processes = [Home(tmp_path).node(name) for name in NAMES], []
    for folder in folders:
        folder.run.mkdir(parents=True)
        processes.append(subprocess.Popen(["sleep", "1000"]))
        os.kill(processes[-1].pid, signal.SIGSTOP)
        os.waitid(os.P_PID, processes[-1].pid, os.WSTOPPED)
        runfiles.write(folder.run / "supervisor.json", processes[-1].pid)
    yield folders, processes
    for process in processes:
        process.kill()
        process.wait()


def test_supervisors_are_waited_for_together_and_then_killed(
    deaf: "tuple[list[NodeFolder], list[subprocess.Popen[bytes]]]", monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, processes = deaf
    waits: list[float] = []
    monkeypatch.setattr(runfiles, "wait_gone", lambda _running, timeout_s: waits.append(timeout_s) or not (timeout_s and len(waits) == 1))
    clock = iter([100.0, 100.0, 100.0 + sweep.STOP_S, *[1_000.0] * 50])
    monkeypatch.setattr(runfiles.time, "monotonic", lambda: next(clock))
    sweep.stop(folders)
    assert waits[:3] == [sweep.STOP_S, 0.0, 0.0], "the second and third got what the first had left"
    assert {process.wait() for process in processes} == {-signal.SIGKILL}
    assert not any((folder.run / "supervisor.json").exists() for folder in folders)


def test_groups_in_which_something_does_not_die_are_waited_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in NAMES]
    for folder in folders:
        (folder / "group/400.1").mkdir(parents=True)
        cgroups.remember(str(folder), [cgroups.Place("v1", f"{folder}/group")])
    done: list[tuple[str, object]] = []
    monkeypatch.setattr(cgroups, "kill", lambda _version, path: done.append(("kill", path)))
    monkeypatch.setattr(cgroups, "remove", lambda _version, _path, timeout_s: done.append(("remove", timeout_s)) or False)
    clock = iter([100.0, 100.0, 100.0 + cgroups.REMOVE_S, *[1_000.0] * 4])
    monkeypatch.setattr(freezer.time, "monotonic", lambda: next(clock))
    assert len(freezer.sweep(*folders)) == 6
    assert [what for what, _ in done] == ["kill"] * 6 + ["remove"] * 6
    assert [left for what, left in done if what == "remove"] == [cgroups.REMOVE_S, 0.0, 0.0, 0.0, 0.0, 0.0]
