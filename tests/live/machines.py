"""Pseudo-machines: each with its own network, pid, mount and host-name namespaces, its own disk (a loop-mounted file) over the root, its own
UNIOS_HOME. A machine dies when its namespace's init is killed, with everything in it; its disk may be kept or taken away.

The network is a bridge in a namespace of its own, so that nothing of this reaches the host's network. Partitions are nftables rules
in the machines. Needs root, iproute2, nftables, util-linux and e2fsprogs. `Lab.close` takes everything away again.
"""

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests import leash, preloads
from tests.e2e.system import UNIOS, wait_for
from tests.paths import found
from unios.kernel import cgroups, linux_pids

TOOLS = ("unshare", "nsenter", "ip", "nft", "mkfs.ext4", "mount")
DISK_MIB = 192
_CLOCK_FILE = "/var/clock.slots"
_CLOCK_SLOTS = 32768

_INSIDE = r"""
set -e
mount --make-rprivate /
mount -o loop "$DISK" "$ROOT"
mkdir -p "$ROOT/upper" "$ROOT/work" "$ROOT/tree"
mount -t overlay overlay -o lowerdir=/,upperdir="$ROOT/upper",workdir="$ROOT/work" "$ROOT/tree"
mount --rbind /dev "$ROOT/tree/dev"
mount --rbind /sys "$ROOT/tree/sys"
mount -t tmpfs tmpfs "$ROOT/tree/tmp"
mount -t tmpfs tmpfs "$ROOT/tree/run"
for each in $KEPT; do
    mkdir -p "$ROOT/tree$each"
    mount --bind "$each" "$ROOT/tree$each"
done
mount -t proc proc "$ROOT/tree/proc"
hostname "$NAME"
ip link set lo up
echo up > "$ROOT/../$NAME.up"
cd "$ROOT/tree"
exec chroot . "$PYTHON" -c '
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.sigwait_set = {signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, signal.sigwait_set)
while True:
    signal.sigwait(signal.sigwait_set)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
'
"""


