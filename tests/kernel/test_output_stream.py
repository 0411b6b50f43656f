"""OutputStream: what is in the segment files comes out as chunks, each byte once at its offset, in chunks that suit the link."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.wire.pairs import bounded, peers
from unios.core import pacing
from unios.kernel.node import Node
from unios.kernel.output_stream import OutputStream
from unios.kernel.streams import StreamWriter
from unios.limits import CHUNK_BYTES, WIDE_CHUNK_BYTES
from unios.wire.operations import Chunk, Empty, Follow
from unios.wire.peer import Call

SEGMENT = 1024 * 1024
SAID = os.urandom(5 * SEGMENT + 12_345)


def chunks(path: Path, follows: int, *, kept: int = 10**9) -> list[list[Chunk]]:
    """Write SAID as a tree's output; return what so many readers at a time get of it."""
    tree = path / "300.1"
    tree.mkdir()
    folder = os.open(tree, os.O_RDONLY)
    writer, said = StreamWriter(folder, "out", segment_bytes=SEGMENT, kept_bytes=kept), memoryview(SAID)
    while said:
        said = said[writer.write(said) :]
    writer.close()
    os.close(folder)
    node = cast(Node, SimpleNamespace(folder=SimpleNamespace(trees=path)))
    found: list[list[Chunk]] = [[] for _ in range(follows)]

    async def follow(call: Call) -> object:
        await OutputStream(node, 300, 1, call.decode(Follow), call).run()
        return Empty()

    async def work() -> None:
        async with peers(follow) as (asker, _answerer):
            streams = [asker.stream("processes.follow", Follow(300, 1, 0, 0, False)) for _ in range(follows)]
            open_ = set(range(follows))
            while open_:
                for n in sorted(open_):
                    chunk = await streams[n].next(Chunk)
                    if chunk is None:
                        open_.discard(n)
                    else:
                        found[n].append(chunk)

    bounded(work)
    return found


@pytest.mark.parametrize(("swift_s", "size"), [(-1.0, CHUNK_BYTES), (float("inf"), WIDE_CHUNK_BYTES)])
def test_each_of_several_readers_gets_every_byte_once_at_its_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swift_s: float, size: int
) -> None:
    monkeypatch.setattr(pacing, "_SWIFT_S", swift_s)
    for found in chunks(tmp_path, 3):
        assert b"".join(chunk.data for chunk in found) == SAID
        assert [chunk.offset for chunk in found] == [sum(len(chunk.data) for chunk in found[:n]) for n in range(len(found))]
        assert max(len(chunk.data) for chunk in found) == size and all(chunk.lost == 0 for chunk in found)


def test_what_is_gone_is_said_in_the_first_chunk(tmp_path: Path) -> None:
    (found,) = chunks(tmp_path, 1, kept=3 * SEGMENT)
    first = found[0]
    assert first.offset == first.lost == 3 * SEGMENT and b"".join(chunk.data for chunk in found) == SAID[first.offset :]
