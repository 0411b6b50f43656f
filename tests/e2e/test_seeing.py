"""What a person sees of a real system that is well, and of one that is not: status, events, doctor, and renice as it is kept."""

import json
import os
import subprocess

import pytest

from tests.e2e import test_ordinary_member
from tests.e2e.system import System, nice_values, wait_for


def test_a_system_that_is_well_says_so_in_its_first_line(whole: System) -> None:
    done = whole.unios("status")
    assert done.stdout.decode().splitlines()[0] == "all is well: 3 nodes ready" and b"\x1b" not in done.stdout
    assert whole.json("status")["well"] is True and whole.json("status")["problems"] == []


def test_a_node_that_is_lost_is_told_by_status_events_and_doctor(fresh: System) -> None:
    moving = [fresh.run_detached("sleep", "100010") for _ in range(3)]
    victim = fresh.process(moving[0])["node"]
    there = [pid for pid in moving if fresh.process(pid)["node"] == victim]
    fresh.unios("renice", "5", *map(str, moving))
    fresh.power_cut(victim)
    for pid in there:
        fresh.wait_process(pid, lambda record: record["state"] == "running" and record["incarnation"] == 2, "runs again")
    pinned = fresh.run_detached("sleep", "100011", options=("--on", victim))

    done = fresh.unios("status", check=False)
    text = done.stdout.decode()
    assert done.returncode == 1 and text.startswith("2 things need you:\n")
    assert f"1. {victim} is lost, since " in text and f"2. {pinned} waits for a place: {victim} is lost" in text
    problems = json.loads(fresh.unios("status", "--json", check=False).stdout)["problems"]
    assert [bool(problem["since_ms"] and problem["costs"] and problem["type"]) for problem in problems] == [True, True]

    story = wait_for(lambda: fresh.unios("events", "--node-of", victim).stdout.decode(), lambda said: "again" in said, "the story is told")
    line = next(line for line in story.splitlines() if f"{victim} was lost" in line)
    assert all(f"{pid} on n" in line for pid in there) and "runs again" not in story.replace(line, "")
    assert [event["kind"] for event in fresh.json("events", "--kind", "loss")] == ["loss"]

    for pid in there:  # a later incarnation is as nice as the one before
        assert fresh.process(pid)["nice"] == 5
        wait_for(lambda: nice_values("100010"), lambda found: found == {5}, "the value is set again")

    lacking = [finding for finding in fresh.json("doctor") if not finding["ok"]]
    assert any(finding["check"] == f"node {victim}" for finding in lacking)
    groups = json.loads((fresh.home / f"home/nodes/{victim}/cgroup").read_text())
    if any(os.path.isdir(path) for _version, path in groups):
        assert any(finding["check"].startswith("left ") for finding in lacking)
        fresh.unios("doctor", "--yes", check=False)
        assert not any(os.path.isdir(path) for _version, path in groups) or fresh.nodes()[victim]["state"] == "ready"
    fresh.unios("up")
    wait_for(lambda: fresh.unios("status", check=False).returncode, lambda code: code == 0, "all is well again", 30)


def test_events_are_followed_as_a_story(whole: System) -> None:
    follower = whole.start("events", "-f", "--kind", "exit", stdout=subprocess.PIPE)
    try:
        assert follower.stdout is not None
        pid = whole.run_detached("sh", "-c", "exit 9")
        for raw in follower.stdout:
            if f"{pid} ended with 9" in raw.decode():
                break
        else:
            raise AssertionError("the end was not told")
    finally:
        follower.kill()
        follower.wait()
        if follower.stdout is not None:
            follower.stdout.close()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["renice", "20", "300"], 2),
        (["renice", "-x", "300"], 2),
        (["renice", "5"], 2),
        (["renice", "5", "29999"], 1),
        (["events", "--since", "soon"], 2),
        (["events", "-n", "0"], 2),
        (["events", "--node-of", "n9"], 2),
        (["queue", "29999"], 1),
        (["up", "--name", "n9"], 1),
        (["run", "--on", "n1", "--not-on", "n1", "true"], 2),
        (["doctor", "--mend"], 2),
        (["top", "-n", "0"], 2),
    ],
)
def test_bad_input_gets_a_sentence(whole: System, words: list[str], code: int) -> None:
    done = whole.unios(*words, check=False)
    assert done.returncode == code and done.stderr.startswith((b"unios: ", b"Usage")) and b"Traceback" not in done.stderr, done


def test_of_what_does_not_wait_the_queue_says_what_it_does(whole: System) -> None:
    pid = whole.run_detached("sleep", "1000", options=("--on", "n1"))
    said = whole.unios("queue", str(pid))
    assert f"unios: {pid} does not wait: running on n1".encode() in said.stderr
    whole.unios("kill", "-9", str(pid))


def test_the_doctor_of_a_node_that_there_is_not_says_only_that(whole: System) -> None:
    done = whole.unios("doctor", "--json", "--node", "n9", check=False)
    lacking = [finding["check"] for finding in json.loads(done.stdout) if not finding["ok"] and finding["check"] in ("node n9", "store")]
    assert done.returncode == 1 and lacking == ["node n9"]


@pytest.mark.skipif(bool(test_ordinary_member.missing()), reason=test_ordinary_member.missing())
def test_only_root_may_favour_a_process(whole: System) -> None:
    pid = int(whole.unios("run", "-d", "--user", "nobody", "--cwd", "/", "--", "sleep", "100012").stdout)
    whole.home.chmod(0o711)

    python = test_ordinary_member.interpreter()

    def as_nobody(*words: str) -> "subprocess.CompletedProcess[bytes]":
        env = {**test_ordinary_member.environment(whole.home), "UNIOS_NODE": "n1"}
        return test_ordinary_member.run([python, "-m", "unios", *words], env=env)

    try:
        whole.unios("renice", "0", str(pid))  # it begins with what the runner of these tests has
        assert as_nobody("renice", "8", str(pid)).returncode == 0 and nice_values("100012") == {8}
        done = as_nobody("renice", "3", str(pid))
        assert done.returncode == 77 and b"only root may" in done.stderr and nice_values("100012") == {8}
        whole.unios("renice", "-n", "-3", str(pid))
        assert nice_values("100012") == {-3}
    finally:
        whole.unios("kill", str(pid))
