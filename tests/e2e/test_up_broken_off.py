"""An `up` that is broken off half way, by a signal or by the death of its command: what it started is taken back, or told and mended."""

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.system import System, wait_for


@pytest.fixture
def system() -> Iterator[System]:
    with System() as made:
        yield made


@contextlib.contextmanager
def kept_from_starting(system: System, node: str) -> Iterator[None]:
    """Hold what a node's supervisor takes first: an `up` that starts it waits for it."""
    run = system.home / "home/nodes" / node / "run"
    run.mkdir(parents=True, exist_ok=True)
    with (run / "supervisor.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def begin(system: System, *words: str, ready: str) -> "subprocess.Popen[bytes]":
    """Start an `up`, in a session as a terminal has one; return when that node is ready and the others are waited for."""
    started = system.start("up", *words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    wait_for((system.home / "home/nodes" / ready / "run/ready").exists, bool, f"{ready} is ready")
    return started


def end(started: "subprocess.Popen[bytes]") -> tuple[int, str]:
    _out, err = started.communicate(timeout=60)
    return started.returncode, err.decode()


def names(system: System) -> list[str]:
    return sorted(os.listdir(system.home / "home/nodes"))


def test_interrupted_it_leaves_nothing_and_can_be_typed_again(system: System) -> None:
    with kept_from_starting(system, "n2"):
        started = begin(system, "--nodes", "2", ready="n1")
        os.killpg(started.pid, signal.SIGINT)
        code, said = end(started)
        assert code == 130 and "Traceback" not in said
        assert names(system) == [] and not (system.home / "home/system.json").exists() and not system.leftovers()
    system.unios("up", "--nodes", "1")
    assert list(system.nodes()) == ["n1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_when_its_command_is_killed_it_leaves_nothing(system: System, number: signal.Signals) -> None:
    with kept_from_starting(system, "n2"):
        started = begin(system, "--nodes", "2", ready="n1")
        started.send_signal(number)
        end(started)
        wait_for(lambda: (names(system), system.leftovers()), lambda seen: seen == ([], []), "all is taken back")
        assert not (system.home / "home/system.json").exists()


def test_what_ran_before_runs_on_and_a_new_node_leaves(system: System) -> None:
    system.unios("up", "--nodes", "2")
    pid = system.run_detached("sleep", "1000", options=("--on", "n1"))
    system.unios("down", "--node", "n2")
    with kept_from_starting(system, "n3"):
        started = begin(system, "--nodes", "3", ready="n2")
        # n2 is back: the third joins now, and is not started
        wait_for((system.home / "home/nodes/n3/node.json").exists, bool, "n3 has joined")
        os.killpg(started.pid, signal.SIGINT)
        assert end(started)[0] == 130
    assert names(system) == ["n1", "n2"]
    assert wait_for(lambda: system.nodes()["n3"]["state"], lambda state: state == "left", "n3 has left")
    assert wait_for(lambda: system.nodes()["n2"]["state"], lambda state: state == "lost", "n2 is down again")
    record = system.process(pid)
    assert (record["state"], record["incarnation"]) == ("running", 1)


@pytest.mark.parametrize("mended_by", ["up", "down"])
def test_killed_altogether_it_is_told_and_mended_by_one_command(system: System, mended_by: str) -> None:
    with kept_from_starting(system, "n2"):
        started = begin(system, "--nodes", "2", ready="n1")
        os.killpg(started.pid, signal.SIGKILL)
        end(started)
    status = system.unios("status", check=False)
    assert status.returncode == 1 and b"was killed before it had started n2" in status.stdout and b"type:  unios up" in status.stdout
    assert any(finding["check"] == "unfinished up" and not finding["ok"] for finding in system.json("doctor"))
    if mended_by == "down":
        system.unios("down", "--all")
        assert not system.leftovers() and names(system) == ["n1", "n2"]
    system.unios("up")
    assert {node["state"] for node in system.nodes().values()} == {"ready"} and len(system.nodes()) == 2
    assert system.unios("status").returncode == 0 and not (system.home / "home/up.json").exists()


def test_down_ends_an_up_that_waits(system: System) -> None:
    with kept_from_starting(system, "n2"):
        started = begin(system, "--nodes", "2", ready="n1")
        system.unios("down", "--all")
        code, said = end(started)
        assert code == 75 and "broken off" in said and "taken back" in said
    assert names(system) == [] and not system.leftovers()
