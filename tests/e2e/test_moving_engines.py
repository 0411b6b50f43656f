"""A running system goes from the embedded store to an etcd of its own, and back: nothing that is asked meanwhile fails, and nobody is lost."""

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.homes import join
from tests.e2e.programs import via
from tests.e2e.system import System, wait_for
from unios.client.synchronisation.lock import Lock
from unios.kernel import runfiles

if shutil.which("etcd") is None or find_spec("grpc") is None:
    pytest.skip("etcd or grpcio is not installed", allow_module_level=True)

LONGEST_S = 2.5
"""What is asked while the store is moved may wait for a second or two."""


@pytest.fixture
def system() -> Iterator[System]:
    with System() as built:
        yield built


class Stream:
    """Operations one after the other, beside the test, until it is left; none may fail, and none may take long."""

    def __init__(self, *works: Callable[[], object]) -> None:
        self._works = works
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in works]
        self.took_s: list[float] = []
        self.failed: list[BaseException] = []

    def _run(self, work: Callable[[], object]) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                work()
            except BaseException as error:  # noqa: BLE001 the test looks at it
                self.failed.append(error)
            self.took_s.append(time.monotonic() - begun)

    def __enter__(self) -> "Stream":
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.took_s), lambda count: count >= 2 * len(self._works), "operations are under way", 30)
        return self

    def __exit__(self, *_exc: object) -> None:
        before = len(self.took_s)
        wait_for(lambda: len(self.took_s), lambda count: count >= before + 2 * len(self._works), "operations go on", 30)
        self._stop.set()
        for thread in self._threads:
            thread.join()


def engine(system: System) -> Any:
    return json.loads((system.home / "home" / "system.json").read_text())["engine"]


def incarnations(system: System) -> dict[str, int]:
    return {name: node["incarnation"] for name, node in system.nodes().items()}


def linux_pids(*command: str) -> list[str]:
    """Return the Linux processes of this machine that are that program."""
    wanted, found = "\0".join(command).encode() + b"\0", []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == wanted:
                found.append(path.parent.name)
    return found


def test_a_running_system_is_moved_and_no_operation_fails(system: System) -> None:
    system.unios("up", "--nodes", "3")
    programs = {}
    for number, node in enumerate(("n1", "n2", "n3")):
        command = ("sleep", f"{1_000 + number}.{os.getpid()}")
        pid = system.run_detached(*command, options=("--on", node))
        programs[pid] = (command, wait_for(lambda: linux_pids(*command), lambda found: len(found) == 1, "it runs"))  # noqa: B023 it is called in this round
    before, generation = incarnations(system), system.json("store", "status")["generation"]
    handled = system.run_detached("sh", "-c", "trap : USR1; while :; do sleep 0.05; done", options=("--on", "n3"))

    def lock() -> None:
        with Lock("turns", via=via(system, "n2")) as token:
            tokens.append(token)

    def run() -> None:
        assert system.unios("--node", "n2", "run", "--", "echo", "said").stdout == b"said\n"

    tokens: list[int] = []
    works = (
        run,
        lock,
        lambda: system.unios("--node", "n3", "ps", "-a"),
        lambda: system.unios("--node", "n2", "kill", "-s", "USR1", str(handled)),
        lambda: system.unios("--node", "n3", "run", "--on", "n1", "--", "true"),
        lambda: system.unios("--node", "n1", "store", "backup", str(system.home / f"backup.{time.monotonic_ns()}")),
    )

    def move(source: str, to: str) -> None:
        with Stream(*works) as stream:
            assert system.json("store", "move", to) == {"before": source, "now": to}
        assert not stream.failed and max(stream.took_s) < LONGEST_S
        assert tokens == sorted(set(tokens)), "no token of a lock is given twice"
        assert incarnations(system) == before, "no node was lost by it"
        for pid, (command, linux) in programs.items():
            found = system.process(pid)
            assert (found["state"], found["incarnation"]) == ("running", 1) and linux_pids(*command) == linux

    move("sqlite", "etcd")
    view = json.loads(system.unios("store", "status", "--json", check=False).stdout)  # 1 while a member is new
    assert view["engine"] == "etcd" and view["managed"] and view["generation"] != generation
    assert system.json("store", "move", "etcd") == {"before": "etcd", "now": "etcd"}
    told = wait_for(
        lambda: [one["text"] for one in system.json("events")], lambda all_: any("moved to etcd" in one for one in all_), "it is told", 10
    )
    assert not any("older state" in one for one in told)

    def members() -> int:
        found = json.loads(system.unios("store", "status", "--json", check=False).stdout)
        return sum(one["answers"] and not one.get("learner") for one in found.get("members", ()))

    wait_for(members, lambda count: count == 3, "it grows as any other", 40)
    move("etcd", "sqlite")
    view = system.json("store", "status")
    assert view["engine"] == "sqlite" and not view.get("members") and not (system.home / "home" / "store" / "cluster.json").exists()
    wait_for(lambda: etcds(system), lambda found: not found, "no member is left", 10)
    told = wait_for(
        lambda: [one["text"] for one in system.json("events")], lambda all_: any("moved to sqlite" in one for one in all_), "it is told", 10
    )
    assert not any("older state" in one for one in told) and not [
        one for one in system.json("status").get("warnings", ()) if "etcd" in one or " member" in one or "copies" in one
    ]
    anew(system, max(programs))


