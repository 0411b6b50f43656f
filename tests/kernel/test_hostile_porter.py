"""A porter runs as a user, who may have it say anything: what it says goes through the same checks as a stranger's word, within the same bounds."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unios.errors import CallerError, Unavailable
from unios.kernel import porter, porting
from unios.kernel.blocks import BlockStore
from unios.kernel.porter import FRAME_BYTES_MAX, LENGTH, Done, Job, Pipe
from unios.kernel.porting import Account
from unios.wire.manifests import Entry

ANN = Account("ann", 65_534, 65_534, [])
SAYS = """
import sys
while sys.argv[2:] and sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(4), "big")) != b"\\xc0":
    pass  # its job, to the end
sys.stdout.buffer.write(open(sys.argv[1], "rb").read())
"""
Says = Callable[..., porting.Collected]


@pytest.fixture
def collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Says:
    """Collect with a porter that says so."""

    def collect(*said: object) -> porting.Collected:
        data = [msgspec.msgpack.encode(one) for one in said]
        (tmp_path / "said").write_bytes(b"".join(LENGTH.pack(len(one)) + one for one in data))
        monkeypatch.setattr(porting, "PORTER", (sys.executable, "-c", SAYS, str(tmp_path / "said"), "reads"))
        store = BlockStore(str(tmp_path / "blocks"))
        return porting.collect(store, ANN, str(tmp_path), [], patterns=(), every=True, pinned=frozenset)

    return collect


def file(path: bytes, size: int, **fields: Any) -> Entry:
    return Entry(path, "f", size=size, **fields)


def test_what_a_good_porter_says_is_taken(collected: Says) -> None:
    found = collected(b"abc", file(b"x", 3), Done(notes=["note"]))
    assert [entry.path for entry in found.entries] == [b"x"] and found.manifest and found.notes == ["note"]


@pytest.mark.parametrize(
    "said",
    [
        (Entry(b"../x", "d", 0o700), Done()),
        (Entry(b"/x", "d", 0o700), Done()),
        (Entry(b"l", "l", target=b"/etc"), b"abc", file(b"l/x", 3), Done()),
        (Entry(b"x", "d", 0o7777), Done()),
        (b"abc", file(b"x", 2_000_000), Done()),
        (b"abc", file(b"x", 3), b"abc", file(b"x", 3), Done()),
        (b"", file(b"x", 0), Done()),
        (b"abc", file(b"x", 3)),
        (["x"], Done()),
    ],
)
def test_what_would_leave_the_folder_or_makes_no_sense_is_not_taken(said: tuple[object, ...], collected: Says) -> None:
    with pytest.raises(Unavailable, match="porter"):
        collected(*said)


def test_the_names_of_its_blocks_are_made_here(collected: Says) -> None:
    (entry,) = collected(b"abc", file(b"x", 3, blocks=b"n" * 32), Done()).entries
    assert entry.blocks != b"n" * 32


@pytest.mark.parametrize(
    ("bound", "value", "said"),
    [
        ("RESULTS_BYTES_MAX", 5, (b"abc", file(b"x", 3), b"def", file(b"y", 3), Done())),
        ("RESULTS_FILES_MAX", 1, (*(Entry(b"%d" % number, "d", 0o700) for number in range(3)), Done())),
        ("RESULTS_MANIFEST_BYTES_MAX", 10, (b"abc", file(b"x", 3), Done())),
    ],
)
def test_what_it_sends_is_bounded_here(bound: str, value: int, said: tuple[object, ...], collected: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    collected(*said)
    monkeypatch.setattr(porting, bound, value)
    with pytest.raises(Unavailable):
        collected(*said)


def test_what_it_does_not_find_is_only_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = msgspec.msgpack.encode(Done(paths=[b"/other", b"/x"]))
    (tmp_path / "said").write_bytes(LENGTH.pack(len(data)) + data)
    monkeypatch.setattr(porting, "PORTER", (sys.executable, "-c", SAYS, str(tmp_path / "said")))
    assert porting.look(ANN, str(tmp_path), (b"/x", b"/y")) == [b"/x"]


def test_a_folder_of_which_the_porter_says_that_it_failed_is_not_taken_for_laid_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = msgspec.msgpack.encode(Done("no space"))
    (tmp_path / "said").write_bytes(LENGTH.pack(len(data)) + data)
    monkeypatch.setattr(porting, "PORTER", (sys.executable, "-c", SAYS, str(tmp_path / "said"), "reads"))
    with pytest.raises(CallerError, match="no space"):
        porting.lay_out(BlockStore(str(tmp_path / "blocks")), ANN, str(tmp_path), [])


@pytest.mark.parametrize("data", [LENGTH.pack(FRAME_BYTES_MAX + 1) + bytes(FRAME_BYTES_MAX + 1), LENGTH.pack(9) + b"\xa1a"], ids=["long", "short"])
def test_a_frame_is_as_long_as_it_says_and_no_longer_than_may_be(data: bytes) -> None:
    with pytest.raises(EOFError):
        Pipe(io.BytesIO(data), io.BytesIO()).receive(Any)


@pytest.mark.parametrize(("bound", "value"), [("RESULTS_BYTES_MAX", 5), ("RESULTS_FILES_MAX", 1)])
def test_a_good_porter_leaves_out_what_is_over_the_bounds_and_says_so(
    bound: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"abc")
    monkeypatch.chdir(tmp_path)
    asked = io.BytesIO(LENGTH.pack(1) + b"\xc0")
    whole = porter.Collector(Pipe(asked, io.BytesIO()), Job("collect", 0, 0, [], every=True)).run()
    monkeypatch.setattr(porter, bound, value)
    asked.seek(0)
    sent = io.BytesIO()
    part = porter.Collector(Pipe(asked, sent), Job("collect", 0, 0, [], every=True)).run()
    assert whole.notes == [] and len(part.notes) == 1 and "b was left out" in part.notes[0]
    sent.seek(0)
    assert Pipe(sent, io.BytesIO()).receive(bytes) == b"abc" and Pipe(sent, io.BytesIO()).receive(Entry).path == b"a" and sent.read() == b""


def test_what_lies_in_the_folder_is_not_imported(tmp_path: Path) -> None:
    """The porter begins as the node's user, in a folder that is another's."""
    for name in ("msgspec", "unios", "struct", "resource", "signal"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    assert porting.look(Account("ann", os.getuid(), os.getgid(), []), str(tmp_path), (b"/", b"/none")) == [b"/none"]
    assert not (tmp_path / "imported").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_becomes_the_user_whole_and_for_good() -> None:
    code = (
        "import os; from unios.kernel import porter; os.setgroups([0, 4]); porter.become(porter.Job('look', 65534, 65533, [65532]));"
        "print(os.getresuid(), os.getresgid(), os.getgroups(), oct(os.umask(0)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == f"{(65_534,) * 3} {(65_533,) * 3} [65532] 0o77"
