"""Time index: says from which offset on output came at a time or later, a quarter of a second early at most; bounded."""

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from unios.kernel import time_index
from unios.kernel.time_index import TimeIndex, TimeWriter, read
from unios.limits import TIME_INDEX_MS


class Clock:
    """Both clocks of the writer, in the test's hand; they run together."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def monotonic(self) -> float:
        return self.ms / 1000

    def time_ns(self) -> int:
        return self.ms * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time_index, "time", made)
    return made


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[TimeWriter]:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield TimeWriter(folder)
    os.close(folder)


def test_since_a_time_begins_with_what_came_then(tmp_path: Path, clock: Clock, writer: TimeWriter) -> None:
    writer.note({"out": 100, "err": 0})
    clock.ms += 60_000
    writer.note({"out": 150, "err": 7})
    found = read(str(tmp_path))
    assert found.since(0) == (0, 0)
    assert found.since(clock.ms - 30_000) == (100, 0)
    assert found.since(clock.ms) == (100, 0)
    assert found.since(clock.ms + TIME_INDEX_MS + 1) is None


def test_a_silent_program_leaves_no_file(tmp_path: Path, clock: Clock, writer: TimeWriter) -> None:
    for _turn in range(3):
        writer.note({"out": 0, "err": 0})
        clock.ms += 60_000
    assert os.listdir(tmp_path) == [] and read(str(tmp_path)).since(0) is None
    writer.note({"out": 0, "err": 1})
    assert read(str(tmp_path)).since(clock.ms) == (0, 0)


def test_output_after_an_entry_and_within_its_span_is_not_taken_for_later(tmp_path: Path, clock: Clock, writer: TimeWriter) -> None:
    writer.note({"out": 10, "err": 0})
    clock.ms += TIME_INDEX_MS - 1
    writer.note({"out": 20, "err": 0})
    assert len(read(str(tmp_path)).entries) == 1
    assert read(str(tmp_path)).since(clock.ms) == (0, 0)
    clock.ms += 3_600_000
    writer.note({"out": 30, "err": 0})
    assert read(str(tmp_path)).since(clock.ms - 1_000_000) == (20, 0)


def test_what_does_not_grow_writes_nothing_and_a_clock_set_back_keeps_the_order(
    tmp_path: Path, clock: Clock, writer: TimeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(10):
        writer.note({"out": 10, "err": 0})
        clock.ms += 10_000
    assert len(read(str(tmp_path)).entries) == 1
    monkeypatch.setattr(clock, "time_ns", lambda: 5_000_000)
    writer.note({"out": 11, "err": 0})
    assert [entry[0] for entry in read(str(tmp_path)).entries] == [1_000_000, 1_000_000]


def test_at_the_bound_it_becomes_coarser_and_never_leaves_out_what_came_since(
    tmp_path: Path, clock: Clock, writer: TimeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_index, "TIME_INDEX_ENTRIES_MAX", 16)
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    came: list[int] = []
    for number in range(1, 400):
        clock.ms += chance.choice((1, 100, TIME_INDEX_MS, 1_000, 60_000))
        came.append(clock.ms)
        writer.note({"out": number, "err": 0})
        found = read(str(tmp_path))
        assert len(found.entries) < 16, f"seed {seed}"
        at = chance.choice(came) + chance.randrange(-200, 200)
        begins = found.since(at)
        first = next((offset for offset, ms in enumerate(came) if ms >= at), None)
        assert first is None or (begins is not None and begins[0] <= first), f"seed {seed}"
        if begins is not None:
            assert came[begins[0]] >= at - 2 * found.span_ms, f"seed {seed}"


def test_a_full_disk_or_garbage_makes_it_coarser_and_nothing_else(tmp_path: Path, clock: Clock, writer: TimeWriter) -> None:
    assert read(str(tmp_path)) == TimeIndex(TIME_INDEX_MS, []) and read(str(tmp_path)).since(5) is None
    (tmp_path / "times").write_bytes(struct.pack("<QQQQ", TIME_INDEX_MS, 7, 1, 2) + b"cut off")
    assert read(str(tmp_path)).entries == [(7, 1, 2)]
    (tmp_path / "times").write_bytes(b"cut")
    assert read(str(tmp_path)).entries == []
    (tmp_path / "times").unlink()
    (tmp_path / "times").mkdir()
    writer.note({"out": 5, "err": 0})
    assert read(str(tmp_path)).entries == []
