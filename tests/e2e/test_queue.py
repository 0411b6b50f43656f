"""The queue as a person uses it: three nodes that offer two cores each, whatever the machine has."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import System, wait_for
from tests.services.bad_policies import install


@pytest.fixture(scope="module")
def two_each() -> Iterator[System]:
    """Three nodes of two cores that no test of the module breaks for good."""
    system = System()
    try:
        system.unios("up", "--nodes", "3", "--cores", "2")
        yield system
    finally:
        system.close()


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test begins and leaves with nothing that runs or waits."""
    yield
    if "two_each" not in request.fixturenames:
        return
    system: System = request.getfixturevalue("two_each")
    live = [str(process["pid"]) for process in system.json("ps")]
    if live:
        system.unios("kill", "-9", *live, check=False)
    wait_for(lambda: system.json("ps"), lambda left: not left, "nothing runs any more", 30)


def by_state(system: System, pids: list[int]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for process in system.json("ps", "-a"):
        if process["pid"] in pids:
            found.setdefault(process["state"], []).append(process)
    return found


def queued(system: System, *words: str) -> dict[str, Any]:
    """Return what `run` says of many."""
    found: dict[str, Any] = json.loads(system.unios("run", "--json", *words).stdout)
    return found


def test_what_finds_no_room_waits_says_why_and_runs_in_its_turn(two_each: System) -> None:
    done = queued(two_each, "--array", "1-40", "--", "sh", "-c", "echo $UNIOS_ARRAY_INDEX of $UNIOS_ARRAY; sleep 0.1")
    pids = done["pids"]
    assert len(pids) == 40 and done["array"] == pids[0]
    last = two_each.json("queue", str(pids[-1]))
    assert [each["pid"] for each in last] in ([], [pids[-1]]) and all("waits for a core" in each["reason"] for each in last)
    most = 0

    def look() -> dict[str, list[dict[str, Any]]]:
        nonlocal most
        found = by_state(two_each, pids)
        on = [process["node"] for process in found.get("running", [])]
        most = max([most, *(on.count(node) for node in set(on))])
        return found

    ended = wait_for(look, lambda found: len(found.get("exited", [])) == 40, "all forty have ended", 60)["exited"]
    assert most <= 2 and {process["exit_code"] for process in ended} == {0} and {process["incarnation"] for process in ended} == {1}
    assert two_each.unios("logs", str(pids[6])).stdout == b"7 of %d\n" % pids[0]


def test_a_batch_of_command_lines_runs_each(two_each: System) -> None:
    (two_each.home / "lines").write_text("# what is to be said\necho 'a  b'\n\necho c\n")
    pids = queued(two_each, "--batch", str(two_each.home / "lines"))["pids"]
    two_each.unios("wait", *map(str, pids))
    assert [two_each.unios("logs", str(pid)).stdout for pid in pids] == [b"a  b\n", b"c\n"]
    assert two_each.unios("run", "--batch", "/nowhere", check=False).returncode == 2


def test_dependencies_holds_and_priorities(two_each: System) -> None:
    first = two_each.run_detached("false", options=("--hold",))
    fails = two_each.run_detached("true", options=("--after", str(first)))
    goes = two_each.run_detached("true", options=("--after", f"{first}:failed"))
    reasons = {each["pid"]: each["reason"] for each in two_each.json("queue")}
    assert "held" in reasons[first] and reasons[fails] == f"waits for {first} to end well"
    two_each.unios("release", str(first))
    assert "which it did not" in two_each.wait_process(fails, lambda p: p["state"] == "failed", "fails")["reason"]
    assert two_each.unios("wait", str(goes)).returncode == 0
    assert two_each.unios("run", "--after", "99999", "true", check=False).returncode == 2
    assert two_each.unios("release", str(goes), check=False).returncode == 1


def test_an_array_that_waits_is_cancelled_as_one(two_each: System) -> None:
    done = queued(two_each, "--hold", "--array", "1-120", "--", "true")
    two_each.unios("cancel", str(done["array"]))
    ended = by_state(two_each, done["pids"])
    assert {state: len(those) for state, those in ended.items()} == {"exited": 120}
    assert ended["exited"][0]["exit_code"] == 143 and "cancelled by" in ended["exited"][0]["reason"]
    two_each.unios("cancel", str(done["array"]))  # as was asked: the answer to the first may have been lost
    ran = two_each.json("run", "-d", "--", "true")
    two_each.unios("wait", str(ran), check=False)
    refused = two_each.unios("cancel", str(ran), check=False)
    assert refused.returncode == 1 and b"has ended" in refused.stderr


def test_a_time_limit_ends_the_process_and_is_not_forgotten_by_a_restarted_kernel(two_each: System) -> None:
    pid = two_each.run_detached(
        "sh", "-c", "trap 'echo term; exit 7' TERM; while :; do sleep 0.1; done", options=("--time", "3", "--restart", "always")
    )
    node = two_each.wait_process(pid, lambda p: p["state"] == "running", "runs")["node"]
    os.kill(two_each.nodes()[node]["kernel_pid"], signal.SIGKILL)
    ended = two_each.wait_process(pid, lambda p: p["state"] == "exited", "has ended", 30)
    assert ended["reason"] == "its time limit of 3 s was over" and ended["incarnation"] == 1 and ended["exit_code"] == 7
    assert ended["ended_ms"] - ended["started_ms"] > 2_000  # not at once: the kernel that came after counts from the same moment


def test_the_queue_goes_on_when_its_runner_dies_and_no_element_runs_twice(two_each: System) -> None:
    folder = two_each.home / "ran"
    folder.mkdir()
    pids = queued(two_each, "--array", "1-60", "--", "sh", "-c", f"echo x >> {folder}/$UNIOS_ARRAY_INDEX; sleep 0.1")["pids"]
    for node in ("n1", "n2", "n1"):
        wait_for(lambda: by_state(two_each, pids), lambda found: len(found.get("exited", [])) > 3, "some have ended", 30)
        os.kill(json.loads((two_each.home / f"home/nodes/{node}/run/placement.json").read_text())["pid"], signal.SIGKILL)
    wait_for(lambda: by_state(two_each, pids), lambda found: len(found.get("exited", [])) == 60, "all have ended", 60)
    assert [(folder / str(index)).read_text() for index in range(1, 61)] == ["x\n"] * 60


def test_a_quota_holds_back_and_a_policy_is_swapped_live(two_each: System) -> None:
    user = two_each.process(two_each.run_detached("true"))["user"]
    two_each.unios("quota", user, "--processes", "1")
    try:
        pids = [two_each.run_detached("sleep", "1000") for _ in range(2)]
        assert "over quota" in two_each.json("queue", str(pids[1]))[0]["reason"]
    finally:
        two_each.unios("quota", user, "--none")
    two_each.wait_process(pids[1], lambda p: p["state"] == "running", "runs once it may")
    two_each.unios("kill", *map(str, pids))
    two_each.unios("policy", "pack")
    try:
        wait_for(lambda: two_each.json("ps"), lambda left: not left, "nothing runs any more", 30)
        packed = [two_each.run_detached("sleep", "1000") for _ in range(2)]
        views = [two_each.wait_process(pid, lambda p: p["state"] == "running", "runs") for pid in packed]
        assert views[0]["node"] == views[1]["node"] and "policy pack" in views[1]["why"], views
        assert b"policy pack" in two_each.unios("ps", "--why").stdout
    finally:
        two_each.unios("policy", "least-loaded")
    assert two_each.unios("policy", "nonsense", check=False).returncode == 2


def test_a_policy_that_hangs_is_replaced_and_told_and_holds_up_nothing(tmp_path: Path) -> None:
    install(tmp_path)
    system = System({"PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))})
    try:
        system.unios("up", "--nodes", "2")
        system.unios("policy", "last")
        wait_for(
            lambda: system.run_detached("true"), lambda pid: system.process(pid)["why"].startswith("policy last"), "a foreign policy decides", 30
        )
        system.unios("policy", "hangs")

        def told() -> str:
            system.unios("run", "true")
            return str(system.json("policy")["replaced"])

        wait_for(told, lambda replaced: "no answer within 200 ms" in replaced, "the policy is replaced", 30)
        told_by = b"the placement policy hangs was replaced by the default"
        said = wait_for(lambda: system.unios("status", check=False).stdout, lambda said: told_by in said, "status says so")
        assert b"no answer within 200 ms; `unios policy hangs` tries it again" in said
        assert b"the placement policy hangs was replaced by least-loaded" in system.unios("events", "--each").stdout
        assert all(part["restarts"] == 0 for part in parts(system))
        system.unios("policy", "kills")

        def told_of_deaths() -> str:
            system.unios("run", "true", check=False)
            return str(system.json("policy")["replaced"])

        wait_for(told_of_deaths, lambda replaced: "died 3 times within 10 minutes while it asked this policy" in replaced, "that policy too", 30)
        system.unios("run", "true")
    finally:
        system.close()


def parts(system: System) -> list[dict[str, Any]]:
    return [part for node in ("n1", "n2") for part in json.loads((system.home / f"home/nodes/{node}/run/parts").read_text())]


@pytest.mark.parametrize(
    "options",
    [("--cpus", "x"), ("--memory", "2Q"), ("--time", "0"), ("--after", "x:ok"), ("--array", "5-1"), ("--priority", "32"), ("--array", "1-2%0")],
)
def test_what_makes_no_sense_is_said_and_nothing_is_run(two_each: System, options: tuple[str, ...]) -> None:
    done = two_each.unios("run", *options, "--", "true", check=False)
    assert done.returncode == 2 and done.stderr.startswith(b"unios: --")
