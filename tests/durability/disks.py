"""A disk whose contents at one instant can be looked at: an ext4 file system on a loop device, and copies of the file behind it.

A loop device writes what reaches it to the file behind it, and what only lies in the page cache of the mounted file system has not reached it. So a copy of
the file has what a disk would have if the power went at that instant, and no kill, however hard, shows that. `test_disks.py` tries that this is so here.
The copy is mounted, which replays its journal, as after a power cut.

ext4 writes its journal every 5 s by itself, which would save who forgets to sync: here it does so every hour.

Mounts are in a mount namespace of one process: they are gone when it is.
"""

import contextlib
import ctypes
import os
import pickle
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar, cast

from tests import leash
from tests.e2e.system import wait_for

T = TypeVar("T")
TOOLS: Final = ("unshare", "nsenter", "mkfs.ext4", "mount", "umount")
DISK_MIB: Final = 224
"""Sparse. Blocks leave 128 MiB of a disk free."""
_OPTIONS: Final = "loop,commit=3600"
_MADE_WITH: Final = ("-q", "-F", "-b", "4096", "-N", "2048", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard")


def missing() -> str:
    """Return why no such disk can be had here, or nothing."""
    if os.geteuid() != 0:
        return "a disk in a file is mounted by root only"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(absent)}"
    return "" if _may_loop() else "this machine has no loop devices, or lets nobody mount them"


def _may_loop() -> bool:
    with tempfile.TemporaryDirectory(prefix="unios-disk-") as folder:
        image = _made(Path(folder) / "image", 16)
        command = ["unshare", "--mount", "mount", "-o", "loop", str(image), "/mnt"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _made(image: Path, mib: int) -> Path:
    with image.open("wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", *_MADE_WITH, image], check=True, capture_output=True)
    return image


class Disks:
    """A folder with disks, and the process in whose mount namespace they are mounted."""

    def __init__(self) -> None:
        self.folder = leash.hold(Path(tempfile.mkdtemp(prefix="unios-disks-")))
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sleep", "infinity"],
            env={**os.environ, "DISKS": str(self.folder)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(lambda: os.readlink(f"/proc/{self._holder.pid}/ns/mnt"), lambda ns: ns != os.readlink("/proc/self/ns/mnt"), "a mount namespace")
        self._count = 0

    def make(self, mib: int = DISK_MIB) -> "Disk":
        """Return a new disk, mounted."""
        self._count += 1
        return Disk(self, _made(self.folder / f"image-{self._count}", mib))

    def make_failing(self) -> "FailingDisk":
        """Return a new disk that can be made to fail."""
        self._count += 1
        return FailingDisk(self, self.folder / f"memory-{self._count}")

    def run(self, *words: str | Path) -> None:
        done = subprocess.run([*self.wrap, *map(str, words)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"

    @property
    def wrap(self) -> tuple[str, ...]:
        """What a command line begins with that is to see the disks as they are mounted."""
        return ("nsenter", "--target", str(self._holder.pid), "--mount", "--", "env", "-C", str(Path(__file__).parents[2]))

    def mount(self, image: Path) -> Path:
        """Mount an image, and return where it is for who sees the disks."""
        place = self._place(image)
        place.mkdir()
        self.run("mount", "-o", _OPTIONS, image, place)
        return place

    def _place(self, image: Path) -> Path:
        return self.folder / f"{image.parent.name if image.parent != self.folder else ''}{image.name}.mounted"

    def outside(self, place: Path) -> Path:
        """Return where something on a disk is for this process."""
        return Path(f"/proc/{self._holder.pid}/root{place}")

    def unmount(self, image: Path) -> None:
        place = self._place(image)
        self.run("umount", place)
        place.rmdir()

    def within(self, work: Callable[[], T]) -> T:
        """Do that in a fork that sees the disks, and return what it returned. SQLite finds nothing at what `outside` says."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(read)
                namespace = os.open(f"/proc/{self._holder.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
                assert ctypes.CDLL(None).setns(namespace, 0) == 0
                with os.fdopen(write, "wb") as pipe:
                    pickle.dump(work(), pipe)
                os._exit(0)
            except BaseException:  # noqa: BLE001 the end of a process
                traceback.print_exc()
                os._exit(1)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            data = pipe.read()
        assert os.waitpid(pid, 0)[1] == 0, "what failed is on stderr"
        return cast(T, pickle.loads(data))

    @contextlib.contextmanager
    def seen(self, image: Path) -> Iterator[Path]:
        """Copy an image as it is at this instant, mount the copy, yield where it is for who sees the disks, and take it away again."""
        self._count += 1
        copy = self.folder / f"copy-{self._count}"
        subprocess.run(["cp", "--sparse=always", self.outside(image), copy], check=True)
        try:
            yield self.mount(copy)
        finally:
            self.unmount(copy)
            copy.unlink()

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait(timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)
        leash.let_go(self.folder)


class Disk:
    """One of them. `inside`: where it is mounted, for programs that begin with `wrap`; `path`: where this process finds it."""

    def __init__(self, disks: Disks, image: Path) -> None:
        self._disks, self.image = disks, image
        self.inside = disks.mount(image)
        self.path = disks.outside(self.inside)
        self.wrap = disks.wrap

    def after_a_power_cut(self, look: Callable[[Path], T]) -> T:
        """Return what `look` finds, in a fork, where a power cut would leave the disk now."""
        with self._disks.seen(self.image) as place:
            return self._disks.within(lambda: look(place))

    def close(self) -> None:
        self._disks.unmount(self.image)
        self._disks.outside(self.image).unlink()


class FailingDisk(Disk):
    """One on which data that need room can be made to fail for a while, as bad sectors do, while its journal goes on: the file behind it lies in a file system
    in memory that has no room then, and has holes where nothing was written yet.

    So Linux itself says EIO once, and takes for written from then on what the disk never got.
    """

    def __init__(self, disks: Disks, memory: Path) -> None:
        memory.mkdir()
        self._memory, image = memory, memory / "image"
        self._bytes = DISK_MIB + 8 << 20
        disks.run("mount", "-t", "tmpfs", "-o", f"size={self._bytes}", "tmpfs", memory)
        disks.run("truncate", "-s", f"{DISK_MIB}M", image)
        disks.run("mkfs.ext4", *_MADE_WITH, image)
        disks.run("fallocate", "-l", f"{DISK_MIB}M", image)
        super().__init__(disks, image)
        disks.run("fstrim", self.inside)

    def fail(self) -> None:
        """From now on."""
        status = os.statvfs(self._disks.outside(self._memory))
        self._resize((status.f_blocks - status.f_bfree) * status.f_frsize)

    def recover(self) -> None:
        """Let everything succeed again."""
        self._resize(self._bytes)

    def _resize(self, size: int) -> None:
        self._disks.run("mount", "-o", f"remount,size={size}", self._memory)

    def close(self) -> None:
        self.recover()
        super().close()
        self._disks.run("umount", self._memory)