def etcds(system: System) -> list[str]:
    """Return the Linux processes of etcd that belong to the system."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0].endswith(b"etcd") and str(system.home).encode() in b" ".join(words):
                found.append(path.parent.name)
    return found


def test_other_machines_go_on_through_it_follow_and_then_the_first_may_be_lost(system: System) -> None:
    with System() as second, System() as third:
        system.unios("up")
        for other, name in ((second, "s1"), (third, "t1")):
            join(system, other, name)
        stays = system.run_detached("sleep", "1000", options=("--on", "s1"))

        def run() -> None:
            assert second.unios("run", "--on", "t1", "--", "echo", "said").stdout == b"said\n"

        with Stream(run, lambda: third.unios("ps", "-a")) as stream:
            assert system.json("store", "move", "etcd") == {"before": "sqlite", "now": "etcd"}
        assert not stream.failed and max(stream.took_s) < LONGEST_S
        for other in (second, third):
            wait_for(lambda: engine(other), lambda found: found == "etcd", "it has heard of it", 10)  # noqa: B023 it is called in this round

        def members() -> int:
            found = json.loads(system.unios("store", "status", "--json", check=False).stdout)
            return sum(one["answers"] and not one.get("learner") for one in found.get("members", ()))

        wait_for(members, lambda count: count == 3, "each machine has a copy", 60)
        told = [one["text"] for one in system.json("events")]
        assert any("moved to etcd" in one for one in told) and not any("older state" in one for one in told)
        system.power_cut("n1")
        wait_for(lambda: second.unios("run", "--", "true", check=False).returncode, lambda code: code == 0, "programs run without the first", 30)
        assert second.process(stays)["incarnation"] == 1
        assert third.unios("run", "--on", "s1", "--", "echo", "said").stdout == b"said\n"


@pytest.fixture
def three() -> Iterator[tuple[System, System, System]]:
    """Three machines, each with a gateway and a copy of the store in etcd."""
    with System() as first, System() as second, System() as third:
        first.unios("up", "--store", "etcd")
        for other, name in ((second, "s1"), (third, "t1")):
            join(first, other, name)

        def members() -> int:
            found = json.loads(first.unios("store", "status", "--json", check=False).stdout)
            return sum(one["answers"] and not one.get("learner") for one in found.get("members", ()))

        wait_for(members, lambda count: count == 3, "each machine has a copy", 60)
        yield first, second, third


def gateways(*systems: System) -> list[bool]:
    """Return of each machine whether the store's process runs there."""
    found = []
    for system in systems:
        parts = [runfiles.read(path) for path in (system.home / "home" / "nodes").glob("*/run/store.json")]
        found.append(any(part is not None for part in parts))
    return found


