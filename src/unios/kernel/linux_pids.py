"""Which Linux processes belong to a node: everything that a power cut of it would take.

Found again each time from run files and /proc, so that nothing has to be remembered: the parts of the node, and all descendants of
theirs and of the inits of its trees.
"""

import asyncio
import json
import os
from pathlib import Path

from unios.kernel import runfiles
from unios.kernel.beats import BEATERS
from unios.wire.home import NodeFolder

AT_ONCE = 256


def parents() -> dict[int, list[int]]:
    """Return the children of every process of this machine."""
    return _children(os.listdir("/proc"))


async def parents_in_turns() -> dict[int, list[int]]:
    """Do the same without holding up the loop: where a program has forked ten thousand children this takes most of a second."""
    names, children = os.listdir("/proc"), dict[int, list[int]]()
    for start in range(0, len(names), AT_ONCE):
        for parent, found in _children(names[start : start + AT_ONCE]).items():
            children.setdefault(parent, []).extend(found)
        await asyncio.sleep(0)
    return children


def _children(names: list[str]) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for name in names:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    stat = file.read().rsplit(b")", 1)[1].split()
            except (OSError, IndexError):
                continue
            if stat[0] not in b"ZX":
                children.setdefault(int(stat[1]), []).append(int(name))
    return children


def roots(folder: NodeFolder) -> list[int]:
    """Return the pids of the node's parts and of its trees' inits, those that are alive."""
    found = [running.pid for name in BEATERS if (running := runfiles.read(folder.run / f"{name}.json"))]
    try:
        trees = list(folder.trees.iterdir())
    except FileNotFoundError:
        trees = []
    for tree in trees:
        try:
            if (tree / "exit.json").exists():
                continue  # all of it is dead, and its init may have another tree
            fields = json.loads((tree / "tree.json").read_text())
            if runfiles.start_of(fields["init_pid"]) == fields["init_start"]:
                found.append(int(fields["init_pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def of_node(folder: NodeFolder, children: dict[int, list[int]] | None = None) -> list[int]:
    """Return every Linux pid of the node, sorted. Forked parts are children of the supervisor and are found as such too."""
    children = parents() if children is None else children
    waiting, found = roots(folder), set[int]()
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return sorted(found)


def ancestors(pid: int) -> list[int]:
    """Return `pid`, its parent, and so on up to init."""
    found = []
    while pid > 0 and pid not in found:
        found.append(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            break
    return found
