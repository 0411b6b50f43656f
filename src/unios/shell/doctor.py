"""`unios doctor`: what this machine lacks, what that costs, and how to mend it. Looks and tries; changes nothing that stays.

The checks of the machine need no kernel. With --node, or where nodes run here, each is asked what it found too.
"""

import ctypes
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from unios.client import nodes
from unios.client.connection import Connection
from unios.errors import UniosError
from unios.limits import PID_MAX
from unios.shell.session import Session
from unios.shell.words import Given, Word

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_FREE_BYTES_MIN = 1 << 30
_FSYNC_MS_MAX = 20.0
_FSYNCS = 15
_BOUNDED = ("memory", "pids", "cpu")
_FILES_MIN = 1_024
_REMOTE = {"nfs", "nfs4", "cifs", "9p", "fuse.sshfs", "ceph"}


class Finding(NamedTuple):
    """`costs` and `mend` are empty if all is well; `essential`: unios does not work without it."""

    check: str
    found: str
    costs: str = ""
    mend: str = ""
    essential: bool = False

    @property
    def ok(self) -> bool:
        return not self.costs


def doctor(session: Session, given: Given) -> int:
    findings = [_tried(check, session.home.path) for check in CHECKS]
    findings += _of_nodes(session)
    if session.json:
        session.print_json([{"ok": finding.ok, **finding._asdict()} for finding in findings])
    else:
        for finding in findings:
            session.print(f"{'ok     ' if finding.ok else 'LACKING'}  {finding.check}: {finding.found}")
            if not finding.ok:
                session.print(f"         costs: {finding.costs}")
                session.print(f"         mend:  {finding.mend}")
    return 1 if any(finding.essential and not finding.ok for finding in findings) else 0


def _tried(check: Callable[[Path], Finding], home: Path) -> Finding:
    try:
        return check(home)
    except (OSError, ValueError) as error:
        return Finding(check.__name__, f"cannot be looked at: {error}", "nobody knows", "see whether /proc and /sys are mounted")


def python(_home: Path) -> Finding:
    return Finding("python", f"{sys.version.split()[0]} at {sys.executable}")


def proc(_home: Path) -> Finding:
    try:
        os.close(os.pidfd_open(os.getpid()))
        Path("/proc/self/stat").read_bytes()
        return Finding("/proc and pidfds", "there")
    except OSError as error:
        costs = "processes cannot be watched: unios does not run"
        return Finding("/proc and pidfds", str(error.strerror), costs, "mount /proc; use Linux 5.10 or newer", True)


def namespaces(_home: Path) -> Finding:
    flags = _CLONE_NEWPID | _CLONE_NEWNS | (0 if os.geteuid() == 0 else _CLONE_NEWUSER)
    if _can_unshare(flags):
        return Finding("namespaces", "pid and mount namespaces work")
    return Finding(
        "namespaces",
        "refused",
        "programs run without a pid and a view of files of their own; their getpid() is not their unios pid",
        "as root: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000, or kernel.apparmor_restrict_unprivileged_userns=0",
    )


def _can_unshare(flags: int) -> bool:
    child = os.fork()
    if child == 0:
        os._exit(0 if ctypes.CDLL(None, use_errno=True).unshare(flags) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def freezer(_home: Path) -> Finding:
    if os.access("/sys/fs/cgroup/freezer", os.W_OK):
        return Finding("freezer", "cgroup v1")
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "")
    if own and os.access(f"/sys/fs/cgroup{own}", os.W_OK) and Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return Finding("freezer", "cgroup v2")
    return Finding(
        "freezer",
        "no cgroup of this user's",
        "trees are stopped by signals instead, which a program can see and a fast forker can outrun for a moment",
        "run as root, or give this user a cgroup: systemd-run --user --scope -p Delegate=yes unios up",
    )


