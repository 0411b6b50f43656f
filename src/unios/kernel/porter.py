"""Porter: a process of its own that lays a carried folder out, or collects from it, with the rights of the folder's user and no others.

The kernel may be root and the user hostile: whatever is planted in the folder, a link in the place of a file above all, is met with that user's rights.
It has no block store, no store and no network: blocks come from the kernel and go to it through two pipes, as frames of a 4-byte big-endian length and
msgpack. Its working directory is the folder, opened by the kernel.

    kernel -> porter   Job, then for "lay": Entry and the file's blocks one by one, ...; for "collect": Entry ...; None
    porter -> kernel   for "collect": bytes (blocks of a file), then its Entry, ...; at the end Done

It ends with its job, with the kernel, or killed by it; what it leaves half done is thrown away.
"""

import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from typing import IO, Any, Final

import msgspec

from unios.limits import BLOCK_BYTES, RESULTS_BYTES_MAX, RESULTS_FILES_MAX
from unios.wire import folders, manifests
from unios.wire.manifests import Entry

LENGTH: Final = struct.Struct(">I")
FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
NOTES_MAX: Final = 20
ZERO: Final = bytes(BLOCK_BYTES)


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """`do`: lay, collect or look. `paths` (look): which of them are not there?"""

    do: str
    uid: int
    gid: int
    groups: list[int]
    patterns: list[bytes] = []
    every: bool = False
    paths: list[bytes] = []


class Done(msgspec.Struct, frozen=True, omit_defaults=True):
    """How it went. `error`: why nothing came of it. `notes`: what was left out, as sentences. `paths` (look): those that are not there."""

    error: str = ""
    notes: list[str] = []
    paths: list[bytes] = []


class Pipe:
    """Frames over two descriptors. EOFError if the other side is gone."""

    def __init__(self, read: IO[bytes], write: IO[bytes]) -> None:
        self._read, self._write = read, write

    def send(self, value: object) -> None:
        data = msgspec.msgpack.encode(value)
        self._write.write(LENGTH.pack(len(data)) + data)

    def flush(self) -> None:
        self._write.flush()

    def receive(self, type_: Any) -> Any:
        head = self._read.read(LENGTH.size)
        if len(head) < LENGTH.size:
            raise EOFError("the other side is gone")
        size = LENGTH.unpack(head)[0]
        if size > FRAME_BYTES_MAX:
            raise EOFError("the other side sends what is no frame")
        data = self._read.read(size)
        if len(data) < size:
            raise EOFError("the other side is gone")
        return msgspec.msgpack.decode(data, type=type_)


def become(job: Job) -> None:
    """Be that user, for good."""
    if os.geteuid() == 0:
        os.setgroups(job.groups)
        os.setresgid(job.gid, job.gid, job.gid)
        os.setresuid(job.uid, job.uid, job.uid)
    os.umask(0o077)


# laying out


def lay(pipe: Pipe) -> Done:
    """Make what the entries say, in the working directory. It is empty and nobody else's, and the kernel has checked the manifest."""
    here = os.open(".", folders.FLAGS | os.O_DIRECTORY)
    made: list[Entry] = []
    while (entry := pipe.receive(Entry | None)) is not None:
        try:
            if entry.kind == "d":
                os.mkdir(entry.path, 0o700, dir_fd=here)
                made.append(entry)
            elif entry.kind == "l":
                os.symlink(entry.target, entry.path, dir_fd=here)
                os.utime(entry.path, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=here, follow_symlinks=False)
            else:
                _lay_file(pipe, here, entry)
        except OSError as error:
            return Done(f"{manifests_text(entry.path)}: {error.strerror or error}")
    for entry in reversed(made):  # last: a folder may be one that its owner cannot write in, and writing in it changes its time
        folder = os.open(entry.path, folders.FLAGS | os.O_DIRECTORY, dir_fd=here)
        os.fchmod(folder, entry.mode)
        os.utime(folder, ns=(entry.mtime_ns, entry.mtime_ns))
        os.close(folder)
    return Done()


