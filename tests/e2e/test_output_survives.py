"""What programs have said is there after their node is gone."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import test_ordinary_member
from tests.e2e.system import System, wait_for
from tests.e2e.test_logs import everything, with_kernel
from unios.client.aio import Kernel
from unios.core.processes import process_key
from unios.errors import Compacted
from unios.services.archive import Archive
from unios.store.client import StoreClient

MARK = "the last words"


def archived(system: System, node: str) -> bytes:
    """Return what all nodes have of that node's log."""
    return b"".join(path.read_bytes() for path in (system.home / "home" / "nodes").glob(f"*/logs/*/output-{node}/*.log"))


def wait_archived(system: System, node: str, mark: str, copies: int = 2) -> None:
    wait_for(lambda: archived(system, node).count(mark.encode()), lambda count: count >= copies, f"{mark!r} is kept", 20)


def lose(system: System, node: str) -> None:
    """Let a node die, and its disk with it."""
    system.power_cut(node)
    wait_for(lambda: system.nodes()[node]["state"], lambda state: state == "lost", f"{node} is lost", 20)
    shutil.rmtree(system.home / "home" / "nodes" / node / "trees")


def service_of(system: System, node: str) -> int:
    """Return the Linux pid of the archive service, 0 while there is none."""
    with contextlib.suppress(FileNotFoundError):
        return int(json.loads((system.home / "home" / "nodes" / node / "run" / "archive.json").read_bytes())["pid"])
    return 0


def parts(system: System, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in system.unios("logs", "--json", *words).stdout.splitlines()]


def test_output_survives_its_node_and_so_does_that_of_an_incarnation_that_is_over(fresh: System) -> None:
    script = f"echo begun; echo odd >&2; seq 1 100000; echo {MARK}"
    ended = fresh.run_detached("sh", "-c", script, options=("--on", "n3", "--restart", "never"))
    moves = fresh.run_detached("sh", "-c", f"echo $UNIOS_NODE: {MARK}; exec sleep 1000", options=("--not-on", "n1", "--not-on", "n2"))
    fresh.unios("wait", str(ended))
    wait_archived(fresh, "n3", MARK, 4)
    before = fresh.unios("logs", str(ended))
    assert before.stdout.startswith(b"begun\n1\n2\n") and before.stdout.endswith(f"99999\n100000\n{MARK}\n".encode()) and before.stderr == b"odd\n"
    lose(fresh, "n3")
    after = fresh.unios("logs", str(ended))
    assert (after.stdout, after.stderr) == (before.stdout, before.stderr)
    assert fresh.unios("logs", "-f", str(ended)).stdout == before.stdout
    assert fresh.unios("logs", "-n", "1", "--stdout", str(ended)).stdout == f"{MARK}\n".encode()
    said = parts(fresh, str(ended))
    assert {part["lost"] for part in said} == {0} and said[0]["offset"] == 0 and {part["incarnation"] for part in said} == {1}
    assert fresh.process(moves)["state"] == "pending" and fresh.unios("logs", str(moves)).stdout == b""  # it waits for a node that it may run on
    assert fresh.unios("logs", "--incarnation", "1", str(moves)).stdout == f"n3: {MARK}\n".encode()


def test_the_output_of_the_incarnation_before_is_had_by_its_number(fresh: System) -> None:
    pid = fresh.run_detached("sh", "-c", f"cat /proc/sys/kernel/random/uuid; echo {MARK}; exec sleep 1000", options=("--not-on", "n1"))
    node = fresh.wait_process(pid, lambda p: p["state"] == "running", "runs")["node"]
    wait_archived(fresh, node, MARK)
    first = fresh.unios("logs", str(pid)).stdout
    lose(fresh, node)
    fresh.wait_process(pid, lambda p: p["state"] == "running" and p["incarnation"] == 2, "runs again")
    second = wait_for(lambda: fresh.unios("logs", str(pid)).stdout, lambda said: MARK.encode() in said, "it has said something")
    assert second != first and fresh.unios("logs", "--incarnation", "1", str(pid)).stdout == first
    assert fresh.unios("logs", "--incarnation", "2", str(pid)).stdout == second
    for words, text in ((["--incarnation", "3"], b"is at incarnation 2"), (["--incarnation", "1", "-f"], b"neither with -f")):
        refused = fresh.unios("logs", *words, str(pid), check=False)
        assert refused.returncode == 2 and text in refused.stderr


