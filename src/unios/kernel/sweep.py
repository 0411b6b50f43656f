"""Down: stops nodes and takes away what is left of them: processes, frozen cgroups, sockets. Works on files and pids alone.

For `unios down` after the kernels were asked politely, for what a kill -9 left behind, and for a start that failed half way.
"""

import contextlib
import json
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from unios.errors import NotFound
from unios.kernel import linux_pids, runfiles
from unios.kernel.beats import BEATERS
from unios.wire.home import Home, NodeFolder

STOP_S: Final = 12.0
"""How long a supervisor has to stop its parts before everything is killed."""


def down(home: Home, node: str | None, say: Callable[..., None]) -> int:
    """Stop the machine's node of that name, or with None all of them. Idempotent."""
    folders = home.nodes() if node is None else [home.node(node)]
    if node is not None and not folders[0].node_file.exists():
        raise NotFound(f"this machine has no node {node}")
    supervisors = [(folder, runfiles.read(folder.run / "supervisor.json")) for folder in folders]
    for _folder, running in supervisors:
        if running is not None:
            runfiles.kill(running, signal.SIGTERM)
    for folder, running in supervisors:
        if running is not None:
            runfiles.wait_gone(running, STOP_S)
        stop_node(folder)
        say(stopped=folder.name)
    return 0


def stop_node(folder: NodeFolder) -> None:
    """Kill what is left of a node. The supervisor goes first, so that nothing is started again."""
    for name in BEATERS:
        _kill(folder, name)
    _thaw(folder)
    for pid in linux_pids.of_node(folder):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    _thaw(folder)
    for file in (folder.door, folder.guard_door, folder.exits, folder.ready):
        runfiles.remove(file)
    for name in BEATERS:
        runfiles.remove(folder.run / f"{name}.json")


def _kill(folder: NodeFolder, name: str) -> None:
    running = runfiles.read(folder.run / f"{name}.json")
    if running is not None and runfiles.kill(running, signal.SIGKILL):
        runfiles.wait_gone(running, 5.0)


def _thaw(folder: NodeFolder) -> None:
    """A frozen cgroup of version 1 does not even die: let it go, and remove what is empty."""
    from unios.kernel import freezer

    freezer.sweep(folder.path)


def describe(folder: NodeFolder) -> dict[str, Any]:
    """Return the node's own file; empty if there is none."""
    try:
        fields = json.loads(folder.node_file.read_text())
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}
