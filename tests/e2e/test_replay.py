"""A real run, recorded and replayed through core/: the deciders order the same again."""

import os
import signal

from tests.e2e.system import System, wait_for
from unios.core.journal import replay


def test_a_recorded_run_replays_to_the_same_orders() -> None:
    system = System()
    try:
        system.unios("up", "--nodes", "2")
        system.unios("down", "--all")
        nodes = system.home / "home" / "nodes"
        for name in ("n1", "n2"):
            (nodes / name / "journal").mkdir()
        system.unios("up")
        pid = system.run_detached("sleep", "1000")
        home = system.wait_process(pid, lambda p: p["state"] == "running", "runs")["node"]
        kernel = system.nodes()[home]["kernel_pid"]
        os.kill(kernel, signal.SIGKILL)
        wait_for(lambda: system.nodes()[home], lambda n: n["kernel_pid"] not in (0, kernel) and n["state"] == "ready", "the kernel is back")
        system.power_cut(home)
        system.wait_process(pid, lambda p: p["state"] == "running" and p["incarnation"] == 2, "runs again")
        system.unios("down", "--all")
        deciders: set[str] = set()
        for path in nodes.glob("*/journal/*"):
            lines = path.read_bytes().splitlines()
            if lines and not path.read_bytes().endswith(b"\n"):
                lines.pop()  # the power was cut in the middle of it
            agreed, difference = replay(lines)
            assert difference is None, (path, difference)
            assert agreed == len(lines)
            deciders.update(line.split(b'"decider":')[1].split(b'"')[1].decode() for line in lines)
        assert deciders == {"holding", "membership", "supervision", "fencing"}
    finally:
        system.close()


def test_a_replay_that_differs_is_told() -> None:
    line = b'{"decider":"fencing","id":"1.1","made":["replace",1],"event":["Tick",{"now_ns":5}],"orders":[]}'
    agreed, difference = replay([line])
    assert agreed == 0 and difference is not None and difference.orders == [["Freeze", {"by_lease": True}]]
