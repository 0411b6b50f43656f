"""The process of a holder: one of a user on a node, and its folder is nobody else's."""

import fcntl
import os
from pathlib import Path

import pytest

from tests.descriptors import descriptors
from unios.client.objects import __main__ as module
from unios.client.objects.__main__ import bytes_of, folder_of, locked, main
from unios.client.objects.starting import start
from unios.errors import CallerError, Unavailable


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nodes/n1").mkdir(parents=True)
    monkeypatch.setattr(module, "default_home", lambda: str(tmp_path))
    return tmp_path


def test_a_second_holder_ends_at_once_and_the_first_takes_its_folder_along(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[int, int]] = []

    class Serving:
        def __init__(self, node: str, _folder: str, *, memory_bytes_max: int, disk_bytes_max: int, files_max: int) -> None:
            self.bounds = memory_bytes_max, disk_bytes_max

        def serve(self) -> None:
            served.append(self.bounds)
            if len(served) == 1:
                assert main("n1", "system") == 0

    monkeypatch.setattr(module, "Holder", Serving)
    monkeypatch.setattr(module.resource, "setrlimit", lambda *_args: None)
    monkeypatch.setattr(module, "disk_of", lambda folder: folder)
    monkeypatch.setenv("UNIOS_OBJECTS_MEMORY", "123")
    monkeypatch.setenv("UNIOS_OBJECTS_DISK", "456")
    assert main("n1", "system") == 0
    assert served == [(123, 456)]
    assert list((home / "nodes/n1").iterdir()) == []


def test_what_a_holder_cannot_do_is_said_and_without_a_disk_nothing_is_spilled(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_args: object, disk_bytes_max: int, **_bounds: int) -> None:
        assert disk_bytes_max == 0
        raise Unavailable("no kernel answers")

    monkeypatch.setattr(module, "Holder", refused)
    monkeypatch.setattr(module.resource, "setrlimit", lambda *_args: None)
    monkeypatch.setattr(module, "disk_of", lambda _folder: "")
    assert main("n1", "system") == Unavailable("").exit_code
    said = capsys.readouterr().err
    assert "on a disk: nothing is spilled" in said and "objects: no kernel answers" in said


def test_a_folder_that_others_may_write_to_is_refused(home: Path) -> None:
    folder = Path(folder_of("n1", "system"))
    assert folder == Path(folder_of("n1", "system")) and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    with pytest.raises(SystemExit, match="is not a folder of this user alone: remove it"):
        folder_of("n1", "system")
    folder.rmdir()
    (home / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(home / "elsewhere")
    with pytest.raises(SystemExit, match="is not a folder of this user alone"):
        folder_of("n1", "system")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
def test_a_folder_of_another_user_is_refused(home: Path) -> None:
    os.chown(folder_of("n1", "system"), 12345, 12345)
    with pytest.raises(SystemExit, match="is not a folder of this user alone"):
        folder_of("n1", "system")


def test_a_node_whose_folder_is_not_ones_own_has_it_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "var").mkdir()
    monkeypatch.setattr(module, "_DISK", str(home / "var"))
    monkeypatch.setattr(module.os, "access", lambda path, _mode: path == str(home / "var"))
    assert Path(folder_of("n1", "system")).parent == home / "var"


def test_a_lock_that_was_removed_with_its_file_is_not_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = locked(str(tmp_path))
    assert first >= 0 and locked(str(tmp_path)) == -1
    os.close(first)
    flock, files = fcntl.flock, descriptors()

    def after_it_was_removed(descriptor: int, how: int) -> None:
        flock(descriptor, how)
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").touch()

    monkeypatch.setattr(module.fcntl, "flock", after_it_was_removed)
    assert locked(str(tmp_path)) == -1
    assert descriptors() <= files


def test_a_bound_that_is_no_number_is_refused_by_who_starts_and_by_what_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIOS_OBJECTS_MEMORY", "much")
    with pytest.raises(CallerError, match="UNIOS_OBJECTS_MEMORY=much is no number of bytes"):
        start("n1", "system")
    with pytest.raises(SystemExit, match="UNIOS_OBJECTS_MEMORY=much is no number of bytes"):
        bytes_of("UNIOS_OBJECTS_MEMORY", 5)
    monkeypatch.setenv("UNIOS_OBJECTS_MEMORY", "")
    assert bytes_of("UNIOS_OBJECTS_MEMORY", 5) == 5