def test_the_store_of_three_machines_goes_back_into_a_file_of_one_and_no_operation_fails(three: tuple[System, System, System]) -> None:
    first, second, third = three
    stays = first.run_detached("sleep", "1000", options=("--on", "t1"))
    before = incarnations(first)

    def run() -> None:
        assert second.unios("run", "--on", "t1", "--", "echo", "said").stdout == b"said\n"

    with Stream(run, lambda: third.unios("ps", "-a"), lambda: first.unios("run", "--on", "s1", "--", "true")) as stream:
        assert second.json("--node", "s1", "store", "move", "sqlite") == {"before": "etcd", "now": "sqlite"}
        for other in three:
            wait_for(lambda: engine(other), lambda found: found == "sqlite", "it has heard of it", 10)  # noqa: B023 it is called in this round
    assert not stream.failed and max(stream.took_s) < LONGEST_S
    assert incarnations(third) == before, "no node was lost by it"
    assert first.process(stays)["incarnation"] == 1
    wait_for(lambda: [etcds(one) for one in three], lambda found: found == [[], [], []], "no member is left", 20)
    assert gateways(*three) == [False, True, False]
    kept = [one.home / "home" / "store" / "cluster.json" for one in three]
    wait_for(lambda: [path for path in kept if path.exists()], lambda left: not left, "nothing says any more where etcd was", 10)
    assert third.json("store", "status")["engine"] == "sqlite"
    told = [one["text"] for one in first.json("events")]
    assert any("moved to sqlite" in one for one in told) and not any("older state" in one for one in told)

    assert second.json("--node", "s1", "store", "move", "etcd") == {"before": "sqlite", "now": "etcd"}
    wait_for(lambda: gateways(*three), lambda found: found == [True, True, True], "each has a gateway again", 30)
    assert third.unios("run", "--on", "n1", "--", "echo", "said").stdout == b"said\n"
    assert incarnations(third) == before and first.process(stays)["incarnation"] == 1


def test_a_machine_that_does_not_answer_keeps_the_store_in_etcd_and_all_have_gateways_again(three: tuple[System, System, System]) -> None:
    first, second, third = three
    kernel = runfiles.read(third.home / "home" / "nodes" / "t1" / "run" / "kernel.json")
    supervisor = runfiles.read(third.home / "home" / "nodes" / "t1" / "run" / "supervisor.json")
    guard = runfiles.read(third.home / "home" / "nodes" / "t1" / "run" / "guard.json")
    assert kernel is not None and supervisor is not None and guard is not None
    for part in (supervisor, guard, kernel):
        runfiles.kill(part, signal.SIGSTOP)
    try:
        refused = first.unios("--node", "n1", "store", "move", "sqlite", check=False)
        assert refused.returncode == 75 and b"the machine of t1 may go on writing there" in refused.stderr, refused.stderr.decode()
        assert engine(first) == "etcd"
        wait_for(lambda: gateways(first, second), lambda found: found == [True, True], "a gateway that was given up is there again", 20)
        assert second.unios("run", "--on", "n1", "--", "echo", "said").stdout == b"said\n"
    finally:
        for part in (guard, supervisor, kernel):
            runfiles.kill(part, signal.SIGCONT)
    wait_for(lambda: second.nodes()["t1"]["state"], lambda state: state == "ready", "it is back", 30)
    assert third.unios("run", "--on", "s1", "--", "echo", "said").stdout == b"said\n"
    assert first.json("--node", "n1", "store", "move", "sqlite")["now"] == "sqlite"


