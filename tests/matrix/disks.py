"""What can be wrong with a disk: slow (the block controller of cgroup v1 lets through so many writes a second), full, or with something else in a file."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.e2e.system import wait_for
from tests.live.machines import Machine, remove_groups, sh
from tests.matrix.targets import Target
from tests.matrix.world import World, node

Undo = Callable[[], None]
_CONTROLLER: Final = Path("/sys/fs/cgroup/blkio")
_LIMIT: Final = "blkio.throttle.write_iops_device"
_FILL: Final = "/var/fill"


def missing_controller() -> str:
    return "" if (_CONTROLLER / _LIMIT).exists() else "no block controller of cgroup v1 here"


def slow(writes_s: int) -> Callable[[World, Target], Undo]:
    """Let through so many writes a second: of the whole machine's disk, or of one process to it."""

    def apply(world: World, target: Target) -> Undo:
        machine = target.machine(world)
        loop = sh("losetup", "-j", machine.disk).split(":")[0]
        device = os.stat(loop).st_rdev
        number = f"{os.major(device)}:{os.minor(device)}"
        if target.whole:
            (_CONTROLLER / _LIMIT).write_text(f"{number} {writes_s}")
            return lambda: _lift(_CONTROLLER, number)
        group = _CONTROLLER / f"matrix-{os.getpid()}"
        group.mkdir()
        (group / _LIMIT).write_text(f"{number} {writes_s}")
        for pid in target.pids(world, machine):
            (group / "cgroup.procs").write_text(str(world.host_pid(machine, pid)))

        def undo() -> None:
            _lift(group, number)
            wait_for(lambda: _emptied(group), bool, "nobody is in the slow group any more, what was forked meanwhile included")

        return undo

    return apply


def _emptied(group: Path) -> bool:
    """Take everybody out of a group, and remove it; whether that was done."""
    for pid in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (_CONTROLLER / "cgroup.procs").write_text(pid)
    try:
        group.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _lift(group: Path, number: str) -> None:
    (group / _LIMIT).write_text(f"{number} 0")


def fill(world: World, target: Target) -> Undo:
    """Write the machine's disk full, to the last byte that root may have."""
    machine = target.machine(world)
    most = f"fallocate -l $(df --output=avail -B1 /var | tail -1) {_FILL}.most"
    rest = f"for size in 1M 4k 1k; do dd if=/dev/zero of={_FILL}.$size bs=$size 2>/dev/null; done; sync {_FILL}*"
    machine.run("sh", "-c", f"{most}; {rest}", check=False)
    return lambda: _empty(machine)


def _empty(machine: Machine) -> None:
    machine.run("sh", "-c", f"rm -f {_FILL}.*")


def corrupt(world: World, target: Target) -> Undo:
    """Put something else into the middle of the target's records, and kill it and who reads them, so that a successor has to. A machine is powered on anew,
    and a person puts the record back, as its error said."""
    machine = target.machine(world)
    found = [pattern.format(node=node(machine), sitter=world.sitter) for pattern in target.records]
    paths = machine.run("sh", "-c", f"cd {machine.home} && ls -d {' '.join(found)}").stdout.decode().split()
    if target.whole:
        dead = world.groups(machine)
        machine.die()
        remove_groups(dead)
        machine.boot()
    before = {path: machine.run("cat", f"{machine.home}/{path}").stdout for path in paths}
    pids = [] if target.whole else [*target.pids(world, machine), *(world.part(machine, name) for name in target.readers)]
    machine.run("kill", "-STOP", *map(str, pids), check=False) if pids else None
    for path, data in before.items():
        machine.run("sh", "-c", f"cat > {machine.home}/{path}", input=spoilt(data))
    machine.run("kill", "-KILL", *map(str, pids), check=False) if pids else None
    if not target.whole:
        return lambda: None
    done = machine.unios("up", check=False)
    said = done.stderr.decode().strip()

    def put_back() -> None:
        if done.returncode == 0:
            return
        assert said, f"`unios up` failed with {done.returncode} and said nothing"
        world.told.append(f"unios up: {said}")
        for path, data in before.items():
            machine.run("sh", "-c", f"cat > {machine.home}/{path}", input=data)
        machine.unios("up")

    return put_back


def spoilt(data: bytes) -> bytes:
    """Return the data with its middle half turned into something else, of the same length."""
    begin, end = len(data) // 4, len(data) * 3 // 4 + 1
    return data[:begin] + bytes(byte ^ 0x5A for byte in data[begin:end]) + data[end:]
