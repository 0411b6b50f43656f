"""Large chunks of output that go from the connection into a pipe: each byte once, whatever happens amid one, and nothing else on the connection is disturbed."""

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.scripted import ScriptedKernel
from tests.client.test_processes import Record, view
from unios.client.connection import Connection
from unios.client.flowing import Flowing, is_pipe
from unios.client.output import Passing, passing
from unios.errors import ProtocolError
from unios.wire.chunks import ChunkBuffer, begun_chunk
from unios.wire.messages import Reply, framed, pack
from unios.wire.operations import Chunk, Follow
from unios.wire.peer import Call

DATA = os.urandom(1_000_000)
OUT = frozenset({"out"})


async def _name(_call: Call) -> object:
    return "n1"


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[ScriptedKernel]:
    made = ScriptedKernel(tmp_path)
    made.operations["node.name"] = _name
    yield made
    made.close()


@pytest.fixture
def connection(kernel: ScriptedKernel, tmp_path: Path) -> Iterator[Connection]:
    with Connection(tmp_path) as made:
        yield made


def _refused(*_args: object) -> int:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


class Pipe:
    """A pipe that a thread reads to its end."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        self._got = bytearray()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._reading, 65_536):
            self._got += data

    def end(self) -> bytes:
        os.close(self.writing)
        self._thread.join()
        os.close(self._reading)
        return bytes(self._got)


def piped(said: Iterator[object]) -> tuple[bytes, list[Flowing]]:
    """Pass all that is said on to a pipe, as `unios run` does; return what came out of it, and what flowed."""
    pipe, flowed = Pipe(), []
    try:
        for chunk in said:
            if isinstance(chunk, Flowing):
                flowed.append(chunk)
                os.write(pipe.writing, chunk.first)
                chunk.wrote_first()
                chunk.move(pipe.writing)
            else:
                assert isinstance(chunk, Passing)
                os.write(pipe.writing, chunk.data)
    finally:
        got = pipe.end()
    return got, flowed


@pytest.mark.parametrize("count", [70_000, 65_536])
@pytest.mark.parametrize(("id_", "incarnation", "offset", "lost"), [(1, 1, 0, 0), (70_000, 300, 2**40, 2**33)])
def test_the_head_of_a_chunk_says_where_its_bytes_are(id_: int, incarnation: int, offset: int, lost: int, count: int) -> None:
    buffer = ChunkBuffer(count)
    made, size = buffer.enclose(id_, "err", incarnation, offset, count, lost)
    begun = begun_chunk(made[:300])
    assert begun is not None
    assert (begun.id, begun.stream, begun.incarnation, begun.offset, begun.size) == (id_, "err", incarnation, offset, count)
    assert begun.before + count + begun.tail_bytes == len(made) and begun.cost == size + 64
    assert begun_chunk(made[: begun.before]) == begun and begun_chunk(made[: begun.before - 1]) is None


@pytest.mark.parametrize(
    "reply",
    [
        Reply(1, pack(Chunk("out", 1, 0, b"small")), more=True),
        Reply(1, pack({"data": DATA[:70_000]}), more=True),
        Reply(1, pack({"stream": "other", "incarnation": 1, "offset": 0, "data": DATA[:70_000], "lost": 0}), more=True),
        Reply(1, pack(Chunk("out", 1, 0, DATA[:70_000]))),
    ],
)
def test_what_is_no_large_chunk_is_read(reply: Reply) -> None:
    assert begun_chunk(memoryview(b"".join(framed(reply)))) is None


@pytest.mark.parametrize("splices", [True, False])
def test_each_byte_comes_once_though_the_connection_breaks_amid_chunks(
    kernel: ScriptedKernel, connection: Connection, monkeypatch: pytest.MonkeyPatch, splices: bool
) -> None:
    if not splices:
        monkeypatch.setattr(os, "splice", _refused)
    record = Record(kernel, view())
    asked: list[int] = []

    async def serve(call: Call) -> object:
        wanted = call.decode(Follow)
        asked.append(wanted.out)
        at = wanted.out
        await call.send(Chunk("out", 1, at, DATA[at : at + 10]))
        await call.send(Chunk("out", 1, at + 10, DATA[at + 10 : at + 200_010]))
        at += 200_010
        if at < 800_000:
            frame = b"".join(framed(Reply(call.id, pack(Chunk("out", 1, at, DATA[at : at + 150_000])), more=True)))
            call.peer.transport.write(frame[:100_000])
            await call.peer.transport.drain()
            while call.peer.transport.queued:
                await asyncio.sleep(0.001)
            call.peer.close("it breaks")
            return None
        await call.send(Chunk("out", 1, at, DATA[at:]))
        record.now = view("exited", exit_code=0)
        return None

    kernel.operations["processes.follow"] = serve
    got, flowed = piped(passing(connection, 1001, view=view(), hold=True, flows=OUT))
    assert got == DATA
    assert len(asked) > 1 and flowed, "it did not break, or nothing flowed"
    assert any(at % 200_010 for at in asked), "what had come of a chunk that broke off was asked for again"


def test_what_stands_behind_a_chunk_is_looked_at(kernel: ScriptedKernel, connection: Connection) -> None:
    Record(kernel, view())

    async def serve(call: Call) -> object:
        frame = bytearray(b"".join(framed(Reply(call.id, pack(Chunk("out", 1, 0, DATA[:100_000])), more=True))))
        frame[-3:] = b"???"
        call.peer.transport.write(bytes(frame))
        await asyncio.Event().wait()
        return None

    kernel.operations["processes.follow"] = serve
    with pytest.raises(ProtocolError, match="does not end as one"):
        piped(passing(connection, 1001, view=view(), hold=True, flows=OUT))


def test_only_who_waits_for_it_finds_a_chunk_in_the_connection(kernel: ScriptedKernel, connection: Connection) -> None:
    Record(kernel, view())

    async def serve(call: Call) -> object:
        await call.send(Chunk("err", 1, 0, DATA[:100_000]))
        await call.send(Chunk("out", 1, 0, DATA[:100_000]))
        await call.send(Chunk("out", 1, 100_000, DATA[100_000:200_000]))
        return None

    kernel.operations["processes.follow"] = serve
    asked = connection.begin("processes.follow", Follow(1001, 1, 0, 0, True, True))
    assert asked.wait(20, OUT) and asked.take_flowing() is None
    assert asked.next(Passing).stream == "err"
    assert connection.call("node.name") == "n1"  # it reads the first that is no `err`, and loses nothing of it
    assert asked.wait(20, OUT) and asked.take_flowing() is None
    assert bytes(asked.next(Passing).data) == DATA[:100_000]
    asked.close()


def test_a_chunk_that_nobody_takes_is_passed_by(kernel: ScriptedKernel, connection: Connection) -> None:
    Record(kernel, view())

    async def serve(call: Call) -> object:
        await call.send(Chunk("out", 1, 0, DATA[:300_000]))
        await asyncio.Event().wait()
        return None

    kernel.operations["processes.follow"] = serve
    asked = connection.begin("processes.follow", Follow(1001, 1, 0, 0, True, True))
    assert asked.wait(20, OUT)
    left = asked.take_flowing()
    assert left is not None and left.left > 0
    asked.close()
    assert connection.call("node.name") == "n1"


def test_only_pipes_are_pipes(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY)
    assert is_pipe(writing) and not is_pipe(file)
    for descriptor in (reading, writing, file):
        os.close(descriptor)
    assert not is_pipe(writing)


def test_a_connection_that_has_broken_before_a_chunk_is_moved_is_made_again(kernel: ScriptedKernel, connection: Connection) -> None:
    """As when the kernel dies while room for more is granted to it: the connection is closed then, and has no descriptor."""
    record = Record(kernel, view())

    async def serve(call: Call) -> object:
        at = call.decode(Follow).out
        for begin in range(at, len(DATA), 100_000):
            await call.send(Chunk("out", 1, begin, DATA[begin : begin + 100_000]))
        record.now = view("exited", exit_code=0)
        return None

    kernel.operations["processes.follow"] = serve

    def breaking() -> Iterator[object]:
        left = 3
        for said in passing(connection, 1001, view=view(), hold=True, flows=OUT):
            if isinstance(said, Flowing) and left:
                left -= 1
                said._channel.close("it broke as room was granted")
            yield said

    got, flowed = piped(breaking())
    assert got == DATA and len(flowed) > 3
