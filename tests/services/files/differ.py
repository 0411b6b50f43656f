"""The same random operations in several folders that are one, and in a folder of this machine: same answers, same errno, same bytes.

`python -m tests.services.files.differ LOCAL SEED STEPS MOUNT...`: each operation is done in one of the MOUNTs. Prints "now" every so many steps, and goes on
when a line comes: whoever started it may do something meanwhile. Ends with 0, or says what differs.
"""

import errno
import os
import random
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("a", "b", "c", "d", "e", "ü", "f" * 255)
SIZES = (0, 1, 100, 4_096, 70_000, (1 << 20) - 1, (1 << 20) + 5, 3 << 20)
OFTEN = 25


class Worlds:
    """`roots`: the mounts, and at last the local folder."""

    def __init__(self, mounts: list[Path], local: Path, seed: int) -> None:
        self.mounts, self.local, self.random = mounts, local, random.Random(seed)
        self.open: list[tuple[Any, Any]] = []
        self.counts: dict[str, int] = {}
        self.actions = [getattr(self, name) for name in dir(type(self)) if name.startswith("do_")]

    def both(self, what: Callable[..., Any], *paths: Path) -> None:
        """Do it in a mount and in the local folder, and compare."""
        mount = self.random.choice(self.mounts)
        results = []
        for root in (mount, self.local):
            try:
                results.append(("ok", what(*(root / path for path in paths))))
            except OSError as error:
                results.append(("error", errno.errorcode.get(error.errno or 0)))
        name = what.__qualname__.split(".")[1]
        self.counts[f"{name} {results[0][0]}"] = self.counts.get(f"{name} {results[0][0]}", 0) + 1
        if results[0] != results[1]:
            raise AssertionError(f"{name} {paths}: {str(results[0])[:300]} in {mount}, {str(results[1])[:300]} locally")

    def path(self) -> Path:
        if self.random.random() < 0.7:
            there = sorted(Path(folder, name).relative_to(self.local) for folder, *names in os.walk(self.local) for some in names for name in some)
            if there:
                return self.random.choice(there)
        return Path(*(self.random.choice(NAMES) for _ in range(self.random.choice((1, 1, 1, 2, 2, 3)))))

    def bytes(self) -> bytes:
        size = self.random.choice(SIZES)
        return self.random.randbytes(min(size, 1_000)) * (size // 1_000 + 1)

    def offset(self) -> int:
        return self.random.choice((0, 1, 5_000, 1 << 20, (1 << 20) - 10, self.random.randrange(3 << 20)))

    def do_mkdir(self) -> None:
        self.both(lambda path: os.mkdir(path, 0o750), self.path())

    def do_write(self) -> None:
        data, offset, append = self.bytes(), self.offset(), self.random.random() < 0.3

        def write(path: Path) -> int:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else 0), 0o640)
            try:
                return os.write(descriptor, data) if append else os.pwrite(descriptor, data, offset)
            finally:
                os.close(descriptor)

        self.both(write, self.path())

    def do_exclusive(self) -> None:
        def exclusive(path: Path) -> None:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

        self.both(exclusive, self.path())

    def do_read(self) -> None:
        self.both(lambda path: path.read_bytes() == b"" or hash(path.read_bytes()), self.path())

    def do_truncate(self) -> None:
        size = self.offset()
        self.both(lambda path: os.truncate(path, size), self.path())

    def do_unlink(self) -> None:
        self.both(lambda path: os.unlink(path), self.path())

    def do_rmdir(self) -> None:
        self.both(lambda path: os.rmdir(path), self.path())

    def do_rename(self) -> None:
        self.both(lambda path, to: os.rename(path, to), self.path(), self.path())

    def do_link(self) -> None:
        self.both(lambda path, to: os.link(path, to, follow_symlinks=False), self.path(), self.path())

    def do_symlink(self) -> None:
        target = self.random.choice(NAMES)
        self.both(lambda path: os.symlink(target, path), self.path())

    def do_chmod(self) -> None:
        mode = self.random.choice((0o600, 0o644, 0o755, 0o4755, 0o1777))
        self.both(lambda path: os.chmod(path, mode), self.path())

    def do_times(self) -> None:
        times = (self.random.randrange(1 << 60), self.random.randrange(1 << 60))

        def set_times(path: Path) -> tuple[int, int]:
            os.utime(path, ns=times)
            found = os.stat(path)
            return found.st_atime_ns, found.st_mtime_ns

        self.both(set_times, self.path())

    def do_listing(self) -> None:
        self.both(lambda path: sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in os.scandir(path)), self.path())

    def do_stat(self) -> None:
        def look(path: Path) -> tuple[int, ...]:
            found = os.lstat(path)
            return found.st_mode, found.st_nlink, found.st_uid, -1 if stat.S_ISDIR(found.st_mode) else found.st_size

        self.both(look, self.path())

    def do_xattr(self) -> None:
        value = self.random.randbytes(self.random.choice((0, 10, 1_000)))

        def set_xattr(path: Path) -> list[str]:
            os.setxattr(path, "user.x", value)
            return sorted(name for name in os.listxattr(path) if name.startswith("user."))

        self.both(set_xattr, self.path())

    def do_fallocate(self) -> None:
        offset, length = self.offset(), self.random.randrange(1, 2 << 20)

        def allocate(path: Path) -> None:
            descriptor = os.open(path, os.O_WRONLY)
            try:
                os.posix_fallocate(descriptor, offset, length)
            finally:
                os.close(descriptor)

        self.both(allocate, self.path())

    def do_fsync(self) -> None:
        def sync(path: Path) -> None:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

        self.both(sync, self.path())

    def do_keep_open(self) -> None:
        """Open a file, which may lose its name then."""
        if len(self.open) >= 5:
            pair = self.open.pop(0)
            contents = []
            for file in pair:
                try:
                    contents.append(os.pread(file.fileno(), 8 << 20, 0))
                finally:
                    file.close()
            assert contents[0] == contents[1], f"an open file has {len(contents[0])} bytes, and {len(contents[1])} locally"
        path, found = self.path(), []
        mount = self.random.choice(self.mounts)
        for root in (mount, self.local):
            try:
                found.append(open(root / path, "rb"))  # noqa: SIM115 it stays open
            except OSError as error:
                found.append(error.errno)
        assert isinstance(found[0], int) == isinstance(found[1], int), f"opening {path}: {found}"
        if not isinstance(found[0], int):
            self.open.append((found[0], found[1]))
            self.counts["open"] = self.counts.get("open", 0) + 1

    def do_write_open(self) -> None:
        """Write to a file that is open, by its number."""
        if not self.open:
            return
        data, offset = self.bytes(), self.offset()
        for file in self.random.choice(self.open):
            descriptor = os.open(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY)
            try:
                os.pwrite(descriptor, data, offset)
            finally:
                os.close(descriptor)

    def step(self) -> None:
        self.random.choice(self.actions)()

    def compare(self) -> int:
        """Compare all there is, from each mount; return how many names there are."""
        expected = dict(_all(self.local))
        for mount in self.mounts:
            found = dict(_all(mount))
            assert found.keys() == expected.keys(), f"{sorted(found.keys() ^ expected.keys())} only in one of {mount} and the local folder"
            for path, what in expected.items():
                assert found[path] == what, f"{path}: {str(found[path])[:200]} in {mount}, {str(what)[:200]} locally"
        return len(expected)


def _all(root: Path) -> Any:
    for folder, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(folder, name)
            found = os.lstat(path)
            content: Any = 0
            if stat.S_ISREG(found.st_mode):
                content = hash(path.read_bytes())
            elif stat.S_ISLNK(found.st_mode):
                content = os.readlink(path)
            size = -1 if stat.S_ISDIR(found.st_mode) else found.st_size
            xattrs = sorted((key, os.getxattr(path, key)) for key in os.listxattr(path, follow_symlinks=False) if key.startswith("user."))
            yield path.relative_to(root), (found.st_mode, found.st_nlink, size, found.st_mtime_ns if size == -2 else 0, content, xattrs)


def main() -> int:
    local, seed, steps, *mounts = sys.argv[1:]
    os.umask(0o022)
    worlds = Worlds([Path(mount) for mount in mounts], Path(local), int(seed))
    at = 0
    try:
        for at in range(int(steps)):
            worlds.step()
            if at % OFTEN == OFTEN - 1:
                print("now", flush=True)
                sys.stdin.readline()
        names = worlds.compare()
    except AssertionError as error:
        print(f"step {at}: {error}", flush=True)
        return 1
    print("same", names, sorted(worlds.counts.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
