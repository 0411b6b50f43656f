"""Parcels, cut anywhere, mangled, or too large."""

import mmap

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unios.errors import ProtocolError
from unios.limits import TASK_BYTES_MAX, TASK_PARTS_MAX
from unios.wire import parcels
from unios.wire.gathering import room_for
from unios.wire.parcels import Answer, Give, Head, ParcelReader, Part, Stop, head_of, is_short, sizes_of

SIZES = st.lists(st.sampled_from([0, 1, 5, 100, 70_000, 200_000]), max_size=5)


def read(reader: ParcelReader, data: bytes, pieces: list[int]) -> list[tuple[Head, list[bytes]]]:
    """Feed the bytes in pieces, through `room` where there is one."""
    found: list[tuple[Head, list[Part]]] = []
    at = turn = 0
    while at < len(data):
        size = pieces[turn % len(pieces)]
        turn += 1
        room = reader.room()
        if room is None:
            found += reader.feed(data[at : at + size])
            at += size
        else:
            size = min(size, len(room), len(data) - at)
            room[:size] = data[at : at + size]
            at += size
            if (whole := reader.filled(size)) is not None:
                found.append(whole)
    return [(head, [bytes(part) for part in parts]) for head, parts in found]


@given(
    st.lists(SIZES, max_size=6), st.lists(st.sampled_from([1, 3, 50, 4_000, 70_001, 500_000]), min_size=1, max_size=4).filter(lambda p: max(p) > 40)
)
def test_what_is_said_is_heard_however_it_is_cut(sizes: list[list[int]], pieces: list[int]) -> None:
    said: list[tuple[Head, list[bytes]]] = []
    for number, each in enumerate(sizes):
        parts = [bytes([number + 65]) * size for size in each]
        said.append((Answer(sizes_of(parts), number, bool(number % 2)), parts))
    said.append((Stop(), []))
    data = b"".join(head_of(head) + b"".join(parts) for head, parts in said)
    assert read(ParcelReader(), data, pieces) == said


@given(
    st.lists(SIZES, max_size=6), st.lists(st.sampled_from([1, 3, 50, 4_000, 70_001, 500_000]), min_size=1, max_size=4).filter(lambda p: max(p) > 40)
)
def test_what_there_is_no_memory_for_is_read_over_and_the_rest_is_heard(sizes: list[list[int]], pieces: list[int]) -> None:
    def scarce(size: int) -> memoryview:
        if size > 100_000:
            raise MemoryError
        return room_for(size)

    said: list[tuple[Head, list[bytes]]] = []
    for number, each in enumerate(sizes):
        parts = [bytes([number + 65]) * size for size in each]
        said.append((Answer(sizes_of(parts), number), parts))
    data = b"".join(head_of(head) + b"".join(parts) for head, parts in said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parcels, "room_for", scarce)
        found = read(ParcelReader(), data, pieces)
    assert found == [(head, [] if 200_000 in head.sizes else parts) for head, parts in said]
    assert [is_short(head, parts) for head, parts in found] == [200_000 in head.sizes for head, _parts in found]


@given(st.binary(max_size=200))
def test_garbage_is_an_error_of_the_protocol_or_waits_for_more(data: bytes) -> None:
    try:
        read(ParcelReader(), data, [64])
    except ProtocolError:
        pass


def test_what_is_announced_over_the_bounds_is_refused_before_it_comes() -> None:
    for sizes in ((TASK_BYTES_MAX + 1,), (1,) * (TASK_PARTS_MAX + 1), (-1, 5)):
        with pytest.raises(ProtocolError):
            ParcelReader().feed(head_of(Give(sizes, 1)))
    with pytest.raises(ProtocolError):
        ParcelReader().feed(b"\xff\xff\xff\xff")
    with pytest.raises(ProtocolError):
        ParcelReader().feed(b"\0\0\0\1" + msgspec.msgpack.encode(7))


def test_what_is_announced_takes_memory_as_it_comes_and_not_before() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE

    before = resident()
    reader = ParcelReader()
    reader.feed(head_of(Give((256 * 1024 * 1024,), 1)))
    room = reader.room()
    assert room is not None and len(room) == 256 * 1024 * 1024
    room[:5] = b"first"
    assert reader.filled(5) is None
    assert resident() - before < 64 * 1024 * 1024


def test_what_is_over_the_bounds_is_not_announced_either() -> None:
    assert sizes_of([b"a", b"bc"]) == (1, 2)
    with pytest.raises(ProtocolError, match="are too much for one message"):
        sizes_of([b""] * (TASK_PARTS_MAX + 1))
