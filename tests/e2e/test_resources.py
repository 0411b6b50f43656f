"""Resources as a person meets them: out of memory with figures, devices for one at a time, counts before and after."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.system import UNIOS, System, wait_for
from unios.client.connection import Connection
from unios.wire.operations import NodeInfo

ROOT = os.geteuid() == 0
MIB = 1 << 20


def groups(system: System) -> list[str]:
    """Return every control group of the system's nodes, in every hierarchy."""
    found = []
    for file in (system.home / "home/nodes").glob("*/cgroup"):
        for _version, path in json.loads(file.read_text()):
            found += [folder for folder, _folders, _files in os.walk(path)]
    return found


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    made = System()
    try:
        made.unios("up", "--nodes", "2")
        yield made
    finally:
        left: list[str] = []
        files = {file: json.loads(file.read_text()) for file in (made.home / "home/nodes").glob("*/cgroup")}
        made.close()
        for places in files.values():
            left += [path for _version, path in places if os.path.exists(path)]
        assert not left


def bounded(system: System, kind: str) -> None:
    if kind not in next(one["found"] for one in system.json("doctor") if one["check"] == "node n1").split(", namespaces")[0]:
        pytest.skip(f"nothing bounds {kind} here")


GRAB = f"x = bytearray({200 * MIB})"


def test_out_of_memory_is_named_with_figures(system: System) -> None:
    bounded(system, "memory")
    done = system.unios("run", "--memory", "64M", "--", sys.executable, "-c", GRAB, check=False)
    assert done.returncode == 137
    assert b"out of memory: it had used 64 MiB of the 64 MiB that it asked for (killed by Linux)" in done.stderr
    view = system.json("ps", "-a")[-1]
    assert view["usage"]["memory_peak_bytes"] == 64 * MIB
    assert any(event["kind"] == "oom" and event["pid"] == view["pid"] for event in system.json("events"))


def test_a_program_that_goes_on_when_its_child_ran_out_of_memory_is_told_of_while_it_lives(system: System) -> None:
    bounded(system, "memory")
    script = f"{sys.executable} -c '{GRAB}'; exec sleep 1000"
    pid = system.run_detached("sh", "-c", script, options=("--memory", "64M"))
    said = "out of memory: Linux killed a process of its tree, not its program; it had used 64 MiB of the 64 MiB that it asked for"
    view = system.wait_process(pid, lambda seen: said == seen["reason"], "tells it")
    assert view["state"] == "running" and f"({said})".encode() in system.unios("ps").stdout
    [event] = [event for event in system.json("events", "--each") if event["kind"] == "oom" and event["pid"] == pid]
    assert said in event["text"]
    system.unios("kill", "-9", str(pid))
    assert said in system.wait_process(pid, lambda seen: seen["state"] == "exited", "has ended")["reason"]


def test_what_was_used_is_in_the_record_and_in_the_sums_of_its_user(system: System) -> None:
    script = "import time\nwhile time.process_time() < 0.3: pass"
    before = {row["user"]: row["cpu_ms"] for row in system.json("usage")}
    pid = system.run_detached(sys.executable, "-c", script)
    system.unios("wait", str(pid))
    used = system.process(pid)["usage"]["cpu_ms"]
    assert 300 <= used < 3_000
    after = {row["user"]: row["cpu_ms"] for row in system.json("usage")}
    user = system.process(pid)["user"]
    assert after[user] - before.get(user, 0) >= used


def test_bad_requests_are_told_so(system: System) -> None:
    for words in (("--memory", "5"), ("--memory", "lots"), ("--cpus", "x"), ("--cpus-max", "0"), ("--device", "GPU"), ("--tasks", "1")):
        done = system.unios("run", *words, "--", "true", check=False)
        assert done.returncode == 2 and words[0].encode() in done.stderr


def test_what_asks_for_a_device_that_no_node_has_waits_and_the_reason_names_it(system: System) -> None:
    pid = system.run_detached("true", options=("--device", "/dev/ttyUSB77"))
    waits = system.wait_process(pid, lambda seen: "/dev/ttyUSB77" in seen["reason"], "says for what it waits")
    assert waits["state"] == "pending"
    system.unios("kill", str(pid))


