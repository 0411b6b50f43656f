"""Manifests: what is in a folder, as data: names, modes, times, links, sizes, and the names of the blocks that the files' contents consist of.

Both ends of a transfer share this form. Decides what a manifest may say and what its changes mean; reads and writes no file. Paths are bytes, relative,
`/` between their parts; a manifest is sorted by them part by part, so that a folder comes before what is in it.

Invariants of what `decode` returns: no path leaves the folder (no absolute one, no `..`), none comes twice, and whatever is in something is in a folder
that the manifest itself names: nothing is ever reached through a link.
"""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

import msgspec
from blake3 import blake3

from unios.errors import CallerError
from unios.limits import BLOCK_BYTES, BUNDLE_BLOCKS_MAX, BUNDLE_BYTES, CARRY_DEPTH_MAX, CARRY_FILES_MAX, MANIFEST_BYTES_MAX
from unios.undecodable import UNDECODABLE

Kind = Literal["f", "d", "l"]
Verdict = Literal["same", "write", "beside"]
NAME_BYTES: Final = 32
VERSION: Final = 1
_PATH_BYTES_MAX: Final = 4_000
_PART_BYTES_MAX: Final = 255


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A file ("f"), a folder ("d") or a symbolic link ("l"). `mode`: the permission bits; setuid and its like are not carried."""

    path: bytes
    kind: Kind
    mode: int = 0o600
    mtime_ns: int = 0
    size: int = 0
    blocks: bytes = b""
    """Of a file: NAME_BYTES each, in order."""
    target: bytes = b""
    """Of a link."""


class _Form(msgspec.Struct, frozen=True, array_like=True):
    version: int
    entries: list[Entry]


def name_of(block: bytes | memoryview) -> bytes:
    """Return the name of a block: its BLAKE3 hash."""
    return blake3(block).digest()


def split(names: bytes) -> list[bytes]:
    """Return the single names. Raises CallerError."""
    if len(names) % NAME_BYTES:
        raise CallerError(f"names of blocks have {NAME_BYTES} bytes each, and {len(names)} were sent")
    return [names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)]


def cut(data: bytes) -> list[bytes]:
    """Return data as blocks: the bounds are fixed, so that a change in place changes one block."""
    return [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]


def bundles(blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the blocks as they travel: small ones together."""
    bundle: list[bytes] = []
    size = 0
    for block in blocks:
        if bundle and (size + len(block) > BUNDLE_BYTES or len(bundle) == BUNDLE_BLOCKS_MAX):
            yield bundle
            bundle, size = [], 0
        bundle.append(block)
        size += len(block)
    if bundle:
        yield bundle


def order(path: bytes) -> list[bytes]:
    """Sort by this."""
    return path.split(b"/")


def encode(entries: Iterable[Entry]) -> bytes:
    """Return the manifest's bytes, the same for the same entries. Raises CallerError over the bounds."""
    data = msgspec.msgpack.encode(_Form(VERSION, sorted(entries, key=lambda entry: order(entry.path))))
    if len(data) > MANIFEST_BYTES_MAX:
        raise CallerError(f"the folder has too many names: describing them takes {len(data)} bytes, the limit is {MANIFEST_BYTES_MAX}")
    return data


def decode(data: bytes) -> list[Entry]:
    """Return what a manifest says. Raises CallerError for what is none, whoever made it."""
    try:
        form = msgspec.msgpack.decode(data, type=_Form)
    except UNDECODABLE as error:
        raise CallerError(f"that is no manifest: {error}") from error
    if form.version != VERSION:
        raise CallerError(f"the manifest has version {form.version}; this unios reads version {VERSION}")
    if len(form.entries) > CARRY_FILES_MAX:
        raise CallerError(f"the manifest has {len(form.entries)} entries, the limit is {CARRY_FILES_MAX}")
    folders: set[bytes] = {b""}
    last: list[bytes] = []
    for entry in form.entries:
        parts = order(entry.path)
        _check_path(entry.path, parts)
        if parts <= last:
            raise CallerError(f"the manifest is out of order, or names {entry.path[:80]!r} twice")
        if entry.path.rpartition(b"/")[0] not in folders:
            raise CallerError(f"the manifest puts {entry.path[:80]!r} into what is no folder of it")
        _check_kind(entry)
        if entry.kind == "d":
            folders.add(entry.path)
        last = parts
    return form.entries


