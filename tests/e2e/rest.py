"""Two nodes that every test must leave with what they had at rest: processes, control groups, mounts, descriptors."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.system import System, wait_for
from tests.e2e.test_resources import groups


@contextlib.contextmanager
def two_nodes() -> Iterator[System]:
    with System() as system:
        system.unios("up", "--nodes", "2")
        for node in ("n1", "n2"):  # with the first process that says something there the service begins that copies what is said
            system.unios("run", "--on", node, "echo", "first words")
        wait_for(lambda: list((system.home / "home" / "nodes").glob("*/logs/*/*/*.log")), lambda copies: len(copies) == 4, "copies are kept")
        yield system


def counts(system: System) -> dict[str, Any]:
    """Return what the nodes hold at rest; their spares are a part of it."""
    nodes = system.nodes()
    kernels = [node["kernel_pid"] for node in nodes.values()]
    return {
        "processes": sum(len(node["pids"]) for node in nodes.values()),
        "groups": len(groups(system)),
        "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
        "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in kernels),
    }


@contextlib.contextmanager
def even(system: System, timeout: float = 20) -> Iterator[None]:
    """What was there before is there after, and no more.

    A node at rest may have an init that waits for another tree, or not, if the machine was too busy for it to be ready in time: before is the most of three.
    """
    before = dict[str, Any]()
    for _ in range(3):
        system.unios("run", "--on", "n1", "true")
        seen = wait_for(lambda: [counts(system) for _ in range(3)], lambda seen: seen[0] == seen[1] == seen[2], "the nodes are at rest")[0]
        before = {name: max(figure, before.get(name, 0)) for name, figure in seen.items()}
    yield
    wait_for(lambda: counts(system), lambda now: all(now[name] <= before[name] for name in before), f"no more is left than {before}", timeout)
