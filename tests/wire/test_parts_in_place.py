"""Parts of large buffers on their way: read where they are put together, or copied there, the same comes out."""

import mmap
import os
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.test_large_frames import fed
from unios.client.messages.intake import Intake
from unios.errors import ProtocolError
from unios.wire.conversations import decode
from unios.wire.frames import FrameReader, frame
from unios.wire.gathering import Gathering
from unios.wire.messages import Ack, Part, Request, encode

BIG = os.urandom(1024 * 1024)
PIECE = 100_000


def request(id_: int, sizes: list[int]) -> bytes:
    """Return a message with large buffers as it goes over a connection."""
    total, data = sum(sizes), b""
    for number, size in enumerate(sizes):
        buffer = BIG[number : number + size]
        for start in range(0, size, PIECE):
            data += frame(encode(Part(id_, total, memoryview(buffer[start : start + PIECE]))))
    places = tuple((-1, 0, size) for size in sizes)
    return data + frame(encode(Request(id_, "op", encode(None), buffers=places)))


sizes_of_one = st.lists(st.integers(1, 250_000) | st.sampled_from([32 * 1024 - 60, PIECE, PIECE + 1]), min_size=1, max_size=4)


@given(st.lists(sizes_of_one, min_size=1, max_size=4), st.lists(st.tuples(st.booleans(), st.integers(3_000, 200_000)), min_size=1, max_size=6))
def test_what_comes_out_is_what_went_in_wherever_it_is_read(messages: list[list[int]], cuts: list[tuple[bool, int]]) -> None:
    intake = Intake(trusted=True)
    reader = FrameReader(intake.place)
    data = b"".join(request(id_, sizes) + frame(encode(Ack(id_))) for id_, sizes in enumerate(messages))
    found: list[list[bytes]] = []
    at, turn = 0, 0
    while at < len(data):  # each piece is dealt with before the next is read, as a connection does it
        direct, size = cuts[turn % len(cuts)]
        turn += 1
        room = reader.room() if direct else None
        piece = data[at : at + (size if room is None else min(size, len(room)))]
        if room is not None:
            room[: len(piece)] = piece
        at += len(piece)
        for payload in reader.feed(piece if room is None else room[: len(piece)]):
            message = decode(payload)
            if isinstance(message, Part):
                intake.add(message)
            elif isinstance(message, Request):
                found.append([bytes(buffer) for buffer in intake.value(message).buffers])
    assert found == [[BIG[number : number + size] for number, size in enumerate(sizes)] for sizes in messages]
    assert reader.pending == 0 and reader.room() is None


def test_a_large_part_is_read_straight_into_its_message() -> None:
    intake = Intake(trusted=True)
    reader = FrameReader(intake.place)
    part = frame(encode(Part(7, 300_000, memoryview(BIG[:300_000]))))
    assert reader.feed(part[:1_000]) == []
    room = reader.room()
    assert room is not None and len(room) == len(part) - 1_000
    room[:] = part[1_000:]
    assert reader.feed(room) == []  # nothing is left to be copied
    assert intake.value(Request(7, "op", encode(None), buffers=((-1, 0, 300_000),))).buffers[0] == BIG[:300_000]


@given(st.integers(0, 2**63), st.integers(0, 2**40), st.integers(0x10000, 0x20000))
def test_the_beginning_of_a_part_is_known_by_all_that_is_written(id_: int, total: int, size: int) -> None:
    data = encode(Part(id_, total, memoryview(BIG[:size])))
    found = Part.begun(memoryview(data), len(data))
    assert found is not None
    before, part = found
    assert (part.id, part.total, before) == (id_, total, len(data) - size)
    for cut in range(before):
        assert Part.begun(memoryview(data)[:cut], len(data)) is None
    assert Part.begun(memoryview(data), len(data) + 1) is None
    assert Part.begun(memoryview(data), len(data) - 1) is None


@given(st.binary(max_size=100), st.integers(0, 2**23))
def test_any_other_beginning_is_none(data: bytes, length: int) -> None:
    for begin in (data, b"\x84\xa4type\xa4part" + data, b"\x84\xa4type\xa4part\xa2id" + data + b"\xa4data\xc6" + length.to_bytes(4, "big")):
        found = Part.begun(memoryview(begin), length)
        assert found is None or isinstance(found[1], Part)


def test_a_part_over_what_was_announced_is_refused_before_it_is_read() -> None:
    intake = Intake(trusted=True)
    reader = FrameReader(intake.place)
    assert fed(reader, frame(encode(Part(1, 150_000, memoryview(BIG[:100_000])))), [(True, 50_000)]) == []
    with pytest.raises(ProtocolError, match="more than it had announced"):
        reader.feed(frame(encode(Part(1, 150_000, memoryview(BIG[:100_000]))))[:200])


@given(st.integers(0, 400_000), st.booleans())
def test_what_was_begun_when_a_connection_ends_is_let_go_of_wherever_it_was_cut(cut: int, placed: bool) -> None:
    rooms: list[weakref.ref[Any]] = []

    def allocate(size: int) -> memoryview:
        room = mmap.mmap(-1, size)
        rooms.append(weakref.ref(room))
        return memoryview(room)

    intake = Intake(trusted=True)
    intake._gathering = Gathering(1 << 20, allocate)
    reader = FrameReader(intake.place if placed else None)
    data = request(1, [250_000, 250_000])[:cut]
    for whole in map(decode, reader.feed(data)):
        assert isinstance(whole, Part)
        intake.add(whole)
    reader.clear()
    intake.release()
    assert all(room() is None for room in rooms)
    assert reader.pending == 0 and reader.room() is None
    assert [bytes(one) for one in reader.feed(frame(b"whole"))] == [b"whole"]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(-5, 70_000), st.integers(0, 70_000), st.sampled_from("ptd")), max_size=60),
    st.integers(0, 100_000),
)
def test_whatever_a_peer_announces_no_more_is_held_than_the_bound_and_no_two_messages_share_memory(
    steps: list[tuple[int, int, int, str]], bytes_max: int
) -> None:
    held: dict[int, int] = {}
    rooms: list[memoryview] = []

    def allocate(size: int) -> memoryview:
        rooms.append(memoryview(bytearray(size)))
        return rooms[-1]

    gathering = Gathering(bytes_max, allocate)
    taken: list[memoryview] = []
    for id_, total, size, what in steps:
        try:
            if what == "p":
                place = gathering.place(Part(id_, total, memoryview(b"")), size)
                assert len(place) == size
                held[id_] = total
            elif what == "t":
                room = gathering.take(id_, total)
                assert len(room) == total and all(room.obj is not other.obj for other in taken if total)
                taken.append(room)
                held.pop(id_, None)
            else:
                gathering.drop(id_)
                held.pop(id_, None)
        except ProtocolError:
            return  # the connection ends
        assert sum(held.values()) == gathering._announced <= bytes_max
        assert len(held) <= 16