def bounds(_home: Path) -> Finding:
    """Say which of memory, pids and cpu can be bounded here: what a node that starts now would find."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    found = set()
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _source, top, kind, options, *_rest = line.split()
        if kind == "cgroup":
            mine = top if os.geteuid() == 0 else next((top + own[name] for name in own if set(name.split(",")) & set(options.split(","))), top)
            found |= {f"{one} (v1)" for one in _BOUNDED if one in options.split(",") and os.access(mine, os.W_OK)}
        elif kind == "cgroup2":
            mine = top if os.geteuid() == 0 else top + own.get("", "")
            control = Path(mine, "cgroup.controllers")
            found |= {f"{one} (v2)" for one in _BOUNDED if os.access(mine, os.W_OK) and control.exists() and one in control.read_text().split()}
    lacking = [kind for kind in _BOUNDED if not any(one.startswith(kind) for one in found)]
    text = ", ".join(sorted(found)) or "nothing"
    if not lacking:
        return Finding("bounds", text)
    return Finding(
        "bounds",
        text,
        f"no bound of {', '.join(lacking)}: what a process asks for is set aside but not enforced, and one that forks on and on can fill the machine",
        "run as root, or give this user a cgroup with these controllers: systemd-run --user --scope -p Delegate=yes unios up",
    )


def pids(_home: Path) -> Finding:
    limit = int(Path("/proc/sys/kernel/pid_max").read_text())
    if limit > PID_MAX:
        return Finding("pids", f"up to {limit - 1}")
    return Finding("pids", f"up to {limit - 1}", "some global pids cannot be given here", f"as root: sysctl kernel.pid_max={PID_MAX + 1}")


def files(_home: Path) -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 1 << 30
    if most >= _FILES_MIN:
        return Finding("open files", f"{soft}, at most {most}")
    return Finding("open files", str(most), "few programs and clients at a time", "raise nofile in /etc/security/limits.conf")


def disk(home: Path) -> Finding:
    state = os.statvfs(_there(home))
    free = state.f_bavail * state.f_frsize
    found = f"{free / (1 << 30):.1f} GiB free for {home}"
    if free >= _FREE_BYTES_MIN:
        return Finding("disk", found)
    return Finding("disk", found, "output is not kept, and when it is full nothing is started", "make room, or set UNIOS_HOME elsewhere")


def file_system(home: Path) -> Finding:
    best, kind = "", "unknown"
    place = str(_there(home).resolve()) + "/"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, point, type_, *_rest = line.split()
        if place.startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, type_
    if kind not in _REMOTE:
        return Finding("file system", kind)
    costs = "locks and durability of the store cannot be relied on"
    return Finding("file system", kind, costs, "set UNIOS_HOME to a folder on a disk of this machine")


def fsync(home: Path) -> Finding:
    times = []
    with tempfile.TemporaryFile(dir=_there(home)) as file:
        for _ in range(_FSYNCS):
            file.write(b"x" * 4096)
            file.flush()
            begun = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - begun) * 1000)
    median = statistics.median(times)
    found = f"{median:.2f} ms"
    if median <= _FSYNC_MS_MAX:
        return Finding("fsync", found)
    return Finding("fsync", found, "every start and end of a process waits for it", "set UNIOS_HOME to a faster disk")


def clock(_home: Path) -> Finding:
    first = time.clock_gettime(time.CLOCK_BOOTTIME)
    if time.clock_gettime(time.CLOCK_BOOTTIME) < first:
        return Finding("clock", "runs backwards", "leases cannot be judged", "use another machine", True)
    if time.gmtime().tm_year < 2025:
        return Finding("clock", f"says {time.strftime('%Y-%m-%d')}", "certificates are not valid yet", "set the clock: timedatectl set-ntp 1")
    return Finding("clock", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


CHECKS: tuple[Callable[[Path], Finding], ...] = (python, proc, namespaces, freezer, bounds, pids, files, disk, file_system, fsync, clock)


def _there(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists and can be written."""
    while not (folder.is_dir() and os.access(folder, os.W_OK)) and folder != folder.parent:
        folder = folder.parent
    return folder if folder != folder.parent else Path(tempfile.gettempdir())


def _of_nodes(session: Session) -> Iterator[Finding]:
    names = [session.node] if session.node else [folder.name for folder in session.home.nodes()]
    for name in names:
        with Connection(session.home.path, name) as connection:
            try:
                view = nodes.info(connection)
            except UniosError as error:
                yield Finding(f"node {name}", str(error), "it does nothing", "unios up, and look into its log folder", bool(session.node))
                continue
        parts = f"freezer {view.freezer}, bounds {', '.join(view.bounded) or 'nothing'}, namespaces {'work' if view.namespaces else 'refused'}, store {view.store}"
        ill = [f"{part.name} is {part.state}: {part.reason}" for part in view.services if part.state != "running"]
        if view.lease_ms < 0:
            ill.append("it is cut off from the store: its processes are frozen")
        yield Finding(f"node {name}", parts, "; ".join(ill), "unios events says since when" if ill else "")


WORDS = {"doctor": Word(doctor, text="Say what this machine lacks, what that costs and how to mend it. Exits 1 if unios cannot work here.")}
