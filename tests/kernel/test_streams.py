"""Streams: segments of a bounded size, offsets that never change, and a reader that says what is gone."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.descriptors import descriptors
from unios.kernel.streams import StreamWriter
from unios.wire.segments import StreamReader, file_name, segments

SEGMENT, KEPT = 100, 350


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def writer_in(folder: int, *, kept: int = KEPT) -> StreamWriter:
    return StreamWriter(folder, "out", segment_bytes=SEGMENT, kept_bytes=kept)


class Reader(StreamReader):
    def get(self, offset: int, bytes_max: int) -> tuple[int, bytes]:
        """Return (actual offset, what was read)."""
        into = bytearray(bytes_max)
        at, count = self.read(offset, memoryview(into))
        return at, bytes(into[:count])


def write(writer: StreamWriter, data: bytes) -> None:
    while data:
        data = data[writer.write(data) :]


def read_all(reader: Reader, offset: int = 0, *, bytes_max: int = 64) -> list[tuple[int, bytes]]:
    """Read to the present end; return every answer with bytes."""
    answers = []
    while True:
        at, data = reader.get(offset, bytes_max)
        if not data:
            return answers
        answers.append((at, data))
        offset = at + len(data)


def on_disk(path: Path) -> int:
    return sum(entry.stat().st_size for entry in path.iterdir())


STORY = bytes(n % 251 for n in range(5_000))


def test_segments_begin_where_the_one_before_ends_and_are_of_a_bounded_size(tmp_path: Path, folder: int) -> None:
    writer = writer_in(folder, kept=10**9)
    write(writer, STORY[:320])
    assert segments(tmp_path, "out") == segments(folder, "out") == [0, 100, 200, 300]
    assert [(tmp_path / file_name("out", start)).stat().st_size for start in (0, 100, 200, 300)] == [100, 100, 100, 20]
    assert (tmp_path / file_name("out", 0)).stat().st_mode & 0o777 == 0o600
    assert (writer.start, writer.end) == (0, 320)


def test_a_write_never_crosses_a_segments_end(folder: int) -> None:
    writer = writer_in(folder)
    assert [writer.write(STORY[:70]), writer.write(STORY[70:140]), writer.write(STORY[100:400])] == [70, 30, 100]


def test_what_is_kept_stays_under_the_bound_at_every_moment(tmp_path: Path, folder: int) -> None:
    writer = writer_in(folder)
    most = 0
    for start in range(0, len(STORY), 37):
        write(writer, STORY[start : start + 37])
        most = max(most, on_disk(tmp_path))
    assert KEPT - 2 * SEGMENT <= most <= KEPT
    assert writer.start == segments(tmp_path, "out")[0] > 0


def test_without_a_bound_everything_would_be_kept(tmp_path: Path, folder: int) -> None:
    write(writer_in(folder, kept=10**9), STORY)
    assert on_disk(tmp_path) == len(STORY) > KEPT


def test_a_bound_below_one_segment_still_keeps_the_present_one(tmp_path: Path, folder: int) -> None:
    writer = writer_in(folder, kept=1)
    write(writer, STORY[:250])
    assert segments(tmp_path, "out") == [200] and writer.start == 200


def test_a_reader_gets_every_byte_at_its_offset_across_rotations(tmp_path: Path, folder: int) -> None:
    write(writer_in(folder, kept=10**9), STORY)
    answers = read_all(Reader(tmp_path, "out"))
    assert b"".join(data for _, data in answers) == STORY
    assert all(STORY[at : at + len(data)] == data for at, data in answers)
    assert all(at // SEGMENT == (at + len(data) - 1) // SEGMENT for at, data in answers)


def test_a_reader_that_follows_gets_every_byte_as_it_is_written(tmp_path: Path, folder: int) -> None:
    writer, reader, found = writer_in(folder), Reader(tmp_path, "out"), b""
    assert reader.get(0, 64) == (0, b"")
    for start in range(0, len(STORY), 41):
        write(writer, STORY[start : start + 41])
        for at, data in read_all(reader, len(found)):
            assert at == len(found)
            found += data
    assert found == STORY


def test_bytes_that_are_gone_are_reported_by_a_larger_offset(tmp_path: Path, folder: int) -> None:
    writer = writer_in(folder)
    write(writer, STORY[:1_020])
    at, data = Reader(tmp_path, "out").get(0, 64)
    assert at == writer.start > 0 and data == STORY[at : at + 64]
    at, data = Reader(tmp_path, "out").get(writer.start - 1, 10)
    assert (at, data) == (writer.start, STORY[writer.start : writer.start + 10])


def test_a_reader_that_was_overtaken_reads_its_open_segment_to_the_end_and_then_says_what_is_gone(tmp_path: Path, folder: int) -> None:
    writer, reader = writer_in(folder), Reader(tmp_path, "out")
    write(writer, STORY[:150])
    assert reader.get(0, 40) == (0, STORY[:40])
    write(writer, STORY[150:2_000])
    assert reader.get(40, 100) == (40, STORY[40:100])
    at, data = reader.get(100, 100)
    assert at == writer.start and data == STORY[at : at + len(data)] and data


def test_a_reader_may_jump_back_and_forth(tmp_path: Path, folder: int) -> None:
    write(writer_in(folder, kept=10**9), STORY[:340])
    reader = Reader(tmp_path, "out")
    for offset in (310, 5, 99, 100, 205, 0, 339):
        at, data = reader.get(offset, 7)
        assert at == offset and data and data == STORY[offset : offset + len(data)]


def test_at_the_end_there_is_nothing_yet_and_it_is_no_loss(tmp_path: Path, folder: int) -> None:
    writer, reader = writer_in(folder), Reader(tmp_path, "out")
    assert (reader.get(0, 10), reader.end()) == ((0, b""), 0)
    assert (reader.get(7, 10), Reader(tmp_path / "none", "out").end()) == ((7, b""), 0)
    for size in (50, 100):  # in a segment, and at its end
        write(writer, STORY[writer.end : size])
        assert (reader.get(size, 10), reader.end()) == ((size, b""), size)


def test_the_two_streams_and_other_files_do_not_mix(tmp_path: Path, folder: int) -> None:
    err = StreamWriter(folder, "err", segment_bytes=SEGMENT, kept_bytes=KEPT)
    write(writer_in(folder), b"to out")
    write(err, b"to err")
    for other in ("out.1", "out.x000000000000000", "tree.json", "out.00000000000000000"):
        (tmp_path / other).write_bytes(b"no segment")
    assert Reader(tmp_path, "out").get(0, 99) == (0, b"to out")
    assert Reader(tmp_path, "err").get(0, 99) == (0, b"to err")


def test_a_reader_and_a_writer_hold_one_file_each(tmp_path: Path, folder: int) -> None:
    before = descriptors()
    writer, reader = writer_in(folder), Reader(tmp_path, "out")
    write(writer, STORY)
    read_all(reader)
    assert len(descriptors() - before) == 2
    for _ in range(2):
        writer.close()
        reader.close()
    assert descriptors() <= before


def test_a_reader_beside_a_writer_that_drops_segments_sees_no_byte_twice_and_none_at_a_wrong_offset(tmp_path: Path, folder: int) -> None:
    """The real race: segments vanish between looking and opening."""
    data = os.urandom(400_000)
    writer, reader = writer_in(folder), Reader(tmp_path, "out")
    thread = threading.Thread(target=write, args=(writer, data))
    thread.start()
    offset, gaps = 0, 0
    try:
        while thread.is_alive() or offset < writer.end:
            at, got = reader.get(offset, 64)
            assert at >= offset and data[at : at + len(got)] == got
            gaps += at > offset
            offset = at + len(got)
    finally:
        thread.join()
    assert offset == len(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 260), st.integers(0, 700)), max_size=12))
def test_whatever_is_written_and_asked_for_an_answer_is_what_was_written_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("stream")
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    writer, reader = writer_in(descriptor), Reader(path, "out")
    for size, offset in steps:
        write(writer, STORY[writer.end : writer.end + size])
        at, data = reader.get(offset, 50)
        assert data == STORY[at : at + len(data)] and at >= offset
        if offset < writer.end:
            assert data and at in (offset, writer.start)
        assert reader.end() == writer.end
    os.close(descriptor)
    writer.close()
    reader.close()


def test_what_is_spliced_from_a_pipe_is_kept_as_what_is_written(tmp_path: Path, folder: int) -> None:
    writer = writer_in(folder, kept=10**9)
    pipe, program = os.pipe2(os.O_NONBLOCK)
    os.write(program, STORY[:250])
    assert [writer.splice(pipe, 70) for _ in range(5)] == [70, 30, 70, 30, 50]
    with pytest.raises(BlockingIOError):
        writer.splice(pipe, 70)
    write(writer, STORY[250:280])
    os.write(program, STORY[280:290])
    assert writer.splice(pipe, 99) == 10
    os.close(program)
    assert writer.splice(pipe, 99) == 0
    os.close(pipe)
    assert b"".join(data for _at, data in read_all(Reader(tmp_path, "out"))) == STORY[:290]
    assert segments(folder, "out") == [0, 100, 200]