@pytest.mark.parametrize("part", ["store", "kernel"])
def test_whatever_is_killed_on_the_machine_that_gets_it_three_machines_have_one_store(three: tuple[System, System, System], part: str) -> None:
    first, second, third = three
    stays = first.run_detached("sleep", "1000", options=("--on", "t1"))
    for wait_s in (0.3, 0.45, 0.6):
        moving = second.start("--node", "s1", "store", "move", "sqlite")
        time.sleep(wait_s)
        running = runfiles.read(second.home / "home" / "nodes" / "s1" / "run" / f"{part}.json")
        assert running is not None
        runfiles.kill(running, signal.SIGKILL)
        moving.wait(60)
        for other in three:
            wait_for(lambda: other.unios("run", "--on", "t1", "--", "true", check=False).returncode, lambda code: code == 0, "programs run", 30)  # noqa: B023
        found = wait_for(lambda: third.process(stays), lambda one: one["state"] != "pending", "that it runs is recorded", 10)
        assert (found["state"], found["incarnation"]) == ("running", 1)
        assert len({engine(second), *(wait_for(lambda: engine(one), lambda now: now == engine(second), "all know", 20) for one in three)}) == 1  # noqa: B023
    wait_for(lambda: second.unios("--node", "s1", "store", "move", "sqlite", check=False).returncode, lambda code: code == 0, "it goes", 30)
    for other in three:
        wait_for(lambda: engine(other), lambda found: found == "sqlite", "it has heard of it", 10)  # noqa: B023
    assert third.unios("run", "--on", "n1", "--", "echo", "said").stdout == b"said\n"
    assert first.process(stays)["incarnation"] == 1


def test_a_machine_that_dies_before_it_has_the_store_leaves_it_to_the_others(three: tuple[System, System, System]) -> None:
    first, second, third = three
    slow = runfiles.read(third.home / "home" / "nodes" / "t1" / "run" / "kernel.json")
    beside = [runfiles.read(third.home / "home" / "nodes" / "t1" / "run" / f"{name}.json") for name in ("supervisor", "guard")]
    assert slow is not None
    parts = [slow, *(part for part in beside if part is not None)]
    for part in parts:
        runfiles.kill(part, signal.SIGSTOP)  # so that the attempt waits for it
    moving = second.start("--node", "s1", "store", "move", "sqlite")
    wait_for(lambda: gateways(first), lambda found: found == [False], "the first has given its gateway up", 10)
    second.power_cut("s1")
    for part in reversed(parts):
        runfiles.kill(part, signal.SIGCONT)
    moving.wait(60)
    wait_for(lambda: gateways(first, third), lambda found: found == [True, True], "they have gateways again", 40)
    wait_for(lambda: first.unios("run", "--on", "t1", "--", "true", check=False).returncode, lambda code: code == 0, "programs run without it", 30)
    assert (engine(first), engine(third)) == ("etcd", "etcd")
    second.unios("up")
    assert second.unios("run", "--on", "n1", "--", "echo", "said").stdout == b"said\n"
    wait_for(lambda: gateways(*three), lambda found: found == [True, True, True], "it asks etcd as the others do", 30)


def parts_of(system: System, node: str) -> list[runfiles.Running]:
    """Return what has to stand still so that nothing of a node is done: its programs and its member of etcd go on."""
    found = [runfiles.read(system.home / "home" / "nodes" / node / "run" / f"{name}.json") for name in ("supervisor", "guard", "kernel")]
    return [part for part in found if part is not None]


@pytest.fixture
def two() -> Iterator[tuple[System, System]]:
    with System() as first, System() as second:
        first.unios("up", "--store", "etcd")
        join(first, second, "s1")
        wait_for(lambda: gateways(first, second), lambda found: found == [True, True], "both have gateways", 30)
        yield first, second


def moved_while_the_first_stands_still(first: System, second: System) -> list[runfiles.Running]:
    """Move the store to the second machine; the first gives its gateway up, and stands still before it hears what came of it."""
    moving = second.start("--node", "s1", "store", "move", "sqlite")
    wait_for(lambda: gateways(first), lambda found: found == [False], "the first has given its gateway up", 20)
    time.sleep(0.03)  # it answers
    stopped = parts_of(first, "n1")
    for part in stopped:
        runfiles.kill(part, signal.SIGSTOP)
    assert moving.wait(60) == 0 and engine(second) == "sqlite"
    return stopped


