"""Where something is mounted and what it is called, by Linux's list; and how a folder is reached without a step into a mount of ours."""

import os
from pathlib import Path

import pytest

from tests.fuse.mounted import needs_fuse
from unios.errors import CallerError
from unios.fuse import mounting

LINE = "36 25 0:40 / {} rw,nosuid,nodev shared:9 - {} {} rw,user_id=0"
ODD = "odd \t\\ \r\x0b\x85\u2028 - name"


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is said to be mounted: place -> kind."""
    made: dict[str, str] = {}
    read = Path.read_bytes

    def list_(path: Path) -> bytes:
        if str(path) != "/proc/self/mountinfo":
            return read(path)
        escaped = {place: "".join(f"\\{ord(each):03o}" if each in " \t\n\\" else each for each in place) for place in made}
        return "".join(f"{LINE.format(escaped[place], kind, 'unios:7')}\n" for place, kind in made.items()).encode()

    monkeypatch.setattr(Path, "read_bytes", list_)
    return made


def test_names_are_read_as_linux_writes_them(listed: dict[str, str]) -> None:
    listed["/" + ODD] = mounting.KIND
    listed["/plain"] = "ext4"
    assert mounting.kind_of(Path("/" + ODD)) == mounting.KIND and mounting.source_of(Path("/" + ODD)) == "unios:7"
    assert mounting.kind_of(Path("/plain")) == "ext4" and mounting.source_of(Path("/plain")) == "" == mounting.kind_of(Path("/odd"))


def test_a_folder_is_reached_by_links_and_never_by_way_of_a_mount_of_ours(
    tmp_path: Path, listed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "to-b").symlink_to("a/b")
    (tmp_path / "a/far").symlink_to(tmp_path / "to-b")
    (tmp_path / "round").symlink_to("round")
    listed[str(tmp_path / "ours")] = mounting.KIND
    listed[str(tmp_path / "theirs")] = "nfs4"
    for name, there in (
        ("to-b", "a/b"),
        ("a/far", "a/b"),
        ("a/far/../x", "a/x"),
        ("ours", "ours"),
        ("nothing/at/all", "nothing/at/all"),
        ("theirs/x", "theirs/x"),
    ):
        assert mounting.reached(tmp_path / name) == tmp_path / there, name
    looked: list[str] = []
    readlink = os.readlink
    monkeypatch.setattr(os, "readlink", lambda path: looked.append(str(path)) or readlink(path))
    (tmp_path / "in").symlink_to("ours/x")
    for name in ("ours/x", "ours/..", "in", "in/y"):
        with pytest.raises(CallerError, match="unios has mounted itself"):
            mounting.reached(tmp_path / name)
    assert looked and not [path for path in looked if path.startswith(str(tmp_path / "ours"))]
    for name in (tmp_path, tmp_path / "a/.."):
        with pytest.raises(CallerError, match="is above"):
            mounting.reached(name)
    with pytest.raises(CallerError, match="too many"):
        mounting.reached(tmp_path / "round")
    with pytest.raises(CallerError, match="on /"):
        mounting.reached(Path("/tmp/.."))
    (tmp_path / "fil").touch()
    assert mounting.reached(tmp_path / "fil/x") == tmp_path / "fil/x", "mounting says what that is"


@needs_fuse
def test_only_what_is_called_so_is_unmounted(tmp_path: Path) -> None:
    descriptor = mounting.mount(tmp_path, source="unios:abc")
    assert mounting.source_of(tmp_path) == "unios:abc"
    assert not mounting.unmount(tmp_path, source="unios:abd") and mounting.kind_of(tmp_path) == mounting.KIND
    assert mounting.unmount(tmp_path, source="unios:abc")
    os.close(descriptor)
