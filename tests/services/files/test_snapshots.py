"""A snapshot comes out as it went in, whatever its size; one that makes no sense says so."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from unios.client import blocks
from unios.core.files.changes import Changes, PutEntry, PutXattr
from unios.errors import DataLost
from unios.services.files import snapshots
from unios.services.files.blocks import USER
from unios.services.files.rooting import Places
from unios.services.files.snapshots import NAME_BYTES

SMALL = 100
NOBODY: Any = None


class Kept:
    """Blocks are in a dict."""

    def __init__(self) -> None:
        self.of: dict[bytes, bytes] = {}
        self.calls = 0

    def keep(self, _connection: Any, names: list[bytes], content: blocks.Content, *, user: str, sent: Callable[[int], None]) -> None:
        self.calls += 1
        for name in names:
            data = content.read(name)
            assert blocks.name_of(data) == name and content.size(name) == len(data) and user == USER
            self.of[name] = data
            sent(len(data))

    def fetch(self, _connection: Any, names: Iterable[bytes], *, user: str) -> Iterator[bytes]:
        for name in names:
            if name not in self.of:
                raise DataLost("no node that is left has it")
            yield self.of[name]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    made = Kept()
    monkeypatch.setattr(blocks, "keep", made.keep)
    monkeypatch.setattr(blocks, "fetch", made.fetch)
    monkeypatch.setattr(snapshots, "BLOCK_BYTES", SMALL)
    return made


def part(*sizes: int) -> Changes:
    return tuple(PutXattr(1, b"user.%d" % at, bytes((at,)) * size) for at, size in enumerate(sizes))


@pytest.mark.parametrize(
    "parts",
    [[], [()], [part(5)], [part(5), (), part(10, 20)], [part(1_000)], [part(*range(60)), part(3), part(500)], [part(80), part(80)]],
    ids=["nothing", "empty", "small", "three", "larger than a block", "many", "over an edge"],
)
def test_what_was_kept_is_read(kept: Kept, parts: list[Changes]) -> None:
    names = snapshots.keep(NOBODY, parts)
    assert list(snapshots.read(NOBODY, names)) == parts
    assert len(names) % NAME_BYTES == 0 and all(len(block) <= SMALL for block in kept.of.values())
    assert kept.calls == (1 if parts else 0)


def test_every_length_around_a_block_is_read(kept: Kept) -> None:
    for size in range(2 * SMALL + 20):
        parts = [part(size), part(1)]
        assert list(snapshots.read(NOBODY, snapshots.keep(NOBODY, parts))) == parts


def test_blocks_that_are_alike_are_kept_once_and_read_in_their_place(kept: Kept) -> None:
    parts = [(PutXattr(1, b"a", bytes(10 * SMALL)),)]
    names = snapshots.keep(NOBODY, parts)
    assert len(names) // NAME_BYTES > len(kept.of)
    assert list(snapshots.read(NOBODY, names)) == parts


def test_how_far_it_is_is_told(kept: Kept) -> None:
    told = list[int]()
    snapshots.keep(NOBODY, [part(250)], told.append)
    assert sum(told) == sum(len(block) for block in kept.of.values()) and len(told) > 1


def test_a_snapshot_of_which_something_is_missing_or_makes_no_sense_says_so(kept: Kept) -> None:
    names = snapshots.keep(NOBODY, [(PutEntry(1, b"name", 2),), part(250)])
    first, *others = [names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)]
    for wrong in (b"".join((first, *others[:-1])), b"".join(others), b"".join((first, first, *others)), first[:-1] + b"\0"):
        with pytest.raises(DataLost):
            list(snapshots.read(NOBODY, wrong))
    whole = kept.of[first]
    for bad in (whole[:2], whole[:4], b"\xff" * 4 + whole[4:], bytes(4) + whole[4:], whole + b"\1"):
        kept.of[first] = bad
        with pytest.raises(DataLost):
            list(snapshots.read(NOBODY, first))


# where in the log entries are


def test_what_is_behind_an_entry_begins_after_the_batch_that_it_ends() -> None:
    places = Places(0)
    assert places.after(5) == 0
    places.add(3, 10)
    places.add(8, 12)
    places.add(9, 20)
    assert [places.after(at) for at in (0, 2, 3, 7, 8, 9, 100)] == [0, 0, 11, 11, 13, 21, 21]


def test_entries_since_the_last_snapshot_are_counted() -> None:
    places = Places(7)
    places.add(3, 10)
    assert places.entries == 8
    places.add(8, 12)
    places.add(9, 20)
    assert places.entries == 18
    places.forget(places.after(8))
    assert places.entries == 8 and places.after(9) == 21 and places.after(8) == 13, "that of the snapshot itself is known still"
    places.add(10, 21)
    assert places.entries == 9
    places.forget(places.after(10))
    assert places.entries == 0
    places.add(11, 22)
    assert places.entries == 1


def test_places_are_forgotten() -> None:
    places = Places(0)
    for at in range(1_000):
        places.add(at, at)
        places.forget(places.after(at))
    assert len(places._batches) <= 2