OWN_DEV = """
mkdir -p {top}/dev && mount -t tmpfs none {top}/dev && cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx {top}/dev
mkdir {top}/dev/pts {top}/dev/shm && mount --rbind /dev/pts {top}/dev/pts && mount --rbind /dev/shm {top}/dev/shm
mknod {top}/dev/ttyUSB0 c 188 200 && mknod {top}/dev/ttyUSB1 c 188 201 && mount --rbind {top}/dev /dev
exec "$@"
"""


@pytest.fixture
def ports() -> Iterator[System]:
    """Two nodes on a machine whose /dev has two serial ports; in a mount namespace of its own."""
    if not ROOT:
        pytest.skip("needs root to make devices")
    made = System()
    up = ["unshare", "-m", "--propagation", "private", "sh", "-c", OWN_DEV.format(top=made.home), "sh", UNIOS, "up", "--nodes", "2"]
    try:
        done = subprocess.run(up, env=made.env, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        if b"Operation not permitted" in done.stderr:
            pytest.skip("devices cannot be made here")
        assert done.returncode == 0, done.stderr
        yield made
    finally:
        made.close()


def test_a_device_is_one_process_s_alone_until_it_ends_whatever_becomes_of_the_kernels(ports: System) -> None:
    assert len(ports.json("devices")) == 4  # of two nodes of one machine
    show = ("sh", "-c", "echo $UNIOS_DEVICES; exec sleep 1000")

    def had(pid: int) -> str:
        return wait_for(lambda: ports.unios("logs", str(pid)).stdout.decode(), bool, f"{pid} tells its device").strip()

    first, second = (ports.run_detached(*show, options=("--device", "serial", "--on", node)) for node in ("n1", "n2"))
    assert {had(first), had(second)} == {"/dev/ttyUSB0", "/dev/ttyUSB1"}
    for pid in (first, second):
        inside = ports.unios("exec", str(pid), "sh", "-c", "echo $UNIOS_DEVICES")
        assert inside.stdout.decode().strip() == had(pid)
    for node in ports.nodes().values():
        os.kill(node["kernel_pid"], signal.SIGKILL)
    third = ports.run_detached(*show, options=("--device", had(first), "--on", "n2"))
    fourth = ports.run_detached("true", options=("--device", had(second), "--on", "n1"))
    assert {ports.process(pid)["state"] for pid in (third, fourth)} == {"pending"}
    ports.unios("kill", str(first))
    ports.wait_process(third, lambda seen: seen["state"] == "running", "gets the device that is free now")
    assert had(third) == had(first)
    assert ports.process(fourth)["state"] == "pending"
    assert Path("/dev/ttyUSB0").exists() is False


def test_a_device_is_kept_from_who_was_not_given_it(ports: System) -> None:
    with Connection(Path(ports.env["UNIOS_HOME"])) as connection:
        if "devices" not in connection.ask("node.info", None, NodeInfo).bounded:
            pytest.skip("no control group keeps devices from processes here")

    def opened(*words: str) -> list[str]:
        """Open each serial port, and /dev/null; return what went wrong. No driver is behind the ports: who may open one is told that."""
        script = "for d in ttyUSB0 ttyUSB1 null; do (: < /dev/$d) 2>&1 || true; done"
        return [line.rpartition(": ")[2] for line in ports.unios(*words, "sh", "-c", script).stdout.decode().splitlines()]

    denied, nobody = "Operation not permitted", "No such device or address"
    assert opened("run", "--on", "n1", "--") == [denied, denied]
    assert opened("run", "--on", "n1", "--device", "/dev/ttyUSB1", "--") == [denied, nobody]
    assert opened("run", "--on", "n2", "--device", "serial:2", "--") == [nobody, nobody]
    pid = ports.run_detached("sleep", "1000", options=("--device", "/dev/ttyUSB0", "--on", "n1"))
    assert "cannot keep" not in ports.process(pid)["reason"]
    assert opened("exec", str(pid)) == [nobody, denied]
    assert opened("run", "--on", "n1", "--") == [denied, denied]
