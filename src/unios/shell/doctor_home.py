"""Checks of UNIOS_HOME: who may read it, and what nodes that are gone have left on this machine. They look; `--mend` runs what they propose."""

import json
import os
import shlex
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from unios.client.unfinished import unfinished
from unios.shell.finding import Finding
from unios.wire.home import Home, NodeFolder

_PARTS = ("guard", "supervisor", "kernel")


def rights(home: Path) -> Finding:
    """Say whether others may write to the home, or read what is secret."""
    if not home.exists():
        return Finding("home", f"{home} is not there yet: `unios up` makes it")
    mode, owner = home.stat().st_mode, home.stat().st_uid
    if owner != os.geteuid() and os.geteuid() != 0:
        return Finding("home", f"{home} is another user's", "you can neither start nor ask a node of it", "set UNIOS_HOME to a folder of your own")
    wanted = 0o711 if owner == 0 else 0o700
    wrong = [] if not mode & 0o777 & ~wanted else [f"chmod {wanted:o} {shlex.quote(str(home))}"]
    for key in (home / "ca/ca.key", *home.glob("nodes/*/node.key")):
        if key.exists() and key.stat().st_mode & 0o077:
            wrong.append(f"chmod 600 {shlex.quote(str(key))}")
    if not wrong:
        return Finding("home", f"{home}, mode {stat.S_IMODE(mode):04o}")
    return Finding("home", f"{home} or its keys are open to others", "who reads a key can act as that node", "close it", command=" && ".join(wrong))


def used(home: Path) -> Finding:
    """Say whether the home holds a system without a node: a leftover that `up` would go on from."""
    if not (home / "system.json").exists() or Home(home).nodes():
        return Finding("system", "there" if (home / "system.json").exists() else "none yet")
    return Finding(
        "system",
        f"{home} holds a system and no node of it",
        "it does nothing; `unios up` and `unios join` may stumble over it",
        f"once you are sure that nobody needs its records: rm -r {shlex.quote(str(home))}",
    )


def unfinished_up(home: Path) -> Finding:
    """Say whether an `up` was killed before it had started its nodes."""
    names = unfinished(Home(home))
    if not names:
        return Finding("unfinished up", "none")
    return Finding(
        "unfinished up",
        f"one was killed before it had started {', '.join(names)}",
        "they are nodes of this machine and do not run",
        "`unios up` goes on with it; `unios down --all` takes it back",
        command=f"{shlex.quote(sys.executable)} -m unios --home {shlex.quote(str(home))} up",
    )


def left_processes(home: Path) -> Finding:
    """Say which nodes are down while programs of theirs still live here."""
    found = {folder.name: sum(map(len, groups.values())) for folder, groups in _down(home)}
    living = {name: count for name, count in found.items() if count}
    if not living:
        return Finding("left processes", "none")
    text = ", ".join(f"{count} of {name}" for name, count in living.items())
    return Finding(
        "left processes",
        f"{text}, which is down",
        "they are frozen or out of the system's sight, and take memory",
        "`unios up` takes them up again; `unios down --all` ends them",
        command=f"{shlex.quote(sys.executable)} -m unios --home {shlex.quote(str(home))} up",
    )


def left_groups(home: Path) -> Finding:
    """Say which control groups nodes that are down have left empty."""
    empty = [path for _folder, groups in _down(home) for path, pids in groups.items() if not pids and not _holds(path, groups)]
    if not empty:
        return Finding("left groups", "none")
    return Finding(
        "left groups",
        f"{len(empty)} of nodes that are down",
        "a little memory of Linux, and they confuse who looks",
        "remove them",
        command="rmdir " + " ".join(shlex.quote(path) for path in sorted(empty, key=len, reverse=True)),
    )


def _holds(path: str, groups: dict[str, list[int]]) -> bool:
    return any(other.startswith(path + "/") and pids for other, pids in groups.items())


def _down(home: Path) -> Iterator[tuple[NodeFolder, dict[str, list[int]]]]:
    """Yield the nodes of which no part lives, and their control groups with what is in each."""
    for folder in Home(home).nodes():
        if any(_lives(folder, part) for part in _PARTS):
            continue
        groups: dict[str, list[int]] = {}
        for _version, path in _recorded(folder):
            for place, _folders, _files in os.walk(path):
                groups[place] = _members(place)
        yield folder, groups


def _lives(folder: NodeFolder, part: str) -> bool:
    try:
        fields = json.loads((folder.run / f"{part}.json").read_bytes())
        numbers = Path(f"/proc/{int(fields['pid'])}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
        return numbers[0] not in "ZX" and int(numbers[19]) == int(fields["start"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


def _recorded(folder: NodeFolder) -> list[tuple[str, str]]:
    try:
        return [(str(version), str(path)) for version, path in json.loads((folder.path / "cgroup").read_bytes()) if "unios-" in str(path)]
    except (OSError, ValueError, TypeError):
        return []


def _members(group: str) -> list[int]:
    try:
        return [int(pid) for pid in Path(group, "cgroup.procs").read_text().split()]
    except (OSError, ValueError):
        return []


def left_mounts(home: Path) -> Finding:
    """Say what is still mounted in the folders of trees: those of a living tree are in a namespace of its own, so none is seen here."""
    points = [line.split()[1].replace("\\040", " ") for line in Path("/proc/self/mounts").read_text().splitlines()]
    below = f"{home.resolve()}/nodes/"
    left = sorted((point for point in points if point.startswith(below)), key=len, reverse=True)
    if not left:
        return Finding("left mounts", "none")
    return Finding(
        "left mounts",
        ", ".join(left[:3]) + (" ..." if len(left) > 3 else ""),
        "the folders below them cannot be removed",
        "unmount them",
        command=" && ".join(f"umount {shlex.quote(point)}" for point in left),
        as_root=True,
    )


CHECKS: tuple[Callable[[Path], Finding], ...] = (rights, used, unfinished_up, left_processes, left_groups, left_mounts)
