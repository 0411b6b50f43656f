"""A folder goes along with a program and what it made comes back, also when nodes and kernels die."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import System, wait_for


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that is worth taking along."""
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "in.txt").write_text("in\n")
    (folder / "src" / "tool").write_text('#!/bin/sh\ncat in.txt\necho "$1" >> in.txt\nmkdir -p out\necho made > out/new.csv\necho log > out/x.log\n')
    (folder / "src" / "tool").chmod(0o755)
    for number in range(200):
        (folder / "src" / f"f{number}").write_text(str(number) * 100)
    return folder


def said(stderr: bytes, what: str) -> Any:
    """Return one of the lines of JSON that `run --json` says beside."""
    for line in stderr.splitlines():
        fields = json.loads(line)
        if what in fields:
            return fields[what]
    raise AssertionError(stderr.decode())


def test_a_folder_goes_to_another_node_and_its_results_come_back(whole: System, project: Path) -> None:
    done = whole.unios("run", "--on", "n3", "--carry", ".", "--result", "*.csv", "--result", "in.txt", "--", "src/tool", "more", cwd=project)
    assert done.stdout == b"in\n"
    assert (project / "in.txt").read_text() == "in\nmore\n" and (project / "out/new.csv").read_text() == "made\n"
    assert sorted(os.listdir(project / "out")) == ["new.csv"]
    wait_for(lambda: os.listdir(whole.home / "home/nodes/n3/work"), lambda left: not left, "the working folder is gone")


def test_only_what_changed_goes_over_the_wire_and_two_nodes_have_it(whole: System, project: Path) -> None:
    (project / "unique").write_bytes(os.urandom(100_000))
    first = said(whole.unios("run", "--json", "--carry", ".", "--", "true", cwd=project).stderr, "carried")
    assert first["files"] == 203 and 100_000 < first["sent"] < first["bytes"] + 100_000 and len(first["nodes"]) == 2
    again = said(whole.unios("run", "--json", "--carry", ".", "--", "true", cwd=project).stderr, "carried")
    assert again["sent"] == 0 and again["bytes"] == first["bytes"]
    (project / "src" / "f7").write_text("changed")
    third = said(whole.unios("run", "--json", "--carry", ".", "--", "true", cwd=project).stderr, "carried")
    assert 7 < third["sent"] < 40_000  # the file, and the list of files


def test_the_place_in_the_folder_is_kept_and_more_folders_have_names(whole: System, project: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "d").write_text("data")
    words = ("run", "--carry", str(project), "--carry", f"{tmp_path}/data:data", "--result-all", "--")
    done = whole.unios(*words, "sh", "-c", "pwd; cat ../data/d; echo > ../data/made", cwd=project / "src")
    assert done.stdout.splitlines()[0].endswith(b"/src") and done.stdout.endswith(b"data")
    assert (tmp_path / "data" / "made").exists() and not (project / "data").exists()


