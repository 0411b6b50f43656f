"""Pumps: nothing is read that could not be kept, nothing is lost that was read, and who is not allowed to go on waits."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from unios.kernel import pumps
from unios.kernel.poller import Poller
from unios.kernel.pumps import InputPump, OutputPump
from unios.kernel.streams import StreamWriter
from unios.limits import STDIN_BUFFER_BYTES
from unios.wire.segments import StreamReader


class Output:
    """A pump of an output pipe into a folder, with its gates in the test's hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        pipe, self.program = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.allowed, self.limit, self.disk = True, 10**9, 0
        self.poller = Poller()
        self.writer = StreamWriter(self.folder, "out")
        self.writer.write, self._write = self._on_disk, self.writer.write  # type: ignore[method-assign]
        self.pump = OutputPump(self.poller, pipe, self.writer, lambda: self.allowed, lambda: self.limit)
        self.pump.update()

    def _on_disk(self, data: bytes | memoryview) -> int:
        if self.disk:
            raise OSError(self.disk, os.strerror(self.disk))
        return self._write(data)

    def say(self, data: bytes) -> None:
        os.write(self.program, data)

    def turn(self) -> None:
        """Let the poller do what is due, and no more."""
        self.poller.after(0, lambda: None)
        self.poller.turn()

    @property
    def kept(self) -> bytes:
        reader = StreamReader(self.path, "out")
        try:
            into = bytearray(10**6)
            return bytes(into[: reader.read(0, memoryview(into))[1]])
        finally:
            reader.close()

    def close(self) -> None:
        self.pump.close()
        os.close(self.program)
        os.close(self.folder)


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Output]:
    monkeypatch.setattr(pumps, "DISK_RETRY_S", 0.02)
    made = Output(tmp_path)
    yield made
    made.close()


def in_pipe(descriptor: int) -> bool:
    """Whether bytes wait in the pipe whose writing end this is."""
    import fcntl
    import struct
    import termios

    return bool(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4))[0])


def test_what_the_program_says_is_kept_and_its_end_is_noticed(output: Output) -> None:
    output.say(b"hello ")
    output.turn()
    output.say(b"world")
    output.turn()
    assert output.kept == b"hello world" and output.pump.end == 11 and not output.pump.eof
    os.close(output.program)
    output.turn()
    output.program = os.open(os.devnull, os.O_RDONLY)
    assert output.pump.eof


def test_while_it_is_not_allowed_the_bytes_stay_in_the_pipe_and_none_is_lost(output: Output) -> None:
    output.allowed = False
    output.pump.update()
    output.say(b"after the lease")
    output.turn()
    assert output.pump.end == 0 and in_pipe(output.program) and not output.pump.drain()
    output.allowed = True
    output.pump.update()
    output.turn()
    assert output.kept == b"after the lease" and not in_pipe(output.program)


def test_a_lease_that_ends_between_reading_and_writing_keeps_the_bytes_back(output: Output) -> None:
    answers = iter((True, False))
    output.pump._allowed = lambda: next(answers, False)
    output.say(b"too late")
    assert not output.pump.step()
    assert output.kept == b"" and not in_pipe(output.program)
    output.pump._allowed = lambda: True
    assert output.pump.drain() and output.kept == b"too late"


def test_it_never_goes_beyond_the_limit_of_a_holder(output: Output) -> None:
    output.limit = 4
    output.say(b"123456789")
    output.turn()
    output.turn()
    assert output.kept == b"1234" and in_pipe(output.program)
    output.limit = 7
    output.pump.update()
    output.turn()
    assert output.kept == b"1234567"
    output.limit = 10**9
    assert output.pump.drain() and output.kept == b"123456789"


def flood(output: Output, size: int) -> bytes:
    """Have the program say so much, in pieces that fill its pipe, and let the pump move all but the last."""
    said = b""
    while len(said) < size:
        piece = os.urandom(60_000) if output.pump._splices else os.urandom(64 * 1024)
        output.say(piece)
        said += piece
        if len(said) < size:
            output.turn()
    return said


