"""Hierarchies: where this node can bound and count what its trees use: memory, number of processes, processor time, and keep devices from them. Finds and
tries, decides nothing.

On version 2 all of them are controllers of the group that the freezer has; on version 1 each is a hierarchy of its own, and on many machines some are here
and some there. The node's groups have one name everywhere, and all are written down (`cgroup` in the node's folder) before they are made: whoever
sweeps the freezer's sweeps them too. To be moved into a group of version 1 takes a grace period of the kernel, so that is done ahead of the job.
"""

import contextlib
import os
import re
from typing import Final, Literal, NamedTuple

from unios.kernel import cgroups, clone
from unios.limits import TASKS_PER_NODE_SHARE, TASKS_PER_TREE_MAX

Kind = Literal["memory", "pids", "cpu", "devices"]
KINDS: Final[tuple[Kind, ...]] = ("memory", "pids", "cpu")
_NEEDED: Final = {
    "v2": {"memory": "memory.max", "pids": "pids.max", "cpu": "cpu.weight"},
    "v1": {"memory": "memory.limit_in_bytes", "pids": "pids.max", "cpu": "cpu.shares", "devices": "devices.deny"},
}
_DEVICES: Final = re.compile(r"(nvidia|ttyUSB|ttyACM|video)\d+")
"""In /dev. Where none of these is, and no folder of graphics or sound, trees need no group that keeps devices from them: each costs every start a little."""


class Hierarchy(NamedTuple):
    """`path`: the node's group in it. `kinds`: what it bounds. `joined`: a tree is in it already, by the freezer's group."""

    version: cgroups.Version
    path: str
    kinds: tuple[Kind, ...]
    joined: bool


def settle(node_folder: str, place: cgroups.Place | None, wanted: tuple[Kind, ...] = KINDS) -> tuple[Hierarchy, ...]:
    """Make this node's groups wherever one of `wanted` can be bounded, and remember them. `place`: the freezer's. Idempotent."""
    if place is None:
        return ()
    found = [Hierarchy(place.version, place.path, _controllers(place, wanted), True)]
    for mount in cgroups.v1_mounts():
        missing = tuple(kind for kind in wanted if kind in mount.options and not any(kind in one.kinds for one in found))
        mine = f"{mount.own}/{os.path.basename(place.path)}"
        if missing and mine == place.path:
            found[0] = found[0]._replace(kinds=(*found[0].kinds, *missing))
        elif missing:
            found.append(Hierarchy("v1", mine, missing, False))
    cgroups.remember(node_folder, [cgroups.Place(one.version, one.path) for one in found[1:]])
    usable = tuple(one for one in found if _works(one))
    for one in usable:
        _bound_node(one)
    return usable


def kinds() -> tuple[Kind, ...]:
    """Return what is to be bounded on this machine."""
    there = any(_DEVICES.fullmatch(name) for name in _list("/dev")) or any(map(_list, ("/dev/dri", "/dev/snd")))
    return (*KINDS, "devices") if there else KINDS


def _list(folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def _controllers(place: cgroups.Place, wanted: tuple[Kind, ...]) -> tuple[Kind, ...]:
    """Have the controllers in the groups below `place`, as far as that is allowed; return which there are."""
    if place.version != "v2":
        return ()
    for folder in (os.path.dirname(place.path), place.path):
        for kind in wanted:
            with contextlib.suppress(OSError):  # one by one: a group of a user's may have been given some of them only
                if kind not in _words(f"{folder}/cgroup.subtree_control"):
                    clone.write_kernel_file(f"{folder}/cgroup.subtree_control", f"+{kind}")
    return tuple(kind for kind in wanted if kind in _words(f"{place.path}/cgroup.subtree_control"))


def _words(path: str) -> list[str]:
    with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
        return file.read().split()
    return []


def _works(one: Hierarchy) -> bool:
    """Whether a group can be made there, its files be written, and a process be moved into it. The freezer's own has been tried."""
    if one.joined and not one.kinds:
        return False
    probe = f"{one.path}/probe.{os.getpid()}"
    try:
        os.makedirs(probe, exist_ok=True)
        if not all(os.access(f"{probe}/{_NEEDED[one.version][kind]}", os.W_OK) for kind in one.kinds):
            return False
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(OSError):
                cgroups.join(probe)
                code = 0
            os._exit(code)
        return os.waitpid(child, 0)[1] == 0
    except OSError:
        return False
    finally:
        cgroups.remove_empty(probe, 1.0)


def _bound_node(one: Hierarchy) -> None:
    """Bound all trees of the node together, so that several of them cannot do what one must not; and give it the weight of its cores."""
    cores = os.cpu_count() or 1
    with contextlib.suppress(OSError):
        if "pids" in one.kinds:
            clone.write_kernel_file(f"{one.path}/pids.max", str(max(TASKS_PER_TREE_MAX, int(_pids() * TASKS_PER_NODE_SHARE))))
        if "cpu" in one.kinds:
            name, weight = ("cpu.weight", min(10_000, 100 * cores)) if one.version == "v2" else ("cpu.shares", min(262_144, 1_024 * cores))
            clone.write_kernel_file(f"{one.path}/{name}", str(weight))


def _pids() -> int:
    """Return how many processes and threads this machine can have at a time."""
    bounds = []
    for name in ("pid_max", "threads-max"):
        with contextlib.suppress(OSError, ValueError), open(f"/proc/sys/kernel/{name}", encoding="ascii") as file:
            bounds.append(int(file.read()))
    return min(bounds, default=32_768)