def test_results_of_a_detached_run_are_fetched_later_from_any_node(whole: System, project: Path, tmp_path: Path) -> None:
    pid = whole.unios("run", "-d", "--carry", ".", "--result-all", "--", "src/tool", "x", cwd=project).stdout.decode().strip()
    whole.unios("wait", pid)
    (project / "in.txt").write_text("mine")
    for node in ("n1", "n2", "n3"):
        whole.unios("--node", node, "results", pid, str(tmp_path / node))
        assert (tmp_path / node / "in.txt").read_text() == "in\nx\n"
    assert whole.json("results", pid, str(tmp_path / "n1"))["same"] == 3  # it is all there already
    done = whole.unios("results", pid)
    assert (project / "in.txt").read_text() == "mine" and (project / f"in.txt.unios-{pid}").read_text() == "in\nx\n"
    assert b"was changed here meanwhile" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--carry", "/"), b"--carry-anyway"),
        (("--carry", "~none"), b"no such folder"),
        (("--result", "x"), b"--carry"),
        (("--carry", ".", "--carry", "src"), b"NAME"),
        (("--carry", ".:a/b"), b"plain name"),
        (("--carry", ".", "--carry-max", "ten"), b"--carry-max"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_makes_no_sense_is_said_and_nothing_is_sent(whole: System, project: Path, words: tuple[str, ...], text: bytes) -> None:
    done = whole.unios("run", *words, "--", "true", check=False, cwd=project)
    assert done.returncode == 2 and text in done.stderr, done.stderr


def test_what_cannot_be_carried_is_named_before_anything_runs(whole: System, project: Path) -> None:
    done = whole.unios("run", "--carry", ".", "--carry-max", "1K", "--", "true", check=False, cwd=project)
    assert done.returncode == 125 and b"--carry-max" in done.stderr
    os.mkfifo(project / "pipe")
    done = whole.unios("run", "--carry", ".", "--", "true", check=False, cwd=project)
    assert done.returncode == 125 and b"pipe" in done.stderr
    whole.unios("run", "--carry", ".", "--exclude", "pipe", "--", "true", cwd=project)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_it_runs_in_a_folder_of_its_user_and_his_links_give_him_nothing(whole: System, project: Path) -> None:
    whole.home.chmod(0o711)
    (whole.home / "secret").write_text("of root")
    (whole.home / "secret").chmod(0o600)
    script = f"id -u; stat -c %u:%a .; ln -s {whole.home}/secret stolen; ln {whole.home}/secret hard; echo x > mine"
    done = whole.unios("run", "--user", "nobody", "--carry", ".", "--result-all", "--", "sh", "-c", script, cwd=project)
    assert done.stdout == b"65534\n65534:700\n"
    assert os.readlink(project / "stolen") == f"{whole.home}/secret" and (project / "mine").exists() and not (project / "hard").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
@pytest.mark.parametrize("module", ["unios/__init__.py", "msgspec.py", "struct.py", "sitecustomize.py"])
def test_what_lies_in_the_folder_is_never_imported_by_the_node(whole: System, project: Path, tmp_path: Path, module: str) -> None:
    tmp_path.chmod(0o777)
    planted = f"import os; open('{tmp_path}/as-' + str(os.geteuid()), 'w')"
    script = f'mkdir -p "$(dirname {module})"; echo "{planted}" > {module}; echo x > mine'
    whole.unios("run", "--user", "nobody", "--carry", ".", "--result", "mine", "--", "sh", "-c", script, cwd=project)
    assert (project / "mine").exists() and not list(tmp_path.glob("as-*"))


def node_of(system: System, pid: int) -> str:
    return str(wait_for(lambda: system.process(pid), lambda view: view["state"] == "running", "it runs")["node"])


def stories(system: System) -> list[str]:
    return [event["text"] for event in system.json("events") if event["kind"] == "carry"]


def test_a_node_that_dies_takes_no_carried_folder_with_it(fresh: System, project: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    go = tmp_path / "go"
    script = f"echo $UNIOS_INCARNATION >> in.txt; while [ ! -e {go} ]; do sleep 0.05; done; cp in.txt out.txt"
    words = ("run", "-d", "--carry", ".", "--result-all", "--", "sh", "-c", script, str(tmp_path / "outside"))
    pid = int(fresh.unios(*words, cwd=project).stdout)
    node = node_of(fresh, pid)
    (tmp_path / "outside").unlink()
    fresh.power_cut(node)
    wait_for(lambda: fresh.process(pid), lambda view: (view["state"], view["incarnation"]) == ("running", 2), "it runs again")
    missed = "incarnation 1 had written there did not come along"
    told = wait_for(lambda: [text for text in stories(fresh) if missed in text], bool, "what it misses is told")
    assert f"did not find again: {tmp_path}/outside" in told[0]
    go.touch()
    fresh.unios("wait", str(pid))
    fresh.unios("results", str(pid))
    assert (project / "out.txt").read_text() == "in\n2\n"


def test_kernels_that_are_killed_while_blocks_go_in_and_results_come_out_lose_nothing(fresh: System, project: Path) -> None:
    (project / "large").write_bytes(os.urandom(40_000_000))
    running = fresh.start("run", "--on", "n1", "--carry", ".", "--result-all", "--", "cp", "large", "copy", cwd=project)
    blocks = fresh.home / "home/nodes/n1/blocks"

    def kernel() -> int:
        return int(json.loads((fresh.home / "home/nodes/n1/run/kernel.json").read_text())["pid"])

    wait_for(lambda: [*blocks.rglob("incoming/*"), *blocks.glob("u-*/*/*")], lambda found: len(found) > 2, "blocks go in")
    os.kill(kernel(), signal.SIGKILL)
    work = fresh.home / "home/nodes/n1/work"
    wait_for(lambda: [*work.glob("*/copy")], bool, "it has begun")
    os.kill(kernel(), signal.SIGKILL)
    assert running.wait(90) == 0
    assert (project / "copy").read_bytes() == (project / "large").read_bytes()
    wait_for(lambda: os.listdir(work), lambda left: not left, "the working folder is gone", 60)


def test_a_node_that_is_stopped_collects_what_it_ends(fresh: System, project: Path) -> None:
    words = ("run", "-d", "--on", "n3", "--carry", ".", "--result-all", "--", "sh", "-c", "echo half > half; exec sleep 100")
    pid = int(fresh.unios(*words, cwd=project).stdout)
    wait_for(lambda: [*(fresh.home / "home/nodes/n3/work").glob("*/half")], bool, "it has written")
    fresh.unios("down", "--all")
    fresh.unios("up", "--nodes", "3")
    fresh.unios("results", str(pid))
    assert (project / "half").read_text() == "half\n"
    assert not os.listdir(fresh.home / "home/nodes/n3/work")


def test_blocks_are_refetched_when_damaged_and_missed_by_name_when_lost(fresh: System, project: Path) -> None:
    (project / "precious").write_bytes(os.urandom(5_000))
    fresh.unios("run", "--carry", ".", "--on", "n1", "--", "true", cwd=project)
    stored = [path for path in (fresh.home / "home/nodes").glob("n*/blocks/u-*/*/*") if path.stat().st_size == 5_000]
    assert len(stored) == 2
    stored[0].write_bytes(b"damaged" * 700)
    node = stored[0].relative_to(fresh.home / "home/nodes").parts[0]
    fresh.unios("run", "--carry", ".", "--on", node, "--", "sh", "-c", "[ $(wc -c < precious) = 5000 ]", cwd=project)
    pid = int(fresh.unios("run", "-d", "--carry", ".", "--restart", "on-failure", "--", "sleep", "100", cwd=project).stdout)
    node = node_of(fresh, pid)
    for path in (fresh.home / "home/nodes").glob("n*/blocks/u-*/*/*"):
        if path.stat().st_size == 5_000:
            path.unlink()
    fresh.power_cut(node)
    view = wait_for(lambda: fresh.process(pid), lambda view: view["state"] == "failed", "it cannot start again")
    assert "data lost" in view["reason"] and "precious" in view["reason"]
