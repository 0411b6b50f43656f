"""A machine that boots: systemd as the first process of namespaces of its own, over a disk of its own that outlives it (a loop-mounted file over the root).

Of this machine's units and generators it has those of systemd's own folder, less what needs hardware. Needs root, systemd, util-linux, e2fsprogs and cgroup 2.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests import leash
from tests.e2e.system import UNIOS, wait_for
from tests.live import machines

SYSTEMD = "/lib/systemd/systemd"
DISK_MIB = 192
HOME = "/var/lib/unios-test"
_MASKED = (
    "binfmt console-getty e2scrub_reap firstboot getty-static journal-flush journald logind modules-load networkd pstore random-seed repart resolved "
    "sysctl timesyncd tmpfiles-setup-dev udev-trigger udevd update-utmp update-utmp-runlevel user-sessions"
)

_INSIDE = r"""
set -e
mount --make-rprivate /
mount -o loop "$DISK" "$ROOT"
mkdir -p "$ROOT/upper" "$ROOT/work" "$ROOT/tree"
T="$ROOT/tree"
mount -t overlay overlay -o lowerdir=/,upperdir="$ROOT/upper",workdir="$ROOT/work" "$T"
if [ ! -e "$ROOT/was-up" ]; then
    rm -rf "$T/etc/systemd/system"
    mkdir -p "$T/etc/systemd/system"
    : > "$T/etc/fstab"
    for each in $MASKED; do
        ln -s /dev/null "$T/etc/systemd/system/systemd-$each.service"
        ln -s /dev/null "$T/etc/systemd/system/$each.service"
    done
    touch "$ROOT/was-up"
fi
mount -t tmpfs tmpfs "$T/usr/lib/systemd/system-generators"
mount -t proc proc "$T/proc"
mount -t tmpfs tmpfs "$T/sys"
mkdir -p "$T/sys/fs/cgroup"
mount -t cgroup2 none "$T/sys/fs/cgroup"
mount -t tmpfs tmpfs "$T/run" -o mode=755
mount -t tmpfs tmpfs "$T/tmp"
for each in $KEPT; do
    mkdir -p "$T$each"
    mount --bind "$each" "$T$each"
done
mount -t tmpfs tmpfs "$T/dev" -o mode=755
for each in null zero full random urandom tty fuse; do
    if [ -e "/dev/$each" ]; then
        touch "$T/dev/$each"
        mount --bind "/dev/$each" "$T/dev/$each"
    fi
done
mkdir -p "$T/dev/pts" "$T/dev/shm" "$T/mnt"
mount -t devpts devpts "$T/dev/pts" -o newinstance,ptmxmode=0666
ln -s pts/ptmx "$T/dev/ptmx"
ln -s /proc/self/fd "$T/dev/fd"
mount -t tmpfs tmpfs "$T/dev/shm"
ip link set lo up
hostname reborn
cd "$T"
pivot_root . mnt
umount -l /mnt
exec env -i container=unios-test PATH=/usr/sbin:/usr/bin:/sbin:/bin "$SYSTEMD" --unit=multi-user.target
"""


def missing() -> str:
    """Return why no machine can boot here, or nothing."""
    if absent := machines.missing():
        return absent
    if not os.access(SYSTEMD, os.X_OK) or shutil.which("systemctl") is None:
        return "needs systemd"
    return "" if _cgroup2() else "needs cgroup 2"


def _cgroup2() -> str:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2" and os.access(line.split()[1], os.W_OK):
            return line.split()[1]
    return ""


class Rebooting:
    """One machine; its disk lasts until `close`."""

    def __init__(self) -> None:
        self._folder = leash.hold(Path(tempfile.mkdtemp(prefix="unios-reboot-")))
        self._disk, self._root = self._folder / "disk", self._folder / "root"
        self._root.mkdir()
        with self._disk.open("wb") as file:
            file.truncate(DISK_MIB << 20)
        machines.sh("mkfs.ext4", "-q", self._disk)
        self._group = Path(_cgroup2()) / self._folder.name
        self._group.mkdir()
        self._holder: subprocess.Popen[bytes] | None = None
        self._first = 0

    def boot(self) -> None:
        """Start it; return when systemd says that it is up."""
        named = {"DISK": str(self._disk), "ROOT": str(self._root), "KEPT": machines.hidden(), "MASKED": _MASKED, "SYSTEMD": SYSTEMD}
        joins = f'echo $$ > "{self._group}/cgroup.procs"; exec unshare --pid --fork --mount --uts --ipc --net --cgroup --kill-child bash -c "$0"'
        with (self._folder / "boot.log").open("ab") as log:
            self._holder = subprocess.Popen(
                ["bash", "-c", joins, _INSIDE], env={**os.environ, **named}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._first = wait_for(self._systemd, bool, f"systemd runs; it said {(self._folder / 'boot.log').read_text()}", 60)
        wait_for(self._state, lambda seen: seen in ("running", "degraded"), "it is up", 60)

    def _systemd(self) -> int:
        assert self._holder is not None and self._holder.poll() is None, (self._folder / "boot.log").read_text()
        with contextlib.suppress(OSError, IndexError):
            child = int(Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()[0])
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
        return 0

    def _state(self) -> str:
        return self.run("systemctl", "is-system-running", check=False).stdout.decode().strip()

    def run(self, *words: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        enter = ["nsenter", "-t", str(self._first), "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup"]
        env = {"HOME": "/root", "PATH": os.environ["PATH"], "UNIOS_HOME": HOME}
        done = subprocess.run([*enter, *words], env=env, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"{words}: {(done.stdout + done.stderr).decode()}"
        return done

    def unios(self, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return self.run(sys.executable, UNIOS, *words, **options)

    def power_cut(self) -> None:
        """All that runs on it ends at once; its disk stays."""
        if self._holder is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._first or self._holder.pid, signal.SIGKILL)
            self._holder.wait(30)
            self._holder, self._first = None, 0

    def close(self) -> None:
        self.power_cut()
        for folder, _folders, _files in os.walk(self._group, topdown=False):
            wait_for(lambda folder=folder: _removed(folder), bool, f"{folder} is empty")  # type: ignore[misc]
        leash.let_go(self._folder)
        shutil.rmtree(self._folder)


def _removed(folder: str) -> bool:
    with contextlib.suppress(OSError):
        os.rmdir(folder)
    return not os.path.isdir(folder)
