"""The porter: folders laid out and collected with the user's rights, whatever he has planted there."""

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from unios.client.carry import Folder, Scan
from unios.errors import CallerError, UniosError
from unios.kernel import porting
from unios.kernel.blocks import BlockStore, folder_of
from unios.kernel.porter import LENGTH, frames
from unios.kernel.porting import Account
from unios.limits import BLOCK_BYTES
from unios.wire import manifests
from unios.wire.manifests import Entry

NOBODY = 65_534


def nothing() -> frozenset[tuple[str, bytes]]:
    return frozenset()


@pytest.fixture
def account() -> Account:
    """Another user where this one is root, else this one."""
    return Account("ann", NOBODY, NOBODY, []) if os.geteuid() == 0 else Account("ann", os.getuid(), os.getgid(), [])


@pytest.fixture
def work(tmp_path: Path, account: Account) -> Iterator[Path]:
    """An empty working folder of the user's. pytest's own folders are closed to others."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid():
            with contextlib.suppress(PermissionError):
                folder.chmod(folder.stat().st_mode | 0o711)
    path = tmp_path / "work"
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(path, account.uid, account.gid)
    yield path
    for folder, names, _files in os.walk(path):
        for name in names:
            if not os.path.islink(f"{folder}/{name}"):
                os.chmod(f"{folder}/{name}", 0o700)


def stock(tmp_path: Path, source: Path) -> tuple[BlockStore, list[Entry]]:
    """Return a block store that has what is in a folder, and what that is."""
    scan = Scan((), 1 << 40, lambda _files, _bytes: None)
    scan.take(Folder(b"", os.fsencode(source)))
    scan.check()
    store = BlockStore(str(tmp_path / "blocks"))
    with store.batch("ann", nothing) as batch:
        for name in manifests.blocks_of(scan.entries):
            batch.add(scan.block(name))
        batch.commit()
    return store, manifests.decode(manifests.encode(scan.entries))


def collect(store: BlockStore, account: Account, work: Path, known: list[Entry], *patterns: bytes, every: bool = False) -> porting.Collected:
    return porting.collect(store, account, str(work), known, patterns=patterns, every=every, pinned=nothing)


def make(source: Path) -> None:
    (source / "sub" / "shut").mkdir(parents=True)
    (source / "sub" / "shut" / "f").write_bytes(b"inner")
    (source / "sub" / "shut").chmod(0o555)
    (source / "run").write_bytes(b"#!/bin/sh\n")
    (source / "run").chmod(0o754)
    (source / "empty").touch()
    os.symlink("/nowhere/at all", source / "link")
    with open(os.fsencode(source) + b"/\xff\n", "wb") as file:
        file.write(os.urandom(2 * BLOCK_BYTES + 3))
    with open(source / "sparse", "wb") as file:
        file.seek(40 * BLOCK_BYTES)
        file.write(b"end")
    os.utime(source / "run", ns=(5, 1_234_567_890_123_456_789))


def test_a_folder_is_laid_out_as_it_was(tmp_path: Path, work: Path, account: Account) -> None:
    source = tmp_path / "source"
    make(source)
    store, entries = stock(tmp_path, source)
    porting.lay_out(store, account, str(work), entries)
    scan = Scan((), 1 << 40, lambda _files, _bytes: None)
    scan.take(Folder(b"", os.fsencode(work)))
    assert manifests.encode(scan.entries) == manifests.encode(entries)
    assert {os.lstat(work / name).st_uid for name in ("run", "sub", "link", "sub/shut/f")} == {account.uid}
    assert (work / "sparse").stat().st_blocks * 512 < 4 * BLOCK_BYTES
    assert collect(store, account, work, entries, every=True).entries == []


def test_a_program_that_writes_into_its_files_leaves_the_blocks_as_they_are(tmp_path: Path, work: Path, account: Account) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "data").write_bytes(b"before" * 1_000)
    store, entries = stock(tmp_path, source)
    porting.lay_out(store, account, str(work), entries)
    with open(work / "data", "r+b") as file:
        file.write(b"AFTER!")
    assert (work / "data").stat().st_nlink == 1
    assert store.get("ann", entries[0].blocks) == b"before" * 1_000
    (found,) = collect(store, account, work, entries, every=True).entries
    assert store.get("ann", found.blocks) == b"AFTER!" + b"before" * 999


def test_only_what_is_asked_for_and_has_changed_is_collected(tmp_path: Path, work: Path, account: Account) -> None:
    source = tmp_path / "source"
    (source / "out").mkdir(parents=True)
    for name in ("a.csv", "out/same.csv", "out/b.csv", "c.txt"):
        (source / name).write_bytes(b"1")
    store, entries = stock(tmp_path, source)
    porting.lay_out(store, account, str(work), entries)
    for name in ("a.csv", "out/b.csv", "c.txt", "out/new.csv"):
        times = (work / name).stat() if (work / name).exists() else None
        (work / name).write_bytes(b"2")
        if times:
            os.utime(work / name, ns=(times.st_atime_ns, times.st_mtime_ns))  # neither size nor time tell of the change
    paths = [entry.path for entry in collect(store, account, work, entries, b"*.csv").entries if entry.kind == "f"]
    assert paths == [b"a.csv", b"out/b.csv", b"out/new.csv"]
    assert collect(store, account, work, entries).manifest == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could read what it must not")
def test_planted_links_and_pipes_give_nothing_that_the_user_could_not_read(tmp_path: Path, work: Path, account: Account) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "key").write_bytes(b"of root")
    store, _entries = stock(tmp_path, secret)
    (work / "sub").mkdir()
    os.symlink(secret / "key", work / "file")
    os.symlink(secret, work / "folder")
    os.link(secret / "key", work / "hard")
    os.mkfifo(work / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(work / "sock"))
    os.mknod(work / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (secret / "key").chmod(0o600)
    found = collect(store, account, work, [], every=True)
    kinds = {entry.path: entry.kind for entry in found.entries}
    assert kinds == {b"file": "l", b"folder": "l", b"sub": "d"}
    assert sorted(note.split()[0] for note in found.notes) == ["hard", "null", "pipe", "sock"]


def test_a_folder_that_is_swapped_for_a_link_while_it_is_collected_is_not_followed(tmp_path: Path, work: Path, account: Account) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    for number in range(200):
        (outside / str(number)).write_bytes(b"SECRET")
    for number in range(200):
        (work / f"d{number:03}").mkdir(mode=0o755)
        (work / f"d{number:03}" / "0").write_bytes(b"mine")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for number in range(0, 200, 7):
                with contextlib.suppress(OSError):
                    os.rename(work / f"d{number:03}", tmp_path / "aside")
                    os.symlink(outside, work / f"d{number:03}")
                    os.unlink(work / f"d{number:03}")
                    os.rename(tmp_path / "aside", work / f"d{number:03}")

    store = BlockStore(str(tmp_path / "blocks"))
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _round in range(3):
            with contextlib.suppress(UniosError):
                collect(store, account, work, [], every=True)
    finally:
        stop.set()
        thread.join()
    assert store.missing("ann", [manifests.name_of(b"SECRET")])


def test_a_block_that_is_damaged_while_it_is_laid_out_is_named(tmp_path: Path, work: Path, account: Account) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "data").write_bytes(b"precious")
    store, entries = stock(tmp_path, source)
    text = entries[0].blocks.hex()
    (tmp_path / "blocks" / folder_of("ann") / text[:2] / text[2:]).write_bytes(b"prEcious")
    with pytest.raises(porting.Damaged, match="data"):
        porting.lay_out(store, account, str(work), entries)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_is_said_with_the_files_name(tmp_path: Path, work: Path, account: Account) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(3 * BLOCK_BYTES))
    store, entries = stock(tmp_path, source)
    assert os.system(f"mount -t tmpfs -o size=1m,uid={account.uid},mode=700 unios-test {work}") == 0
    try:
        with pytest.raises(CallerError, match="large: No space left"):
            porting.lay_out(store, account, str(work), entries)
    finally:
        os.system(f"umount {work}")


def test_a_porter_that_takes_too_long_is_given_up(tmp_path: Path, work: Path, account: Account) -> None:
    source = tmp_path / "source"
    source.mkdir()
    store, entries = stock(tmp_path, source)
    with pytest.raises(UniosError, match="porter"):
        porting.lay_out(store, account, str(work), entries, timeout_s=0.0)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\xff\xff\xff\xff", LENGTH.pack(3) + b"\xc1\xc1\xc1", LENGTH.pack(2) + b"\x91\x01", LENGTH.pack(1) + b"\xa1"], ids=repr
)
def test_what_a_porter_sends_is_not_believed_to_have_a_form(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "said").write_bytes(data)
    with open(tmp_path / "said", "rb") as file, pytest.raises(porting._GARBAGE):
        list(frames(file))
