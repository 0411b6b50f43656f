"""A node's folder was copied, and the copy is started: the first stays, the other one is told; nothing is lost and nothing runs twice."""

import shutil
from pathlib import Path

from tests.e2e.homes import join, links
from tests.e2e.system import System, wait_for

LIVE = ("exits", "beats", "lease", "trees", "spares", "cgroup")
"""What is of the kernel and the programs that run; `cgroup` names groups of this Linux, which on another machine there are none of."""


def copy(system: System, other: System) -> None:
    """Copy a UNIOS_HOME as it is on the disk; not what says which Linux processes run, which on another machine are no such processes."""
    old, new = Path(system.env["UNIOS_HOME"]), Path(other.env["UNIOS_HOME"])

    def left_out(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).name == "run"
        return {name for name in names if name.endswith("sock") or name in LIVE or (inside and name != "lease.json")}

    shutil.copytree(old, new, ignore=left_out)


def test_the_copy_of_a_member_is_kept_out_and_told_why() -> None:
    with System() as first, System() as second, System() as third:
        first.unios("up")
        join(first, second, "n2")
        pid = first.run_detached("sleep", "4714", options=("--on", "n2"))
        first.wait_process(pid, lambda one: one["state"] == "running", "runs")
        before = first.nodes()["n2"]["incarnation"]
        copy(second, third)

        told = third.unios("up", check=False)
        text = told.stderr.decode()
        assert told.returncode == 75 and "the identity of n2 is there already, in another place: was its folder copied?" in text, text
        assert text.count("\n") <= 2

        assert (first.nodes()["n2"]["state"], first.nodes()["n2"]["incarnation"]) == ("ready", before)
        assert links(first)["n2"].up
        one = first.process(pid)
        assert (one["state"], one["node"], one["incarnation"]) == ("running", "n2", 1), one["reason"]

        # Once the first has stopped in order the copy may be it: the identity is one, wherever it is.
        first.unios("kill", str(pid))
        second.unios("down", "--all")
        third.unios("up")
        wait_for(lambda: first.nodes()["n2"]["state"], lambda state: state == "ready", "the copy is n2 by now")
        again = second.unios("up", check=False)
        assert again.returncode == 75 and b"in another place" in again.stderr, again.stderr
