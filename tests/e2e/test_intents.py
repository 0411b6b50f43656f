"""What a user has asked for stays asked for; and what happens to nodes and their parts is told."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.system import System, wait_for
from unios.client import processes
from unios.client.channel import Channel
from unios.client.connection import Connection
from unios.limits import LEASE_RENEW_MS
from unios.wire.doors import connect_unix
from unios.wire.home import Home
from unios.wire.operations import Leave, Program


def connect(system: System) -> Connection:
    return Connection(system.home / "home", "", role="test")


def test_what_was_killed_while_frozen_is_not_started_again(whole: System) -> None:
    pid = whole.run_detached("sleep", "1000", options=("--restart", "always"))
    whole.unios("freeze", str(pid))
    whole.unios("kill", str(pid))
    whole.unios("thaw", str(pid))
    assert whole.unios("wait", str(pid), check=False).returncode == 143
    record = whole.process(pid)
    assert (record["state"], record["incarnation"]) == ("exited", 1)


def test_a_term_that_is_ignored_still_means_that_it_shall_end(whole: System) -> None:
    ignore = "trap '' TERM; echo ready; while :; do sleep 0.1; [ -e {flag} ] && exit 9; done".format(flag=whole.home / "end")
    pid = whole.run_detached("sh", "-c", ignore, options=("--restart", "always"))
    wait_for(lambda: whole.unios("logs", str(pid)).stdout, lambda out: b"ready" in out, "it ignores")
    whole.unios("kill", str(pid))
    (whole.home / "end").touch()
    assert whole.unios("wait", str(pid), check=False).returncode == 9
    assert whole.process(pid)["incarnation"] == 1


def test_what_is_killed_while_it_waits_to_be_started_again_stays_ended(whole: System) -> None:
    pid = whole.run_detached("sh", "-c", "exit 3", options=("--restart", "always", "--restarts-max", "20"))
    whole.wait_process(pid, lambda p: p["state"] == "exited" and p["restarts"] == 5, "has ended, with 3.2 s until it is started again")
    other = whole.unios("kill", "-s", "USR1", str(pid), check=False)
    assert other.returncode != 0 and b"about to be started again" in other.stderr, other.stderr
    whole.unios("kill", str(pid))
    assert whole.unios("wait", str(pid), check=False, timeout=3).returncode == 3
    record = whole.process(pid)
    assert (record["state"], record["incarnation"]) == ("exited", 6) and "ended it before it was started again" in record["reason"]
    again = whole.unios("kill", str(pid), check=False)
    assert again.returncode != 0 and b"has ended" in again.stderr and b"again" not in again.stderr, again.stderr


def test_a_freeze_right_after_the_start_holds(whole: System) -> None:
    with contextlib.closing(connect(whole)) as connection:
        for _time in range(5):
            pid = processes.submit(connection, Program((b"sleep", b"1000"), ((b"PATH", b"/usr/bin:/bin"),))).pid
            processes.freeze(connection, pid)
            whole.wait_process(pid, lambda p: p["state"] == "frozen", "is frozen")
            processes.thaw(connection, pid)
            whole.wait_process(pid, lambda p: p["state"] == "running", "runs")
            processes.signal(connection, pid, signal.SIGKILL)
            assert processes.wait(connection, pid).signal == signal.SIGKILL


def test_what_cannot_start_for_another_reason_than_its_program_ends_with_125(whole: System) -> None:
    done = whole.unios("run", "--limit", "nofile=99999999999", "--", "true", check=False)
    assert done.returncode == 125 and b"nofile" in done.stderr, done.stderr


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_started_is_said_in_one_sentence(whole: System, program: str, code: int) -> None:
    done = whole.unios("run", "--", program, check=False)
    assert done.returncode == code and program in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_nobody_gets_a_limit_raised_that_he_could_not_raise(whole: System) -> None:
    inherited = int(whole.unios("run", "--user", "nobody", "--cwd", "/", "--", "sh", "-c", "ulimit -Hn").stdout)
    done = whole.unios("run", "--user", "nobody", "--cwd", "/", "--limit", f"nofile={inherited + 1}", "--", "true", check=False)
    assert done.returncode == 125 and b"nofile" in done.stderr
    done = whole.unios("run", "--user", "nobody", "--cwd", "/", "--limit", "nofile=100", "--", "sh", "-c", "ulimit -n")
    assert done.stdout == b"100\n"


def test_losses_and_replacements_are_told(fresh: System) -> None:
    os.kill(json.loads((fresh.home / "home/nodes/n1/run/placement.json").read_text())["pid"], signal.SIGKILL)
    runs = fresh.home / "home" / "nodes"
    victim = next(node for node in ("n3", "n2") if not (runs / node / "run" / "store.json").exists())  # while the store is away events are not told

    def told() -> str:
        return fresh.unios("events", "--each").stdout.decode()

    assert "lost" not in told()
    fresh.power_cut(victim)

    wait_for(told, lambda text: "placement of" in text and "was replaced" in text, "the replacement is told")
    wait_for(told, lambda text: f"{victim} is lost" in text, "the loss of a node without processes is told")


def test_a_node_that_was_stopped_and_lives_a_little_longer_is_stopped_and_not_lost(fresh: System) -> None:
    """It ends once its asker has gone: until then it must not get a new lease, under which it would be taken for one that is there, and then for lost."""
    fresh.unios("up", "--nodes", "3")
    folder = Home(fresh.home / "home").node("n3")
    with Channel(connect_unix(folder.door, timeout_s=5), timeout_s=5) as asker:
        asker.begin("node.stop", Leave(False, ("n3",))).finish(timeout_s=20)
        time.sleep(4 * LEASE_RENEW_MS / 1000)
        seen = fresh.nodes()["n3"]
    assert seen["incarnation"] == 1 and "was stopped" in seen["reason"], seen


def test_a_node_that_has_left_leaves_no_control_group(fresh: System) -> None:
    groups = [Path(path) for _version, path in json.loads((fresh.home / "home/nodes/n3/cgroup").read_text())]
    fresh.unios("run", "--on", "n3", "--", "true")
    supervisor = fresh.nodes()["n3"]["pids"][0]
    fresh.unios("leave", "--node", "n3")
    wait_for(lambda: os.path.exists(f"/proc/{supervisor}"), lambda there: not there, "its supervisor has ended")
    wait_for(lambda: [group for group in groups if group.exists()], lambda left: not left, "its groups are gone")