def _check_path(path: bytes, parts: list[bytes]) -> None:
    bad = any(part in (b"", b".", b"..") or len(part) > _PART_BYTES_MAX for part in parts)
    if bad or b"\0" in path or len(path) > _PATH_BYTES_MAX or len(parts) > CARRY_DEPTH_MAX + 1:
        raise CallerError(f"the manifest names {path[:80]!r}, which is no path inside of a folder")


def _check_kind(entry: Entry) -> None:
    count = -(-entry.size // BLOCK_BYTES)
    sound = 0 <= entry.mode <= 0o777 and 0 <= entry.size < 1 << 62 and abs(entry.mtime_ns) < 1 << 62
    if entry.kind == "f":
        sound = sound and len(entry.blocks) == count * NAME_BYTES and not entry.target
    else:
        sound = sound and not entry.size and not entry.blocks
        sound = sound and (entry.kind == "l") == (0 < len(entry.target) < 4_096) and b"\0" not in entry.target
    if not sound:
        raise CallerError(f"the manifest describes {entry.path[:80]!r} in a way that makes no sense")


def blocks_of(entries: Iterable[Entry]) -> list[bytes]:
    """Return the names of all blocks of the files, each once, in the order in which they are met."""
    return list(dict.fromkeys(name for entry in entries for name in split(entry.blocks)))


def size_of(entries: Iterable[Entry]) -> int:
    """Return the bytes of all files together."""
    return sum(entry.size for entry in entries)


def matches(path: bytes, patterns: Iterable[bytes]) -> bool:
    """Return whether the path, or a folder that it is in, matches one of the patterns. `*` matches `/` too; a pattern without `/` any last part."""
    parts = order(path)
    heads = [b"/".join(parts[: length + 1]) for length in range(len(parts))]
    for pattern in patterns:
        wanted = pattern.rstrip(b"/").removeprefix(b"./")
        if any(fnmatch.fnmatchcase(head if b"/" in wanted else head.rpartition(b"/")[2], wanted) for head in heads):
            return True
    return False


def alike(one: Entry | None, other: Entry | None) -> bool:
    """Return whether two entries say the same of content and rights. Times do not count: a build that writes the same again has changed nothing."""
    if one is None or other is None:
        return one is other
    if one.kind != other.kind:
        return False
    return one.kind == "d" or (
        (one.blocks, one.size, one.target) == (other.blocks, other.size, other.target) and (one.kind == "l" or one.mode == other.mode)
    )


def verdict(result: Entry, carried: Entry | None, here: Entry | None) -> Verdict:
    """Return what to do with a result: `carried` is what was taken along under that name, `here` what is there now.

    What was changed here meanwhile is never overwritten: the result is put beside it.
    """
    if alike(result, here):
        return "same"
    return "write" if here is None or alike(carried, here) else "beside"


def with_parents(paths: Iterable[bytes]) -> set[bytes]:
    """Return the folders that the paths are in."""
    found: set[bytes] = set()
    for path in paths:
        while (path := path.rpartition(b"/")[0]) and path not in found:
            found.add(path)
    return found


def under(entries: Iterable[Entry], name: bytes) -> Iterator[Entry]:
    """Yield the entries as they are in a folder of that name."""
    for entry in entries:
        yield msgspec.structs.replace(entry, path=name + b"/" + entry.path) if name else entry


def by_path(entries: Iterable[Entry]) -> Mapping[bytes, Entry]:
    return {entry.path: entry for entry in entries}