def _lay_file(pipe: Pipe, here: int, entry: Entry) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(entry.path, flags, 0o600, dir_fd=here)
    try:
        for _block in range(-(-entry.size // BLOCK_BYTES)):
            data = pipe.receive(bytes)
            if data == ZERO:
                os.lseek(file, len(data), os.SEEK_CUR)  # a hole stays one
                continue
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
        os.ftruncate(file, entry.size)
        os.fchmod(file, entry.mode)
        os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(file)


# collecting


class Collector:
    """Sends what is wanted and differs from what was laid out."""

    def __init__(self, pipe: Pipe, job: Job) -> None:
        self._pipe, self._job = pipe, job
        self._known: dict[bytes, Entry] = {}
        self._folders: dict[bytes, Entry] = {}
        self._told: set[bytes] = set()
        self._bytes, self._files = 0, 0
        self.notes: list[str] = []

    def run(self) -> Done:
        while (entry := self._pipe.receive(Entry | None)) is not None:
            self._known[entry.path] = entry
        here = os.open(".", folders.FLAGS | os.O_DIRECTORY)
        for met in folders.walk(here, skip=lambda _path: False, failed=self._failed):
            if met.kind == "d":
                self._folders[met.path] = Entry(met.path, "d", met.mode, met.status.st_mtime_ns)
            if self._job.every or manifests.matches(met.path, self._job.patterns):
                try:
                    self._look_at(met)
                except OSError as error:
                    self._failed(met.path, error)
        return Done(notes=self.notes)

    def _failed(self, path: bytes, error: OSError) -> None:
        self._note(f"{manifests_text(path)} could not be read: {error.strerror or error}")

    def _note(self, text: str) -> None:
        if len(self.notes) < NOTES_MAX:
            self.notes.append(text)

    def _look_at(self, met: folders.Met) -> None:
        known = self._known.get(met.path)
        if met.kind == "d":
            if known is None or known.kind != "d":
                self._tell_folders(met.path + b"/")
        elif met.kind == "l":
            entry = Entry(met.path, "l", met.mode, met.status.st_mtime_ns, target=folders.link_target(met.parent, met.name))
            if not manifests.alike(entry, known):
                self._tell(entry)
        elif met.kind == "f":
            self._file(met, known)
        else:
            self._note(f"{manifests_text(met.path)} is neither file, folder nor link: it was left out")

    def _file(self, met: folders.Met, known: Entry | None) -> None:
        if known is not None and known.kind == "f" and (known.size, known.mode) == (met.status.st_size, met.mode):
            names = b"".join(map(manifests.name_of, folders.read_blocks(met.parent, met.name, bytes_max=known.size)))
            if names == known.blocks:
                return
        if self._bytes + met.status.st_size > RESULTS_BYTES_MAX or self._files >= RESULTS_FILES_MAX:
            self._note(f"{manifests_text(met.path)} was left out: results may have {RESULTS_BYTES_MAX} bytes in {RESULTS_FILES_MAX} files")
            return
        size = 0
        for block in folders.read_blocks(met.parent, met.name, bytes_max=RESULTS_BYTES_MAX - self._bytes):
            self._pipe.send(block)
            size += len(block)
        self._bytes += size
        self._tell(Entry(met.path, "f", met.mode, met.status.st_mtime_ns, size))

    def _tell(self, entry: Entry) -> None:
        self._tell_folders(entry.path)
        self._files += 1
        self._pipe.send(entry)

    def _tell_folders(self, path: bytes) -> None:
        """Tell the folders that something is in, each once: a result without them would have no place."""
        for folder in sorted(manifests.with_parents((path,)), key=manifests.order):
            if folder not in self._told:
                self._told.add(folder)
                self._files += 1
                self._pipe.send(self._folders[folder])


def look(job: Job) -> Done:
    """Say which paths are not there, as far as this user can see."""
    return Done(paths=[path for path in job.paths if not os.path.lexists(path)])


def manifests_text(path: bytes) -> str:
    """Return a path as a sentence shows it."""
    return path.decode("utf-8", "backslashreplace")


def frames(read: IO[bytes]) -> Iterator[Any]:
    """Yield what a porter sends until Done, which is the last. Raises EOFError, msgspec errors: it is not to be trusted with its form."""
    pipe = Pipe(read, sys.stdout.buffer)
    while True:
        value = pipe.receive(bytes | list[Any] | dict[str, Any])
        if isinstance(value, dict):
            yield msgspec.convert(value, Done)
            return
        yield value if isinstance(value, bytes) else msgspec.convert(value, Entry)


def main() -> None:
    """Do one job."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe = Pipe(sys.stdin.buffer, sys.stdout.buffer)
    try:
        job: Job = pipe.receive(Job)
        become(job)
        done = lay(pipe) if job.do == "lay" else Collector(pipe, job).run() if job.do == "collect" else look(job)
        pipe.send(done)
        pipe.flush()
    except EOFError:
        os._exit(1)


if __name__ == "__main__":
    main()
