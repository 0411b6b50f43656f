"""What a person types and is told: mistakes are sentences, every word speaks JSON, and what has become of a process is said."""

import json
import os
import signal
import subprocess
from typing import Any

import pytest

from tests.e2e.keyboard import Keyboard
from tests.e2e.system import UNIOS, System, wait_for
from unios.shell.words import INDEX, find


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "--policy", "nosuch", "--", "true"], 2, "least-loaded, pack, spread, most-recent-first"),
        (["run", "-d", "--policy", "nosuch", "--", "true"], 2, "least-loaded"),
        (["run", "-t", "--policy", "nosuch", "--", "true"], 2, "least-loaded"),
        (["run", "--array", "1-2", "--policy", "nosuch", "--", "true"], 2, "least-loaded"),
        (["run", "--device", "gpuu:2", "--", "true"], 2, "camera, gpu, serial, sound"),
        (["run", "--device", "gpu:1001", "--", "true"], 2, "up to"),
        (["run", "--on", "n99", "--", "true"], 2, "n99"),
        (["run", "--not-on", "n99", "--", "true"], 2, "n99"),
        (["--node", "n99", "run", "--", "true"], 2, "there is no node n99"),
        (["--node", "n99", "run", "-d", "--", "true"], 2, "there is no node n99"),
        (["--node", "n99", "run", "--array", "1-2", "--", "true"], 2, "there is no node n99"),
        (["--node", "n99", "queue"], 2, "there is no node n99"),
        (["--node", "n99", "ps"], 2, "there is no node n99"),
        (["ps", "--node", "n99"], 2, "there is no node n99"),
        (["logs", "--node", "n99", "1"], 2, "there is no node n99"),
        (["leave", "--dead", "n99"], 2, "there is no node n99"),
        (["leave", "--expel", "n99"], 2, "there is no node n99"),
        (["leave", "--node", "n99"], 2, "n99"),
        (["events", "--node", "n99"], 2, "there is no node n99"),
        (["down", "--node", "n99"], 2, "there is no node n99"),
        (["upgrade", "--check", "--node", "n99"], 2, "n99 is no node of this machine"),
        (["run", "--after", "29999", "--", "true"], 2, "there is no process 29999 to wait for"),
        (["run", "-d", "--after", "29999", "--", "true"], 2, "there is no process 29999 to wait for"),
        (["policy", "nosuch"], 2, "least-loaded, pack, spread, most-recent-first"),
        (["quota", "nosuch"], 1, "nosuch"),
        (["quota", "nosuch", "--none"], 1, "nosuch"),
    ],
)
def test_what_nothing_is_called_is_named_and_nothing_is_run(whole: System, words: list[str], code: int, said: str) -> None:
    before = whole.json("ps", "-a")
    done = whole.unios(*words, check=False)
    assert done.returncode == code and done.stderr.startswith(b"unios: ") and said in done.stderr.decode(), done
    assert len(whole.json("ps", "-a")) == len(before)


def test_a_quota_of_who_is_not_known_here_is_laid_down_with_a_note(whole: System) -> None:
    assert b"nosuch" in whole.unios("quota", "nosuch", "--cpus", "2").stderr
    assert whole.unios("quota", "nosuch").stderr == b""
    whole.unios("quota", "nosuch", "--none")


SPOKEN: dict[str, list[str]] = {
    "up": [],
    "join": [],
    "status": [],
    "store": ["status"],
    "upgrade": ["--check"],
    "nodes": [],
    "run": ["-d", "--", "true"],
    "ps": ["-a"],
    "queue": [],
    "hold": ["HELD"],
    "release": ["HELD"],
    "cancel": ["HELD"],
    "policy": [],
    "quota": ["root", "--cpus", "0"],
    "kill": ["-s", "0", "PID"],
    "top": [],
    "wait": ["--timeout", "0", "PID"],
    "freeze": ["PID"],
    "thaw": ["PID"],
    "renice": ["5", "PID"],
    "logs": ["SAID"],
    "exec": ["PID", "true"],
    "results": ["PID"],
    "events": [],
    "usage": [],
    "devices": [],
    "doctor": [],
    "completion": ["bash"],
    "man": [],
    "mount": [],
    "help": ["run"],
}
"""Words, and what is typed after them here."""
ELSEWHERE = {"leave", "down", "enable", "disable", "forward", "attach", "umount"}
"""Words that would end the system of these tests or go on without end, with tests of their own; and attach, which says that it has no JSON."""


def test_every_word_is_tried_with_json() -> None:
    assert {*SPOKEN, *ELSEWHERE} == set(INDEX)
    silent = [name for name in INDEX if (word := find(name)) is not None and word.no_json]
    assert silent == ["attach"]


@pytest.fixture(scope="module")
def pids(whole: System) -> dict[str, str]:
    held = whole.run_detached("true", options=("--hold",))
    said = whole.run_detached("echo", "hello")
    whole.unios("wait", str(said))
    return {"PID": str(whole.run_detached("sleep", "1000")), "HELD": str(held), "SAID": str(said)}