def test_a_flood_goes_from_the_pipe_into_the_file_and_nothing_is_lost_or_turned_around(output: Output) -> None:
    said = flood(output, 400_000)
    output.pump.take = lambda _into: pytest.fail("it was read")  # type: ignore[method-assign]
    assert output.pump.drain() and output.kept == said and output.pump.end == len(said)
    os.close(output.program)
    output.turn()
    output.program = os.open(os.devnull, os.O_RDONLY)
    assert output.pump.eof


def test_a_flood_is_not_moved_while_it_is_not_allowed_and_not_beyond_the_limit(output: Output) -> None:
    said = flood(output, 400_000)
    end = output.pump.end
    output.allowed = False
    output.turn()
    assert output.pump.end == end < len(said) and not output.pump.drain()
    output.allowed, output.limit = True, end + 7
    output.pump.update()
    output.turn()
    assert output.pump.end == end + 7
    output.limit = 10**9
    assert output.pump.drain() and output.kept == said


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EINVAL])
def test_a_flood_that_cannot_be_moved_so_is_read_and_written(output: Output, error: int) -> None:
    said = flood(output, 400_000)

    def refused(_pipe: int, _bytes_max: int) -> int:
        raise OSError(error, os.strerror(error))

    output.writer.splice = refused  # type: ignore[method-assign]
    output.disk = errno.ENOSPC
    output.turn()
    assert output.pump.disk_full and output.kept == said[: output.pump.end]
    output.disk = 0
    while output.pump.disk_full:
        output.poller.turn()
    assert output.pump.drain() and output.kept == said


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_loses_nothing_reads_nothing_more_and_goes_on_by_itself(output: Output, error: int) -> None:
    output.disk = error
    output.say(b"one ")
    output.turn()
    assert output.pump.disk_full == os.strerror(error) and output.kept == b""
    output.say(b"two")
    output.turn()
    assert in_pipe(output.program)
    output.disk = 0
    while in_pipe(output.program) or output.pump.disk_full:
        output.turn()
    assert output.kept == b"one two" and output.pump.disk_full == ""


def test_another_error_of_the_disk_is_a_defect_and_not_swallowed(output: Output) -> None:
    output.disk = errno.EBADF
    output.say(b"x")
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        output.pump.step()
    output.disk = 0


class Input:
    """A pump into a program's stdin."""

    def __init__(self) -> None:
        self.program, pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.poller = Poller()
        self.told: list[tuple[int, bool]] = []
        self.pump = InputPump(self.poller, pipe, lambda: self.told.append((self.pump.written, self.pump.closed)))

    def read(self) -> bytes:
        """Return everything until the pump has nothing more to write."""
        found = b""
        while True:
            try:
                data = os.read(self.program, 1 << 20)
            except BlockingIOError:
                if not self.pump._waiting:
                    return found
                self.poller.turn()
                continue
            if not data:
                return found
            found += data


@pytest.fixture
def stdin() -> Iterator[Input]:
    made = Input()
    yield made
    made.pump.close()
    os.close(made.program)


def test_stdin_passes_intact_beyond_what_a_pipe_holds_and_then_ends(stdin: Input) -> None:
    data = os.urandom(1_000_000)
    stdin.pump.feed(data)
    stdin.pump.end()
    assert stdin.pump.full and not stdin.pump.closed
    stdin.pump.feed(b"after the end: dropped")
    assert stdin.read() == data
    assert stdin.pump.closed and stdin.pump.written == len(data) and stdin.told[-1] == (len(data), True)


def test_stdin_says_when_its_buffer_is_full_and_that_it_has_room_again(stdin: Input) -> None:
    assert not stdin.pump.full
    stdin.pump.feed(bytes(STDIN_BUFFER_BYTES + 100_000))
    assert stdin.pump.full
    stdin.read()
    assert not stdin.pump.full


def test_a_program_that_closes_its_stdin_ends_the_pump_and_nobody_else(stdin: Input) -> None:
    os.close(stdin.program)
    stdin.pump.feed(b"to nobody")
    assert stdin.pump.closed
    stdin.pump.feed(b"more")
    stdin.pump.end()
    stdin.program = os.open(os.devnull, os.O_RDONLY)
    assert stdin.told == [(0, True)]
