"""Checks of Linux: what this machine's kernel and its settings allow. They look and try, and change nothing."""

import ctypes
import importlib.util
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from unios.limits import PID_MAX
from unios.shell.finding import Finding

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_BOUNDED = ("memory", "pids", "cpu")
_FILES_MIN = 1_024
_RAISE = "printf '* hard nofile 65536\\n' > /etc/security/limits.d/unios.conf"
_PYTHON_MIN = (3, 11)
_PACKAGES = ("click", "cryptography", "msgspec", "setproctitle")
_SWITCHES = {
    "kernel/unprivileged_userns_clone": (0, 1),
    "user/max_user_namespaces": (0, 10_000),
    "kernel/apparmor_restrict_unprivileged_userns": (1, 0),
}
"""Settings below /proc/sys that can forbid namespaces to users: the value that does, and one that does not."""


def python(_home: Path) -> Finding:
    """Say which Python this is, and whether the packages that unios needs are there."""
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info < _PYTHON_MIN:
        newer = ".".join(map(str, _PYTHON_MIN))
        return Finding("python", found, "unios does not run on it", f"install Python {newer} or newer and unios with it", True)
    lacking = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if not lacking:
        return Finding("python", found)
    command = f"{shlex.quote(sys.executable)} -m pip install {' '.join(lacking)}"
    return Finding("python", f"{found}, without {', '.join(lacking)}", "nodes do not start", "install what is missing", True, command)


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
        command=_allow_namespaces(Path("/proc/sys")),
        as_root=True,
    )


def _allow_namespaces(settings: Path) -> str:
    """Return the command that turns those settings that forbid; empty if none does: then something else forbids, a container perhaps."""
    turned = []
    for name, (forbids, allows) in _SWITCHES.items():
        try:
            if int((settings / name).read_text()) == forbids:
                turned.append(f"{name.replace('/', '.')}={allows}")
        except (OSError, ValueError):
            continue
    return f"sysctl -w {' '.join(turned)}" if turned else ""


def _can_unshare(flags: int) -> bool:
    child = os.fork()
    if child == 0:
        os._exit(0 if ctypes.CDLL(None, use_errno=True).unshare(flags) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _hierarchies() -> Iterator[tuple[str, list[str]]]:
    """Yield version and controllers of each hierarchy in which this user may make groups: as a node looks for them, version 2 first."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for _source, top, kind, options, *_rest in sorted(mounts, key=lambda mount: mount[2], reverse=True):
        if kind not in ("cgroup", "cgroup2"):
            continue
        names = options.split(",")
        path = "" if kind == "cgroup2" else next((name for name in own if name and set(name.split(",")) & set(names)), "-")
        mine = top if os.geteuid() == 0 else top + own.get(path, "")
        if kind == "cgroup2":
            control = Path(mine, "cgroup.controllers")
            names = control.read_text().split() if control.exists() else []
        if os.access(mine, os.W_OK):
            yield "v2" if kind == "cgroup2" else "v1", names


def freezer(_home: Path) -> Finding:
    """Say by what trees would be frozen here: what a node that starts now would choose."""
    for version, names in _hierarchies():
        if version == "v2" or "freezer" in names:
            return Finding("freezer", f"cgroup {version}")
    return Finding(
        "freezer",
        "no cgroup of this user's",
        "trees are stopped by signals instead, which a program can see and a fast forker can outrun for a moment",
        "run as root, or give this user a cgroup: systemd-run --user --scope -p Delegate=yes unios up",
    )


def bounds(_home: Path) -> Finding:
    """Say which of memory, pids and cpu can be bounded here: what a node that starts now would find."""
    found = {f"{one} ({version})" for version, names in _hierarchies() for one in _BOUNDED if one in names}
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
    command = f"sysctl -w kernel.pid_max={PID_MAX + 1}"
    return Finding("pids", f"up to {limit - 1}", "some global pids cannot be given here", f"as root: {command}", command=command, as_root=True)


def files(_home: Path) -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 1 << 30
    if most >= _FILES_MIN:
        return Finding("open files", f"{soft}, at most {most}")
    return Finding(
        "open files",
        str(most),
        "few programs and clients at a time",
        "raise nofile in /etc/security/limits.d, then log in again",
        command=_RAISE,
        as_root=True,
    )


def clock(_home: Path) -> Finding:
    first = time.clock_gettime(time.CLOCK_BOOTTIME)
    if time.clock_gettime(time.CLOCK_BOOTTIME) < first:
        return Finding("clock", "runs backwards", "leases cannot be judged", "use another machine", True)
    if time.gmtime().tm_year < 2025:
        return Finding(
            "clock",
            f"says {time.strftime('%Y-%m-%d')}",
            "certificates are not valid yet",
            "set the clock: timedatectl set-ntp 1",
            command="timedatectl set-ntp 1",
            as_root=True,
        )
    return Finding("clock", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


CHECKS: tuple[Callable[[Path], Finding], ...] = (python, proc, namespaces, freezer, bounds, pids, files, clock)