def missing() -> str:
    """Return why no pseudo-machine can be built here, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(absent)}" if absent else ""


def hidden() -> str:
    """Return the folders that the machines need and that their own /tmp and /run would hide: checkout and interpreter, where they are there."""
    needed = {str(Path(__file__).resolve().parent.parent.parent), sys.prefix, sys.base_prefix}
    return " ".join(sorted(path for path in needed if path.startswith(("/tmp/", "/run/"))))


def sh(*words: str | Path, **options: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout


class Machine:
    """One pseudo-machine. `pid` is its namespaces' init as the host sees it."""

    def __init__(self, lab: "Lab", number: int) -> None:
        self.lab = lab
        self.name = f"m{number}"
        self.number = number
        self.address = f"10.99.0.{number}"
        self.disk = lab.folder / f"{self.name}.disk"
        self.pid = 0
        self._holder: subprocess.Popen[bytes] | None = None
        self.new_disk()

    def new_disk(self) -> None:
        """Give it an empty disk; in the place of the one that it had, while it is off."""
        with self.disk.open("wb") as file:
            file.truncate(self.lab.disk_mib << 20)
        sh("mkfs.ext4", "-q", "-F", self.disk)

    def boot(self) -> None:
        """Power on."""
        self.pid = 0
        root = self.lab.folder / self.name
        root.mkdir(exist_ok=True)
        up = self.lab.folder / f"{self.name}.up"
        up.unlink(missing_ok=True)
        env = {**os.environ, "DISK": str(self.disk), "ROOT": str(root), "NAME": self.name, "PYTHON": sys.executable, "KEPT": hidden()}
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL", "bash", "-c", _INSIDE],
            env=env,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(up.exists, bool, f"{self.name} is up")
        self.pid = int(Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()[0])
        self.lab.plug_in(self)

    def command(self, *words: str | bytes) -> list[str | bytes]:
        """Return the command line that runs `words` inside the machine."""
        env = [*self.clock, f"UNIOS_HOME={self.home}", "HOME=/root", "PATH=" + os.environ["PATH"], "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"]
        env += [f"PYTHONPATH={path}"] if (path := os.environ.get("PYTHONPATH")) else []  # of a checkout that is not the installed one
        return ["nsenter", "--target", str(self.pid), "--all", f"--root=/proc/{self.pid}/root", "env", "-C", "/", "-i", *env, *words]

    home = "/var/unios"
    clock: tuple[str, ...] = ()
    """What everything that is started in the machine from now on gets in its environment so that its wall clock can be another."""

    def give_clock(self) -> None:
        """Let the machine have a wall clock of its own (tests/preloads/clock.c); what is started in it from now on looks at it."""
        library = preloads.built("clock", self.lab.folder)
        self.run("sh", "-c", "cat > /var/clock.so", input=library.read_bytes())
        self.run("truncate", "-s", str(_CLOCK_SLOTS * 8), _CLOCK_FILE)
        self.clock = ("LD_PRELOAD=/var/clock.so",)

    def set_clock(self, ahead_s: int, pid: int = 0) -> None:
        """Put the wall clock ahead (below 0: back), its time since boot as it is: of the whole machine, or of one process by the number that the machine has
        for it. Needs `give_clock`; also what runs sees it."""
        self.run("dd", f"of={_CLOCK_FILE}", "bs=8", f"seek={pid}", "conv=notrunc", "status=none", input=struct.pack("<q", ahead_s))

    def run(self, *words: str | bytes, timeout: float = 60, check: bool = True, **options: Any) -> subprocess.CompletedProcess[bytes]:
        given: dict[str, Any] = options if "input" in options else {"stdin": subprocess.DEVNULL, **options}
        done: subprocess.CompletedProcess[bytes] = subprocess.run(self.command(*words), capture_output=True, timeout=timeout, **given)
        assert b"Traceback" not in done.stderr + done.stdout, done.stderr.decode()
        if check:
            assert done.returncode == 0, f"{self.name}: {words}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done

    def start(self, *words: str | bytes, **options: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self.command(*words), stdin=subprocess.DEVNULL, **options)

    def unios(self, *words: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return self.run(UNIOS, *words, **options)

    def json(self, *words: str) -> Any:
        return json.loads(self.unios(*words, "--json").stdout)

    def add_user(self, name: str, uid: int) -> None:
        """Give the machine a user with a number of its own choice, a group of the same name, and a home."""
        self.run("useradd", "--create-home", "--user-group", "--uid", str(uid), name)

    def pids(self) -> list[int]:
        """Return every process of the machine but its init, as the host numbers them."""
        inside = os.readlink(f"/proc/{self.pid}/ns/pid")
        children = linux_pids.parents()
        waiting, found = [self.pid], []
        while waiting:
            for child in children.get(waiting.pop(), ()):
                found.append(child)
                waiting.append(child)
        assert inside
        return found

    def unios_pids(self) -> list[int]:
        """Return the host pids of the machine's own unios processes: not the programs that they run."""
        return [pid for pid in self.pids() if b"unios" in cmdline(pid)]

    def signal_all(self, number: int, pids: Sequence[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def die(self) -> None:
        """Cut the power: everything in the machine is killed at once; its disk stays."""
        if self._holder is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid or self._holder.pid, signal.SIGKILL)  # without its init only half built: the holder takes it along
        self.lab.thaw_everything()
        self._holder.wait(timeout=20)
        self._holder = None

    @property
    def is_up(self) -> bool:
        return self._holder is not None

    def cut_from(self, *others: "Machine") -> None:
        """Drop everything from and to the others, without a word (no RST)."""
        self._nft("add table inet cut")
        for chain, hook, side in (("i", "input", "saddr"), ("o", "output", "daddr")):
            self._nft(f"add chain inet cut {chain} {{ type filter hook {hook} priority 0; }}")
            for other in others:
                self._nft(f"add rule inet cut {chain} ip {side} {other.address} drop")

    def heal(self) -> None:
        """Undo `cut_from`."""
        subprocess.run(self.command("nft", "delete", "table", "inet", "cut"), capture_output=True, timeout=20)

    def _nft(self, line: str) -> None:
        self.run("nft", line)


class Lab:
    """Some pseudo-machines on one bridge, each with a disk of `disk_mib`."""

    def __init__(self, count: int, disk_mib: int = DISK_MIB) -> None:
        self.disk_mib = disk_mib
        self.machines: list[Machine] = []
        self._groups = groups()
        self.folder = leash.hold(Path(tempfile.mkdtemp(prefix="unios-lab-")))
        self._switch = subprocess.Popen(
            ["unshare", "--net", "sleep", "infinity"],
            env={**os.environ, "LAB": str(self.folder)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._build(count)
        except BaseException:
            self.close()
            raise

    def _build(self, count: int) -> None:
        wait_for(lambda: os.readlink(f"/proc/{self._switch.pid}/ns/net"), lambda ns: ns != os.readlink("/proc/self/ns/net"), "the switch is up")
        # With an address of its own: by default a bridge has the lowest of its ports', and with a machine that dies the witness would change its address.
        self._in_switch("ip", "link", "add", "br0", "address", "02:00:00:99:00:64", "type", "bridge")
        self._in_switch("ip", "link", "set", "br0", "up")
        for number in range(1, count + 1):
            self.machines.append(Machine(self, number))
            self.machines[-1].boot()

    def _in_switch(self, *words: str) -> None:
        sh("nsenter", "--target", str(self._switch.pid), "--net", *words)

    def plug_in(self, machine: Machine) -> None:
        """Connect a machine that has just booted to the bridge."""
        port = f"p{machine.number}"
        with contextlib.suppress(AssertionError):  # of its life before: Linux takes a dead network down when it comes to it
            self._in_switch("ip", "link", "delete", port)
        self._in_switch("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
        self._in_switch("ip", "link", "set", port, "master", "br0", "up")
        machine.run("ip", "addr", "add", f"{machine.address}/24", "dev", "eth0")
        machine.run("ip", "link", "set", "eth0", "up")

    def thaw_everything(self) -> None:
        """Let frozen cgroups of dead machines end: version 1 keeps a killed process until it is thawed; a power cut would not."""
        for state in found("/sys/fs/cgroup", "freezer/unios-*/**/freezer.state"):
            with contextlib.suppress(OSError):
                if not _alive_elsewhere(state.parent, self):
                    state.write_text("THAWED")

    def close(self) -> None:
        for machine in self.machines:
            machine.die()
        self._switch.kill()
        self._switch.wait(timeout=10)
        remove_groups(groups() - self._groups)
        shutil.rmtree(self.folder, ignore_errors=True)
        leash.let_go(self.folder)


def groups(inside: str = "") -> set[Path]:
    """Return the nodes' groups of the whole host, or what matches `inside` them: machines share its cgroup file systems."""
    return {path for top in ("unios-*", "*/unios-*") for path in found("/sys/fs/cgroup", top + inside)}


def is_frozen(pid: int, incarnation: int) -> bool:
    """Return whether a tree of that name stands frozen in its group, on whichever machine."""
    for group in groups(f"/{pid}.{incarnation}"):
        if not any((group / name).exists() for name in ("freezer.state", "cgroup.freeze")):
            continue  # of another hierarchy, in which nothing is frozen
        with contextlib.suppress(OSError):
            if cgroups.is_frozen("v1" if (group / "freezer.state").exists() else "v2", str(group)):
                return True
    return False


def remove_groups(left: set[Path]) -> None:
    """Remove what machines that lost their power left behind; a group with processes in it is another run's and stays."""
    for group in left:
        for folder in sorted((path for path in (group, *found(group, "**/")) if path.is_dir()), key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _alive_elsewhere(cgroup: Path, lab: Lab) -> bool:
    """Whether a cgroup holds processes of a machine that is up (then its frozen state is that machine's business)."""
    up = {os.readlink(f"/proc/{machine.pid}/ns/net") for machine in lab.machines if machine.is_up and os.path.exists(f"/proc/{machine.pid}/ns/net")}
    for pid in (cgroup / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/net") in up:
                return True
    return False


def cmdline(pid: int) -> bytes:
    """Return the arguments of a process of the host, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def lab(count: int, disk_mib: int = DISK_MIB) -> Iterator[Lab]:
    """Build machines, give them to a test, and take them away."""
    built = Lab(count, disk_mib)
    try:
        yield built
    finally:
        built.close()
