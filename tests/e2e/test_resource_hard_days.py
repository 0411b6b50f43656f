"""Programs that a node has to live through. What there was before is counted, and again after: processes, control groups, mounts, descriptors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import rest
from tests.e2e.system import System, nice_values, wait_for
from tests.e2e.test_resources import bounded

ROOT = os.geteuid() == 0
NOBODY = "nobody"


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with rest.two_nodes() as made:
        yield made


@pytest.fixture
def even(system: System) -> Iterator[None]:
    with rest.even(system):
        yield


def end(system: System, pid: int) -> dict[str, Any]:
    system.unios("kill", "-s", "KILL", str(pid))
    return system.wait_process(pid, lambda seen: seen["state"] == "exited", "has ended")


FORKS = """
import os, sys, time
done = 0
for _ in range(int(sys.argv[1])):
    try:
        if os.fork() == 0:
            time.sleep(1000)
            os._exit(0)
        done += 1
    except OSError as error:
        print("refused", error.errno, flush=True)
        break
print("children", done, flush=True)
time.sleep(1000)
"""


def output(system: System, pid: int) -> str:
    return system.unios("logs", str(pid)).stdout.decode()


def test_a_program_that_forks_more_than_it_may_is_refused_and_nobody_else_is(system: System, even: None) -> None:
    bounded(system, "pids")
    pid = system.run_detached(sys.executable, "-S", "-c", FORKS, "10000", options=("--on", "n1", "--tasks", "600"))
    said = wait_for(lambda: output(system, pid), lambda text: "children" in text, "it has forked", 60)
    assert "refused 11" in said and 590 <= int(said.split()[-1]) < 600
    assert system.unios("run", "--on", "n1", "echo", "here").stdout == b"here\n"
    assert end(system, pid)["exit_code"] == 137


BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


def test_a_program_that_never_stops_forking_leaves_its_node_at_work(system: System, even: None) -> None:
    bounded(system, "pids")
    pid = system.run_detached(sys.executable, "-S", "-c", BOMB, options=("--on", "n1", "--cpus", "0", "--tasks", "200"))
    usage = wait_for(lambda: system.unios("ps", "--usage", "--json").returncode, lambda code: code == 0, "ps answers")
    assert usage == 0
    for _ in range(3):
        assert system.unios("run", "--on", "n1", "echo", "here").stdout == b"here\n"
    assert all(node["state"] == "ready" for node in system.nodes().values())
    assert end(system, pid)["exit_code"] == 137


REPENTS = """
import os, sys, time
program, until = os.getpid(), time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    try:
        os.fork()
    except OSError:
        pass
if os.getpid() != program:
    os._exit(0)