@pytest.mark.parametrize("name", SPOKEN)
def test_every_word_speaks_json(whole: System, pids: dict[str, str], name: str) -> None:
    """On stdout; exec on stderr, since stdout is its program's."""
    done = whole.unios(name, "--json", *(pids.get(word, word) for word in SPOKEN[name]), check=False)
    lines = [line for line in (done.stderr if name == "exec" else done.stdout).splitlines() if line]
    if name == "results":  # of what took nothing along there is nothing to say but that
        lines = lines or done.stderr.splitlines()
    assert lines and all(json.loads(line) is not None for line in lines), done


def test_what_waits_in_vain_has_failed_at_once_and_it_is_said(whole: System) -> None:
    bad = whole.run_detached("false")
    whole.unios("wait", str(bad), check=False)
    done = whole.unios("run", "-d", "--after", str(bad), "--", "true")
    pid = int(done.stdout)
    assert f"{pid} was not started: it waited for {bad} to end well, which it did not" in done.stderr.decode()
    assert whole.process(pid)["state"] == "failed"
    missing = whole.unios("run", "-d", "--", "no-such-program")
    assert b"was not started: " in missing.stderr and b"no-such-program" in missing.stderr
    done = whole.unios("run", "--after", str(bad), "--", "true", check=False)
    assert done.returncode == 125 and done.stderr.count(b"\n") == 1 and b"pending" not in done.stderr, done


def test_why_it_waits_is_what_it_is_now(whole: System) -> None:
    first = whole.run_detached("sleep", "1000", options=("--hold",))
    second = whole.run_detached("true", options=("--hold", "--after", str(first)))
    assert whole.process(second)["reason"].startswith("held")
    whole.unios("release", str(second))

    def now() -> str:
        return str(whole.process(second)["reason"])

    wait_for(now, lambda reason: reason == f"waits for {first} to end well", "it waits for the other")
    whole.unios("cancel", str(first))
    assert whole.unios("logs", str(first)).stdout == b""


def test_who_ends_what_waits_is_named_and_what_runs_is_not_cancelled(whole: System) -> None:
    held, runs = whole.run_detached("true", options=("--hold",)), whole.run_detached("sleep", "1000")
    whole.unios("kill", str(held))
    assert whole.process(held)["reason"].endswith(" while it waited")
    done = whole.unios("cancel", str(runs), check=False)
    assert done.returncode == 1 and f"`unios kill {runs}`" in done.stderr.decode()


def test_the_doctor_and_the_nodes_name_the_same_freezer(whole: System) -> None:
    findings: dict[str, str] = {finding["check"]: finding["found"] for finding in whole.json("doctor")}
    assert f"freezer {findings['freezer'].removeprefix('cgroup ')}," in findings["node n1"].replace("signals", "no cgroup of this user's")


def test_stdin_that_was_cut_off_is_not_taken_for_the_whole(fresh: System) -> None:
    """Its program ended well, but on less than it was sent: exit code 76, as the manual says."""
    flag = fresh.home / "end"
    script = f"cat > {fresh.home}/got; echo eof; until [ -e {flag} ]; do sleep 0.05; done"
    command = subprocess.Popen(
        [UNIOS, "run", "--", "sh", "-c", script], env=fresh.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdin is not None and command.stdout is not None
    command.stdin.write(b"first\n")
    command.stdin.flush()
    got = fresh.home / "got"
    wait_for(lambda: got.read_bytes() if got.exists() else b"", lambda seen: seen == b"first\n", "the first line has come")
    for name in ("n1", "n2", "n3"):  # wherever it runs, and through whichever kernel it is fed
        kernel = json.loads((fresh.home / f"home/nodes/{name}/run/kernel.json").read_text())["pid"]
        os.kill(kernel, signal.SIGKILL)
        wait_for(lambda pid=kernel: os.path.exists(f"/proc/{pid}"), lambda there: not there, "the kernel is gone")  # type: ignore[misc]
    command.stdin.write(b"second\n")
    command.stdin.close()
    command.stdin = None
    flag.touch()
    _out, said = command.communicate(timeout=60)
    assert command.returncode == 76 and b"stdin was cut off" in said, (command.returncode, said)


def test_who_waits_while_the_system_is_stopped_is_told_what_became_of_it(fresh: System) -> None:
    held = fresh.start("run", "--hold", "--", "true", stderr=subprocess.PIPE)
    runs = fresh.run_detached("sleep", "1000")
    with Keyboard(fresh, "run", "-t", "--", "sh", "-c", "echo here; sleep 1000") as keyboard:
        keyboard.wait_for("here")

        def waits() -> list[dict[str, Any]]:
            return [process for process in fresh.json("ps") if process["argv"] == ["true"]]

        pid = wait_for(waits, bool, "it waits")[0]["pid"]
        fresh.unios("down", "--all")
        _out, said = held.communicate(timeout=60)
        assert held.returncode == 125 and said.count(b"\n") == 2
        assert f"`unios up`, then `unios wait {pid}`" in said.splitlines()[1].decode()
        keyboard.wait_for("unios up`|is up again")  # by its record, or by nobody's answer if the last node was quicker
    fresh.unios("up")
    assert fresh.process(pid)["state"] == "pending"
    record = fresh.process(runs)
    assert record["exit_code"] == 143 and "was stopped and it could not run elsewhere" in record["reason"] and "logs" in record["reason"]
