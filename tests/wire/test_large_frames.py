"""Large frames on their way: read where they are put together, sent in pieces, framed around what was read; each as if it had been copied."""

import asyncio
import os
import socket
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.pairs import bounded, peers, settled, until
from unios.core.sequences import OUTPUT
from unios.limits import SEND_AHEAD_BYTES, STREAM_WINDOW_BYTES
from unios.wire import frames as frames_module
from unios.wire.chunks import ChunkBuffer
from unios.wire.frames import FrameReader, frame
from unios.wire.messages import Reply, framed, pack
from unios.wire.operations import Chunk
from unios.wire.outbox import Outbox
from unios.wire.peer import Call
from unios.wire.transport import SocketTransport

BIG = os.urandom(2 * 1024 * 1024)


def fed(reader: FrameReader, data: bytes, cuts: list[tuple[bool, int]]) -> list[bytes]:
    """Feed all of `data`, a piece at a time, into the reader's room where it has one and `cuts` say so; return the frames."""
    found, at, turn = [], 0, 0
    while at < len(data):
        direct, size = cuts[turn % len(cuts)]
        turn += 1
        room = reader.room() if direct else None
        piece = data[at : at + size]
        if room is not None:
            piece = piece[: len(room)]
            room[: len(piece)] = piece
            found += [bytes(payload) for payload in reader.feed(room[: len(piece)])]
        else:
            found += [bytes(payload) for payload in reader.feed(piece)]
        at += len(piece)
    return found


@given(
    st.lists(st.integers(0, 300_000) | st.integers(0, 40) | st.sampled_from([32 * 1024, 272 * 1024, 272 * 1024 + 1, 600_000]), max_size=6),
    st.lists(st.tuples(st.booleans(), st.integers(1, 200_000)), min_size=1, max_size=6),
)
def test_frames_come_out_as_they_went_in_wherever_they_are_read(sizes: list[int], cuts: list[tuple[bool, int]]) -> None:
    payloads = [BIG[size : 2 * size] for size in sizes]
    if sum(sizes) / max(size for _direct, size in cuts) > 10_000:
        cuts = [(direct, size + 1_000) for direct, size in cuts]
    reader = FrameReader()
    assert fed(reader, b"".join(map(frame, payloads)), cuts) == payloads
    assert reader.pending == 0 and reader.room() is None


def test_a_buffer_is_used_again_only_when_nobody_looks_at_it_any_more() -> None:
    readers = [FrameReader() for _ in range(frames_module._USED_AGAIN + 2)]
    payloads = [BIG[n : n + 200_000] for n in range(len(readers))]
    for reader, payload in zip(readers, payloads, strict=True):  # all are under way at a time
        assert not reader.feed(frame(payload)[:100_000])
    held: list[Any] = []
    for reader, payload in zip(readers, payloads, strict=True):
        held += reader.feed(frame(payload)[100_000:])
    assert held == payloads
    kept, held = held[0], []
    again = FrameReader()
    again.feed(frame(bytes(200_000))[:100_000])
    assert kept == payloads[0]


def test_a_body_that_was_not_copied_stays_what_it_was_while_others_come() -> None:
    reader, bodies = FrameReader(), []
    for n in range(5):
        data = b"".join(framed(Reply(n, pack(Chunk("out", 1, n, BIG[n : n + 150_000])), more=True)))
        reader.feed(data[:50_000])
        (payload,) = reader.feed(data[50_000:])
        bodies.append(msgspec.msgpack.decode(payload, type=Reply).body)
    assert [msgspec.msgpack.decode(body, type=Chunk).data for body in bodies] == [BIG[n : n + 150_000] for n in range(5)]


@given(
    st.integers(1, 2**40),
    st.sampled_from(["out", "err"]),
    st.integers(0, 2**31),
    st.integers(0, 2**62),
    st.integers(0, 70_000) | st.sampled_from([255, 256, 65_535, 65_536]),
    st.integers(0, 2**62),
)
def test_a_chunk_that_is_framed_in_place_is_what_the_encoder_would_write(
    id_: int, stream: str, incarnation: int, offset: int, count: int, lost: int
) -> None:
    buffer = ChunkBuffer(70_000)
    buffer.middle[:count] = BIG[:count]
    body = pack(Chunk(stream, incarnation, offset, BIG[:count], lost))
    made, size = buffer.enclose(id_, stream, incarnation, offset, count, lost)
    small = msgspec.msgpack.encode(Reply(id_, body, more=True))
    assert bytes(made) == frame(small) and size == len(memoryview(body))


@pytest.mark.parametrize("sizes", [(10, 900_000, 10), (900_000, 10, 900_000), (1, 1, 1)])
def test_pieces_arrive_one_behind_the_other_and_a_buffer_may_be_used_again_at_once(sizes: tuple[int, ...]) -> None:
    async def work() -> None:
        left, right = socket.socketpair()
        transport, got = SocketTransport(left), bytearray()
        buffers = [bytearray(BIG[size : 2 * size]) for size in sizes]
        expected = b"".join(buffers) + b"end"
        end, other = os.pipe()
        transport.write(tuple(memoryview(buffer) for buffer in buffers), [end])
        transport.write(b"end")
        for buffer in buffers:
            buffer[:] = bytes(len(buffer))
        right.setblocking(False)
        received = 0
        while len(got) < len(expected):
            try:
                data, descriptors, _flags, _address = socket.recv_fds(right, 65_536, 16)
            except BlockingIOError:
                await asyncio.sleep(0)
                continue
            got += data
            received += len(descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        assert got == expected and received == 1
        os.close(end)
        os.close(other)
        transport.close()
        right.close()
        await settled()

    bounded(work)


def test_an_outbox_keeps_a_copy_of_a_buffer_that_can_be_written_to() -> None:
    async def work() -> None:
        left, right = socket.socketpair()
        transport, got = SocketTransport(left), bytearray()
        outbox = Outbox(transport)
        while outbox.queued() <= STREAM_WINDOW_BYTES:
            outbox.send(bytes(64 * 1024), (), OUTPUT)
        buffer = bytearray(BIG[:1_000])
        outbox.send(memoryview(buffer), (), OUTPUT)
        buffer[:] = bytes(1_000)
        right.setblocking(False)
        while transport.queued or outbox.queued():
            try:
                got += right.recv(1 << 20)
            except BlockingIOError:
                await asyncio.sleep(0)
        got += right.recv(1 << 20)
        assert got.endswith(BIG[:1_000])
        transport.close()
        right.close()
        await settled()

    bounded(work)


def test_who_waits_for_his_turn_sends_no_more_than_keeps_the_connection_busy() -> None:
    async def work() -> None:
        sent = 0
        most = 0

        async def floods(call: Call) -> object:
            nonlocal sent, most
            buffer = ChunkBuffer(64 * 1024)
            while True:
                await call.turn()
                most = max(most, call.peer.outbox.queued())
                await call.send_framed(*buffer.enclose(call.id, "out", 1, sent, 64 * 1024, 0))
                sent += 64 * 1024

        async with peers(floods) as (asker, _answerer):
            stream = asker.stream("processes.follow")
            await until(lambda: sent > STREAM_WINDOW_BYTES - 128 * 1024)
            for _ in range(100):
                await settled()
            assert sent <= STREAM_WINDOW_BYTES + 64 * 1024  # without credit it waits
            offset = 0
            while offset < 4 * STREAM_WINDOW_BYTES:
                chunk = await stream.next(Chunk)
                assert chunk is not None and chunk.offset == offset
                offset += len(chunk.data)
            assert most <= SEND_AHEAD_BYTES
            stream.close()

    bounded(work)