time.sleep(1000)
"""


def test_a_program_that_forks_against_its_bound_is_slowed_down_until_it_stops_that(system: System, even: None) -> None:
    """Else nothing starts or ends on the machine once something else starts programs too: decision 0053."""
    bounded(system, "pids")
    pid = system.run_detached(sys.executable, "-S", "-c", REPENTS, "12", options=("--on", "n1", "--cpus", "0", "--tasks", "300"))

    def told() -> list[str]:
        return [event["text"] for event in system.json("events") if event["pid"] == pid and event["kind"] == "limit"]

    (text,) = wait_for(told, lambda found: bool(found), "it is told", 30)
    assert "slowed down" in text and "bound of 300 Linux processes" in text and f"unios kill {pid}" in text
    assert "slowed down" in system.process(pid)["reason"]
    system.unios("freeze", str(pid))
    assert system.process(pid)["state"] == "frozen"
    system.unios("thaw", str(pid))
    assert system.unios("run", "--on", "n1", "echo", "here").stdout == b"here\n"
    wait_for(told, lambda found: "no longer slowed down" in found[-1], "it has stopped", 60)
    wait_for(lambda: system.process(pid), lambda seen: seen["reason"] == "" and seen["state"] == "running", "it runs as any other")
    assert end(system, pid)["exit_code"] == 137


def test_parts_go_before_programs_where_linux_allows_it(system: System, even: None) -> None:
    pid = system.run_detached("sleep", "98765", options=("--on", "n1"))
    wait_for(lambda: nice_values("98765"), lambda found: found == {0}, "the program is as any other")
    home = system.home / "home" / "nodes" / "n1" / "run"
    parts = {name: json.loads((home / f"{name}.json").read_text())["pid"] for name in ("supervisor", "kernel", "guard", "recovery")}
    may = subprocess.run([sys.executable, "-c", "import os; os.setpriority(os.PRIO_PROCESS, 0, -10)"], stderr=subprocess.DEVNULL, check=False)
    first = -10 if may.returncode == 0 else 0
    assert {name: os.getpriority(os.PRIO_PROCESS, part) for name, part in parts.items()} == {
        "supervisor": first,
        "kernel": first,
        "guard": 0,
        "recovery": 0,
    }
    assert end(system, pid)["exit_code"] == 137


def test_a_program_that_ignores_everything_ends_of_sigkill_alone(system: System, even: None) -> None:
    deaf = "import signal, time\nfor n in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(n, signal.SIG_IGN)\n"
    pid = system.run_detached(sys.executable, "-c", f"{deaf}print('deaf', flush=True)\nwhile True: time.sleep(1000)")
    wait_for(lambda: output(system, pid), lambda text: "deaf" in text, "it ignores all signals")
    for name in ("TERM", "HUP", "INT", "QUIT", "USR1"):
        system.unios("kill", "-s", name, str(pid))
    assert system.process(pid)["state"] == "running"
    assert end(system, pid)["exit_code"] == 137


def test_a_daemon_that_double_forked_and_left_its_session_ends_with_its_process(system: System, even: None) -> None:
    mark = f"3{int(time.time() * 1000) % 10**9}"
    script = f"( setsid sh -c '( setsid sleep {mark} ) & exit 0' ) </dev/null >/dev/null 2>&1 &\nsleep 0.3; echo $$"
    assert system.unios("run", "--", "sh", "-c", script).returncode == 0
    alive = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and mark.encode() in _cmdline(entry)]
    assert not alive


def _cmdline(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.skipif(not ROOT, reason="needs root to make a setuid program")
def test_a_setuid_program_is_counted_and_ended_like_any_other(system: System, even: None) -> None:
    system.home.chmod(0o711)
    tool = system.home / "tool"
    shutil.copy("/bin/sh", tool)
    tool.chmod(0o4755)
    pid = system.run_detached(str(tool), "-p", "-c", "id -u; while :; do sleep 1000; done", options=("--user", NOBODY, "--cwd", "/"))
    wait_for(lambda: output(system, pid), lambda text: text == "0\n", "it runs as root")
    assert end(system, pid)["exit_code"] == 137


def test_binary_output_comes_as_it_was_written(system: System, even: None) -> None:
    script = "import os, sys, random\nsys.stdout.buffer.write(random.Random(7).randbytes(3_000_000) + bytes(range(256)))"
    import random

    expected = random.Random(7).randbytes(3_000_000) + bytes(range(256))
    assert system.unios("run", "--on", "n2", "--", sys.executable, "-c", script).stdout == expected


def test_an_init_killed_in_the_middle_leaves_no_group(system: System, even: None) -> None:
    pid = system.run_detached("sleep", "1000", options=("--on", "n1", "--restart", "never", "--memory", "64M"))
    system.wait_process(pid, lambda seen: seen["state"] == "running", "runs")
    import json

    (tree,) = (system.home / "home/nodes/n1/trees").glob(f"{pid}.*")
    os.kill(json.loads((tree / "tree.json").read_text())["init_pid"], signal.SIGKILL)
    system.wait_process(pid, lambda seen: seen["state"] == "lost", "is lost")
