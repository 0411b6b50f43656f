"""Control groups: finds where this node may make groups that can be frozen, and makes them. Knows versions 2 and 1, decides nothing.

The node's group is `unios-<token>`, the token is drawn once and kept in the node's folder as `cgroup`: folders of the same name on
pseudo-machines share a cgroup file system. In it, one group per tree: `<pid>.<incarnation>`.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from unios.kernel import clone, runfiles

Version = Literal["v2", "v1"]
REMOVE_S: Final = 5.0
"""How long the last processes of a killed group may take to disappear."""


class Place(NamedTuple):
    """A folder in which this node makes its groups."""

    version: Version
    path: str


class Mount(NamedTuple):
    """A hierarchy of version 1: what it controls, and where in it this node may make groups."""

    options: tuple[str, ...]
    own: str


def v1_mounts() -> list[Mount]:
    """Return the hierarchies of version 1."""
    return [Mount(tuple(options), _own(top, _controller(options))) for kind, top, options in _mounts() if kind == "cgroup"]


def _controller(options: list[str]) -> str:
    return next((option for option in options if option in ("memory", "pids", "cpu", "devices", "freezer")), "")


def candidates() -> list[Place]:
    """Return the hierarchies with a freezer, the better first: for root their tops, for a user the group it is in (which may be delegated)."""
    found = []
    for kind, top, options in _mounts():
        if kind == "cgroup2":
            found.append(Place("v2", _own(top, "")))
        elif kind == "cgroup" and "freezer" in options:
            found.append(Place("v1", _own(top, "freezer")))
    return sorted(found, key=lambda place: place.version, reverse=True)


def _mounts() -> Iterator[tuple[str, str, list[str]]]:
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        _source, top, kind, options, *_rest = line.split(" ")
        if kind in ("cgroup", "cgroup2"):
            yield kind, top.replace("\\040", " "), options.split(",")


def _own(top: str, controller: str) -> str:
    if os.geteuid() == 0:
        return top  # a session's own group would end with the session
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _number, controllers, path = line.rstrip("\n").split(":", 2)
            if controller in controllers.split(",") if controller else controllers == "":
                return top + path.rstrip("/")
    return top


def settle(node_folder: str, wanted: str = "") -> Place | None:
    """Make this node's group where a process can really be moved into it, and remember it; None if nowhere. `wanted`: "v2" or "v1" only."""
    old = recorded(node_folder)
    name = os.path.basename(old[0].path) if old else f"unios-{os.urandom(8).hex()}"
    for place in candidates():
        if wanted in ("", place.version):
            mine = Place(place.version, f"{place.path}/{name}")
            old = [mine, *(other for other in old if other != mine)]
            _record(node_folder, old)  # first: what is not known is never taken away
            if _works(mine):
                return mine
    return None


def _works(place: Place) -> bool:
    probe = f"{place.path}/probe.{os.getpid()}"
    try:
        os.makedirs(probe, exist_ok=True)
        if not os.access(f"{probe}/{_FREEZE[place.version][0]}", os.W_OK):
            return False
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(OSError):
                join(probe)
                code = 0
            os._exit(code)
        return os.waitpid(child, 0)[1] == 0
    except OSError:
        return False
    finally:
        remove_empty(probe, 1.0)


def recorded(node_folder: str) -> list[Place]:
    """Return the groups that the node has ever settled in."""
    try:
        with open(f"{node_folder}/cgroup", encoding="utf-8") as file:
            return [Place("v1" if version == "v1" else "v2", str(path)) for version, path in json.load(file)]
    except (OSError, ValueError, TypeError):
        return []


def remember(node_folder: str, places: list[Place]) -> None:
    """Write further groups down, behind those that are; before they are made."""
    old = recorded(node_folder)
    new = [place for place in places if place not in old]
    if new:
        _record(node_folder, [*old, *new])


def _record(node_folder: str, places: list[Place]) -> None:
    runfiles.place(f"{node_folder}/cgroup", json.dumps(places))


_FREEZE: Final = {"v2": ("cgroup.freeze", "1", "0"), "v1": ("freezer.state", "FROZEN", "THAWED")}


def join(path: str, pid: int = 0) -> None:
    """Move a process, the calling one by default, into the group. Raises OSError."""
    clone.write_kernel_file(f"{path}/cgroup.procs", str(pid))


def freeze(version: Version, path: str) -> None:
    """Order the group to stop; `is_frozen` says when it has. Idempotent."""
    name, frozen, _thawed = _FREEZE[version]
    clone.write_kernel_file(f"{path}/{name}", frozen)


def thaw(version: Version, path: str) -> None:
    name, _frozen, thawed = _FREEZE[version]
    clone.write_kernel_file(f"{path}/{name}", thawed)


def is_frozen(version: Version, path: str) -> bool:
    with open(f"{path}/{'cgroup.events' if version == 'v2' else 'freezer.state'}", encoding="ascii") as file:
        text = file.read()
    return "frozen 1" in text if version == "v2" else text.strip() == "FROZEN"


def members(path: str) -> list[int]:
    """Return the pids in the group as this process's pid namespace numbers them; 0 for those it cannot see."""
    try:
        return [int(line) for line in clone.read_kernel_file(f"{path}/cgroup.procs").splitlines()]
    except OSError:
        return []


def kill(version: Version, path: str) -> None:
    """Kill every member, and only then let go of a frozen group: none of them runs another instruction of its own."""
    with contextlib.suppress(OSError):
        clone.write_kernel_file(f"{path}/cgroup.kill", "1")  # version 2 from Linux 5.14 on
    for pid in members(path):
        if pid > 0:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        thaw(version, path)


def remove(version: Version, path: str, timeout_s: float = REMOVE_S) -> bool:
    """Kill what is in the group and remove it; False if something in it does not die. Idempotent."""
    if not os.path.isdir(path):
        return True
    kill(version, path)
    return remove_empty(path, timeout_s)


def remove_empty(path: str, timeout_s: float) -> bool:
    """Remove a group in which nothing lives, waiting for the last processes to be gone; False if they are not. Idempotent."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            os.rmdir(path)
            return True
        except FileNotFoundError:
            return True
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.002)
