"""Down: stops nodes and takes away what is left of them: processes, frozen cgroups, sockets. Works on files and pids alone.

For `unios down` after the kernels were asked politely, for what a kill -9 left behind, and for a start that failed half way.
"""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any, Final

from unios.errors import NodeUnknown
from unios.kernel import linux_pids, mount_records, runfiles
from unios.kernel.beats import BEATERS
from unios.wire.home import Home, NodeFolder

STOP_S: Final = 12.0
"""How long supervisors have, all together, to stop their parts before everything is killed."""
KILL_S: Final = 5.0
"""How long what was killed may take to be gone."""


def down(home: Home, node: str | None, say: Callable[..., None]) -> int:
    """Stop the machine's node of that name, or with None all of them. Idempotent."""
    folders = home.nodes() if node is None else [home.node(node)]
    if node is not None and not folders[0].node_file.exists():
        raise NodeUnknown(f"this machine has no node {node}")
    stop(folders)
    for folder in folders:
        say(stopped=folder.name)
    return 0


def stop(folders: list[NodeFolder]) -> None:
    """Stop nodes side by side: their supervisors end what is theirs, and what is left after STOP_S is killed. Idempotent."""
    supervisors = _parts(folders, ("supervisor",))
    for running in supervisors:
        runfiles.kill(running, signal.SIGTERM)
    runfiles.wait_all_gone(supervisors, STOP_S)
    kill(folders)


def kill(folders: list[NodeFolder]) -> None:
    """Kill what is left of nodes. The supervisors go first, then the guards, so that nothing is started again."""
    for names in (BEATERS[:1], ("guard",), BEATERS):
        found = _parts(folders, names)
        for running in found:
            runfiles.kill(running, signal.SIGKILL)
        runfiles.wait_all_gone(found, KILL_S)
        for folder in folders:  # a kernel that sees neither supervisor nor guard would start one, if they had not ended in order
            runfiles.remove(folder.run / "supervisor.json")
    _thaw(folders)
    children = linux_pids.parents()
    for pid in [pid for folder in folders for pid in linux_pids.of_node(folder, children)]:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    _thaw(folders)
    for folder in folders:
        mount_records.take_away(folder)
        _tidy(folder)


def _parts(folders: list[NodeFolder], names: Iterable[str]) -> list[runfiles.Running]:
    found = [runfiles.read(folder.run / f"{name}.json") for folder in folders for name in names]
    return [running for running in found if running is not None]


def _tidy(folder: NodeFolder) -> None:
    for file in (folder.door, folder.guard_door, folder.exits, folder.ready):
        runfiles.remove(file)
    for name in BEATERS:
        runfiles.remove(folder.run / f"{name}.json")


def _thaw(folders: list[NodeFolder]) -> None:
    """A frozen cgroup of version 1 does not even die: let it go, and remove what is empty."""
    from unios.kernel import freezer

    freezer.sweep(*(folder.path for folder in folders))


def describe(folder: NodeFolder) -> dict[str, Any]:
    """Return the node's own file; empty if there is none."""
    try:
        fields = json.loads(folder.node_file.read_text())
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}
