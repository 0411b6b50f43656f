"""Frames: what is read back, what counts as a torn tail and what as damage."""

from hypothesis import given
from hypothesis import strategies as st

from unios.core.log_frames import decode, encode, scan

SALT, EPOCH = 77, 3


def file_of(batches: list[list[bytes]], first: int = 5) -> tuple[bytes, list[int]]:
    """Return a file of these frames, and where each ends."""
    data, ends = b"", []
    for batch in batches:
        data += encode(SALT, EPOCH, first, batch)
        first += len(batch)
        ends.append(len(data))
    return data, ends


BATCHES = st.lists(st.lists(st.binary(max_size=50), min_size=1, max_size=5), min_size=1, max_size=6)


@given(BATCHES)
def test_what_was_written_is_read(batches: list[list[bytes]]) -> None:
    data, _ends = file_of(batches)
    found = scan(SALT, EPOCH, data, 5)
    assert found.good == len(data) and not found.damage
    read = [decode(SALT, EPOCH, data, place.position) for place in found.places]
    assert [each and each[1] for each in read] == batches


@given(BATCHES, st.data())
def test_a_file_that_was_cut_anywhere_ends_with_its_last_whole_frame(batches: list[list[bytes]], data: st.DataObject) -> None:
    whole, ends = file_of(batches)
    cut = data.draw(st.integers(0, len(whole)))
    found = scan(SALT, EPOCH, whole[:cut], 5)
    assert found.good == max((end for end in ends if end <= cut), default=0) and not found.damage


@given(BATCHES, st.data())
def test_a_spoilt_byte_is_a_torn_tail_in_the_last_frame_and_damage_before(batches: list[list[bytes]], data: st.DataObject) -> None:
    whole, ends = file_of(batches)
    at = data.draw(st.integers(0, len(whole) - 1))
    spoilt = bytearray(whole)
    spoilt[at] ^= 1 << data.draw(st.integers(0, 7))
    found = scan(SALT, EPOCH, bytes(spoilt), 5)
    hit = next(index for index, end in enumerate(ends) if at < end)
    if hit == len(ends) - 1:
        assert found.good == ([0, *ends])[hit] and not found.damage
    else:
        first = 5 + sum(map(len, batches[:hit]))
        assert found.good == len(whole) and found.damage == [(first, first + len(batches[hit]))]


def test_an_entry_that_is_a_copy_of_a_frame_is_none() -> None:
    inner = encode(SALT + 1, EPOCH, 9, [b"x"])
    torn = encode(SALT, EPOCH, 5, [b"y", inner])[:-1]
    assert scan(SALT, EPOCH, torn, 5).good == 0
    assert scan(SALT, EPOCH, encode(SALT, EPOCH + 1, 5, [b"of another epoch"]), 5).good == 0


def test_a_frame_alone_is_read_from_its_beginning_and_what_follows_a_spoilt_one_of_any_length_is_found() -> None:
    frame = encode(SALT, EPOCH, 5, [b"x", b""])
    found = decode(SALT, EPOCH, frame)
    assert found is not None and found[1] == [b"x", b""]
    for torn in range(1, 9):
        scanned = scan(SALT, EPOCH, b"?" * torn + encode(SALT, EPOCH, 6, [b"y"]), 5)
        assert scanned.damage == [(5, 6)] and scanned.good > torn