def test_nothing_is_lost_or_doubled_when_the_service_is_killed_and_a_node_that_keeps_copies_dies(fresh: System) -> None:
    script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i; sleep 0.02; done"
    pid = fresh.run_detached("sh", "-c", script, options=("--on", "n1", "--restart", "never"))
    killed = {0}
    for _ in range(3):
        wait_archived(fresh, "n1", "line")
        service = wait_for(lambda: service_of(fresh, "n1"), lambda now: now not in killed, "the service is there")
        os.kill(service, signal.SIGKILL)
        killed.add(service)
    keeper = next(name for name in ("n2", "n3") if (fresh.home / "home" / "nodes" / name / "logs").exists())
    fresh.power_cut(keeper)
    fresh.unios("wait", str(pid))
    other = {"n2": "n3", "n3": "n2"}[keeper]
    logs = fresh.home / "home" / "nodes" / other / "logs"
    wait_for(lambda: b"".join(path.read_bytes() for path in logs.rglob("*.log")), lambda kept: b"line 400\n" in kept, "the other one has it", 30)
    fresh.power_cut("n1")
    wait_for(lambda: json.loads(fresh.unios("--node", other, "nodes", "--json").stdout), lambda nodes: nodes[0]["state"] == "lost", "n1 is lost")
    said = fresh.unios("--node", other, "logs", str(pid)).stdout
    assert said == b"".join(b"line %d\n" % number for number in range(1, 401))


@pytest.mark.skipif(bool(test_ordinary_member.missing()), reason=test_ordinary_member.missing())
def test_what_one_user_has_said_another_one_does_not_read(fresh: System) -> None:
    pid = fresh.run_detached("echo", MARK, options=("--on", "n3", "--restart", "never"))
    wait_archived(fresh, "n3", MARK)
    lose(fresh, "n3")
    assert fresh.unios("logs", str(pid)).stdout == f"{MARK}\n".encode()
    fresh.home.chmod(0o711)
    env = {**test_ordinary_member.environment(Path("/")), "UNIOS_HOME": fresh.env["UNIOS_HOME"]}
    python = test_ordinary_member.interpreter()
    assert test_ordinary_member.run([python, "-m", "unios", "--node", "n1", "logs", str(pid)], env=env).returncode == 77
    code = f"from unios.client import archive, connection; print(list(archive.output(connection.Connection(None, 'n1'), {pid})))"
    done = test_ordinary_member.run([python, "-c", code], env=env)  # past the kernel, which refuses it first
    assert done.returncode and not done.stdout and b"is root's, and so is what it has said" in done.stderr


def test_where_there_is_one_node_nothing_is_copied(tmp_path: Path) -> None:
    with System() as system:
        system.unios("up")
        pid = system.run_detached("echo", MARK)
        system.unios("wait", str(pid))
        assert not (system.home / "home" / "nodes" / "n1" / "run" / "archive.wanted").exists()
        assert system.unios("logs", str(pid)).stdout == f"{MARK}\n".encode()


def test_of_a_node_that_has_left_it_is_kept_as_long_as_its_processes_records(fresh: System) -> None:
    pid = fresh.run_detached("echo", MARK, options=("--on", "n3", "--restart", "never"))
    wait_archived(fresh, "n3", MARK)
    lose(fresh, "n3")
    fresh.unios("leave", "--dead", "n3")
    shutil.rmtree(fresh.home / "home" / "nodes" / "n3")

    async def tidy(kernel: Kernel) -> None:
        await Archive(kernel)._tidy()

    async def forget(kernel: Kernel) -> None:
        await StoreClient(lambda: kernel.connect("store")).delete(process_key(pid))

    with_kernel(fresh, "n1", tidy)
    assert fresh.unios("logs", str(pid)).stdout == f"{MARK}\n".encode()
    with_kernel(fresh, "n1", forget)
    with_kernel(fresh, "n1", tidy)
    with pytest.raises(Compacted):  # each replica keeps its last file, of 16 MiB at most
        with_kernel(fresh, "n1", lambda kernel: everything(kernel, "output-n3"))
    with_kernel(fresh, "n1", tidy)  # once more does no harm
