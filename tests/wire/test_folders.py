"""Folders as they are walked: sorted, complete, and never through a link."""

import os
from pathlib import Path

import pytest

from unios.limits import BLOCK_BYTES
from unios.wire import folders, manifests


def walked(path: Path, failed: list[bytes] | None = None, skip: tuple[bytes, ...] = ()) -> list[bytes]:
    here = os.open(path, os.O_RDONLY)
    try:
        found = folders.walk(
            here,
            skip=lambda name: manifests.matches(name, skip),
            failed=lambda name, _error: None if failed is None else failed.append(name),
        )
        return [met.path for met in found]
    finally:
        os.close(here)


def test_a_folder_comes_before_what_is_in_it_in_the_order_of_a_manifest(tmp_path: Path) -> None:
    for name in ("b/x", "b-a", "b/c/d", "a", "z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = walked(tmp_path)
    assert found == [b"a", b"b", b"b/c", b"b/c/d", b"b/x", b"b-a", b"z"] == sorted(found, key=manifests.order)
    assert walked(tmp_path, skip=(b"c", b"a")) == [b"b", b"b/x", b"b-a", b"z"]


def test_a_folder_that_becomes_a_link_between_look_and_open_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    inside = tmp_path / "inside"
    (inside / "d").mkdir(parents=True)
    look = os.stat

    def slow(path: bytes, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        status = look(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if dir_fd is not None:
            os.rmdir(inside / "d")
            os.symlink(outside, inside / "d")
        return status

    monkeypatch.setattr(os, "stat", slow)
    failed: list[bytes] = []
    assert walked(inside, failed) == [b"d"] and failed == [b"d"]


def test_a_file_that_is_a_link_or_a_pipe_by_now_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    os.symlink(tmp_path / "secret", tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for name in (b"link", b"pipe", b"none"):
            with pytest.raises(OSError):  # noqa: PT011 which one is of no interest
                list(folders.read_blocks(here, name))
        assert list(folders.read_blocks(here, b"secret")) == [b"secret"]
    finally:
        os.close(here)


def test_a_file_is_read_in_blocks_and_not_beyond_its_bound(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * (2 * BLOCK_BYTES + 5))
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        assert [len(block) for block in folders.read_blocks(here, b"f")] == [BLOCK_BYTES, BLOCK_BYTES, 5]
        assert [len(block) for block in folders.read_blocks(here, b"f", bytes_max=BLOCK_BYTES + 1)] == [BLOCK_BYTES, 1]
    finally:
        os.close(here)


def test_too_deep_a_folder_is_told_and_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "CARRY_DEPTH_MAX", 3)
    (tmp_path / "1/2/3/4/5").mkdir(parents=True)
    failed: list[bytes] = []
    assert walked(tmp_path, failed) == [b"1", b"1/2", b"1/2/3", b"1/2/3/4"] and failed == [b"1/2/3/4"]