def generation(system: System) -> str:
    found = json.loads(system.unios("store", "status", "--json", check=False).stdout or b"{}")
    return str(found.get("generation"))


def test_one_that_missed_two_moves_does_not_go_on_in_the_etcd_of_before(two: tuple[System, System]) -> None:
    first, second = two
    stopped = moved_while_the_first_stands_still(first, second)
    assert second.json("--node", "s1", "store", "move", "etcd") == {"before": "sqlite", "now": "etcd"}
    for part in reversed(stopped):
        runfiles.kill(part, signal.SIGCONT)
    wait_for(lambda: gateways(first, second), lambda found: found == [True, True], "both have gateways", 60)
    wait_for(lambda: generation(first), lambda found: found == generation(second), "both ask the same etcd", 30)
    assert first.unios("run", "--on", "s1", "--", "echo", "said").stdout == b"said\n"


def test_one_whose_gateway_comes_back_by_itself_to_an_etcd_that_is_gone_hears_where_the_store_is(two: tuple[System, System]) -> None:
    first, second = two
    stopped = moved_while_the_first_stands_still(first, second)
    wait_for(lambda: etcds(second), lambda found: not found, "the second has no member", 20)
    others = parts_of(second, "s1")
    for part in others:
        runfiles.kill(part, signal.SIGSTOP)
    for part in reversed(stopped):
        runfiles.kill(part, signal.SIGCONT)
    wait_for(lambda: gateways(first), lambda found: found == [True], "the first has lost sight of it", 40)
    for part in reversed(others):
        runfiles.kill(part, signal.SIGCONT)
    wait_for(lambda: engine(first), lambda found: found == "sqlite", "it hears of it", 40)
    wait_for(lambda: first.unios("run", "--on", "n1", "--", "true", check=False).returncode, lambda code: code == 0, "programs run", 40)


def anew(system: System, pid: int) -> None:
    """Stop all of it and start it again: it knows what it did."""
    system.unios("down", "--all")
    system.unios("up")
    assert system.unios("run", "--", "echo", "still").stdout == b"still\n"
    assert pid in {one["pid"] for one in system.json("ps", "-a")}


@pytest.mark.parametrize("part", ["store", "kernel"])
@pytest.mark.parametrize(("source", "to", "waits_s"), [("sqlite", "etcd", (0.2, 0.5, 0.7, 0.9)), ("etcd", "sqlite", (0.05, 0.08, 0.11, 0.15))])
def test_whatever_is_killed_meanwhile_one_store_is_in_force_and_processes_go_on(
    system: System, part: str, source: str, to: str, waits_s: tuple[float, ...]
) -> None:
    system.unios("up", "--nodes", "2", *(("--store", "etcd") if source == "etcd" else ()))
    stays = system.run_detached("sleep", "1000", options=("--on", "n2"))
    for wait_s in waits_s:
        moving = system.start("--node", "n1", "store", "move", to)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and moving.poll() is None:
            time.sleep(0.01)
        folder = next(f for f in ("n1", "n2") if part == "kernel" or (system.home / "home" / "nodes" / f / "run" / "store.json").exists())
        running = runfiles.read(system.home / "home" / "nodes" / folder / "run" / f"{part}.json")
        assert running is not None
        runfiles.kill(running, signal.SIGKILL)
        moving.wait(60)
        wait_for(lambda: system.unios("run", "--", "true", check=False).returncode, lambda code: code == 0, "programs run", 30)
        found = wait_for(lambda: system.process(stays), lambda one: one["state"] != "pending", "that it runs is recorded", 10)
        assert (found["state"], found["incarnation"]) == ("running", 1)
    system.unios("--node", "n1", "store", "move", to)
    assert engine(system) == to and system.json("store", "move", to)["before"] == to
    assert system.unios("--node", "n2", "run", "--", "echo", "said").stdout == b"said\n"
    assert system.process(stays)["incarnation"] == 1
    if to == "sqlite":
        wait_for(lambda: etcds(system), lambda found: not found, "no member is left", 10)
    anew(system, stays)
