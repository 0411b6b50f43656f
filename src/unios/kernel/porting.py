"""Porting: a porter at work, as the kernel's threads see it: started, fed with blocks that were verified, listened to, killed at its time.

Blocking. What a porter says is taken as a stranger's word: blocks are named here, a manifest of results is checked before anybody else sees it.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any, Final, NamedTuple

import msgspec

from unios.errors import CallerError, NotFound, Unavailable
from unios.kernel import program
from unios.kernel.blocks import BlockStore, Pinned
from unios.kernel.porter import Done, Job, Pipe, frames
from unios.limits import (
    BLOCKS_COMMIT_BYTES_MAX,
    BLOCKS_COMMIT_MAX,
    PORTER_TIMEOUT_S,
    RESULTS_BYTES_MAX,
    RESULTS_FILES_MAX,
    RESULTS_MANIFEST_BYTES_MAX,
)
from unios.undecodable import UNDECODABLE
from unios.wire import manifests
from unios.wire.installation import obstacle
from unios.wire.manifests import Entry

_GARBAGE: Final = (EOFError, OSError, *UNDECODABLE)


class Damaged(NotFound):
    """A block that was here a moment ago is not, or not whole: fetch it again."""


class Account(NamedTuple):
    """As whom a porter works."""

    user: str
    uid: int
    gid: int
    groups: list[int]


class Collected(NamedTuple):
    """`manifest`: the names of its blocks; empty if there is nothing to bring back."""

    manifest: bytes
    entries: list[Entry]
    notes: list[str]


PORTER: Final = (sys.executable, "-P", "-m", "unios.kernel.porter")
"""-P: it begins as this node's user in a folder that is another's. Without it Python would import what lies there."""


@contextlib.contextmanager
def _porter(folder: str, timeout_s: float) -> Iterator[tuple[Pipe, IO[bytes]]]:
    """Start a porter in that folder; it is dead at the end, whatever happened."""
    try:
        child = subprocess.Popen([*PORTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, start_new_session=True)
    except OSError as error:
        raise Unavailable(obstacle() or f"nothing can be started in {folder}: {error.strerror}") from error
    assert child.stdin is not None and child.stdout is not None
    late = threading.Timer(timeout_s, child.kill)
    late.daemon = True
    late.start()
    try:
        yield Pipe(child.stdout, child.stdin), child.stdout
    finally:
        late.cancel()
        child.kill()
        with contextlib.suppress(OSError):
            child.stdin.close()
        child.stdout.close()
        child.wait()


def _job(do: str, account: Account, **more: Any) -> Job:
    return Job(do, account.uid, account.gid, account.groups, **more)


def lay_out(store: BlockStore, account: Account, folder: str, entries: list[Entry], *, timeout_s: float = PORTER_TIMEOUT_S) -> None:
    """Lay the entries out in an empty folder of the user's. Raises Damaged, CallerError (this node cannot: no room), Unavailable."""
    with _porter(folder, timeout_s) as (pipe, read):
        try:
            pipe.send(_job("lay", account))
            for entry in entries:
                pipe.send(entry)
                for name in manifests.split(entry.blocks):
                    block = store.get(account.user, name)
                    if block is None:
                        raise Damaged(f"a block of {shown(entry.path)} is not whole here any more")
                    pipe.send(block)
            pipe.send(None)
            pipe.flush()
        except OSError:
            pass  # it has ended early, and says why
        done = _end(read, timeout_s)
    if done.error:
        raise CallerError(f"the carried folder cannot be laid out: {done.error}")


def _end(read: IO[bytes], timeout_s: float) -> Done:
    try:
        for value in frames(read):
            if isinstance(value, Done):
                return value
    except _GARBAGE:
        pass
    raise Unavailable(obstacle() or f"the porter ended before its work did (it has {timeout_s:g} s)")


def collect(
    store: BlockStore,
    account: Account,
    folder: str,
    known: list[Entry],
    *,
    patterns: tuple[bytes, ...],
    every: bool,
    pinned: Pinned,
    timeout_s: float = PORTER_TIMEOUT_S,
) -> Collected:
    """Bring what is wanted and differs from `known` into the block store; it is on disk when this returns. Raises Unavailable."""
    with _porter(folder, timeout_s) as (pipe, read), store.batch(account.user, pinned) as batch:
        try:
            pipe.send(_job("collect", account, patterns=list(patterns), every=every))
            for entry in known:
                pipe.send(entry)
            pipe.send(None)
            pipe.flush()
            entries, notes = _take(read, batch)
            if not entries:
                return Collected(b"", [], notes)
            data = manifests.encode(entries)
            if len(data) > RESULTS_MANIFEST_BYTES_MAX:
                raise Unavailable(f"the results have too many names: describing them takes {len(data)} bytes")
            entries = manifests.decode(data)  # as whoever reads it will: the porter's word is a stranger's
            names = b"".join(batch.add(block) for block in manifests.cut(data))
            batch.commit()
        except (*_GARBAGE, CallerError) as error:
            raise Unavailable(obstacle() or f"the porter did not do its work (it has {timeout_s:g} s): {error}") from error
    return Collected(names, entries, notes)


def _take(read: IO[bytes], batch: Any) -> tuple[list[Entry], list[str]]:
    entries: list[Entry] = []
    names: list[bytes] = []
    total = 0
    for value in frames(read):
        if isinstance(value, bytes):
            total += len(value)
            names.append(batch.add(value))
            if len(batch) >= BLOCKS_COMMIT_MAX or batch.bytes >= BLOCKS_COMMIT_BYTES_MAX:
                batch.commit()
        elif isinstance(value, Entry):
            if value.kind == "f":  # the folders that it is in may be told between its blocks and itself
                value, names = msgspec.structs.replace(value, blocks=b"".join(names)), []
            entries.append(value)
        else:
            return entries, [str(note) for note in value.notes]
        if total > RESULTS_BYTES_MAX or len(entries) > 2 * RESULTS_FILES_MAX:
            raise EOFError("it sends more than it may")
    raise EOFError("it did not end")


def look(account: Account, folder: str, paths: tuple[bytes, ...], *, timeout_s: float = PORTER_TIMEOUT_S) -> list[bytes]:
    """Return which of the paths that user does not find here."""
    with _porter(folder, timeout_s) as (pipe, read):
        with contextlib.suppress(OSError):
            pipe.send(_job("look", account, paths=list(paths)))
            pipe.flush()
        done = _end(read, timeout_s)
    return [path for path in done.paths if path in paths]


def shown(path: bytes) -> str:
    """Return a path for a message, as a program's name is shown."""
    return program.shown(os.fsdecode(path))
