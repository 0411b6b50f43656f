"""Backup files: all records of a system as they were at one revision. Only its owner may read one: it says what people ran, and with what environment.

A file is a line that says what it is, then blocks, each with its length before it: a header, pages of records, and an end with the number of records and
the BLAKE2 hash of all before it. One that was cut short, or changed, is refused whole.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from unios import durable
from unios.errors import CallerError, Denied, DiskFull, Unavailable
from unios.store.model import UNDECODABLE, Revision
from unios.store.requests import Dumped

MAGIC: Final = b"unios backup of a store, format 1\n"
BLOCK_BYTES_MAX: Final = 64 * 1024 * 1024


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """`version`: of the unios that made it."""

    system: str
    engine: str
    version: str
    made_ms: int
    generation: str
    number: int


class Page(msgspec.Struct, frozen=True):
    records: dict[str, bytes]


class End(msgspec.Struct, frozen=True):
    records: int
    blake2: bytes


class Written(msgspec.Struct, frozen=True):
    number: int
    records: int
    bytes: int


class _Out:
    """What is written, hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.blake2b()
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.hash.update(data)
        self.bytes += len(data)

    def block(self, what: msgspec.Struct) -> None:
        data = msgspec.msgpack.encode(what)
        self.write(len(data).to_bytes(4, "big") + data)


async def write(path: Path, pages: AsyncIterator[Dumped], made: Header) -> Written:
    """Write a backup; the file is there whole or not at all, and on the disk. `made` without its revision. Raises UniosError."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    count, revision = 0, Revision(made.generation, made.number)  # type: ignore[arg-type]
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                out = _Out(file)
                out.write(MAGIC)  # the disk is waited for in a thread: a kernel that is silent for long is killed
                async for page in pages:
                    if not out.bytes > len(MAGIC):
                        revision = page.revision
                        out.block(msgspec.structs.replace(made, generation=revision.generation, number=revision.number))
                    records = {record.key: record.value for record in page.records if not record.lease}
                    count += len(records)
                    await asyncio.to_thread(out.block, Page(records))
                out.block(End(count, out.hash.digest()))
                await asyncio.to_thread(_to_disk, file)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        await asyncio.to_thread(durable.sync_folder, path.parent)
    except OSError as error:
        raise _told(error, path, "written") from error
    return Written(revision.number, count, out.bytes)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def read(path: Path) -> tuple[Header, dict[str, bytes]]:
    """Return what a backup says. Raises CallerError if it is none, or not whole; Denied, Unavailable if it cannot be read."""
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except OSError as error:
        raise _told(error, path, "read") from error


def _read(file: BinaryIO, path: Path) -> tuple[Header, dict[str, bytes]]:
    if file.read(len(MAGIC)) != MAGIC:
        raise CallerError(f"{path} is no backup of a store that this unios reads")
    seen, header, records = hashlib.blake2b(MAGIC), None, dict[str, bytes]()
    for data in _blocks(file, path):
        try:
            if header is None:
                header = msgspec.msgpack.decode(data, type=Header)
            elif (end := _end(data)) is None:
                records.update(msgspec.msgpack.decode(data, type=Page).records)
            elif (end.records, end.blake2) == (len(records), seen.digest()):
                return header, records
            else:
                raise CallerError(f"{path} is damaged: it is not what was written; take another backup")
        except UNDECODABLE as error:
            raise CallerError(f"{path} is damaged ({error}): take another backup") from error
        seen.update(len(data).to_bytes(4, "big") + data)
    raise CallerError(f"{path} is not whole: it ends before its end; take another backup")


def _blocks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    while len(length := file.read(4)) == 4:
        size = int.from_bytes(length, "big")
        if size > BLOCK_BYTES_MAX:
            raise CallerError(f"{path} is damaged: take another backup")
        data = file.read(size)
        if len(data) < size:
            return
        yield data


def _end(data: bytes) -> End | None:
    try:
        return msgspec.msgpack.decode(data, type=End)
    except UNDECODABLE:
        return None


def _told(error: OSError, path: Path, what: str) -> CallerError | Unavailable:
    said = f"{path} on {os.uname().nodename} cannot be {what}: {error.strerror}"
    if isinstance(error, PermissionError):
        return Denied(said)
    if error.errno == 28:
        return DiskFull(said)
    return CallerError(said)
