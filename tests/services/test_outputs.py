"""The files of this node's programs, seen from beside."""

import os
import shutil
from pathlib import Path

from unios.kernel.streams import StreamWriter
from unios.limits import STREAM_SEGMENT_BYTES
from unios.services.outputs import Outputs


def test_streams_are_seen_as_they_grow_end_and_vanish(tmp_path: Path) -> None:
    outputs = Outputs(str(tmp_path / "trees"))
    assert list(outputs.look()) == []  # before there is a folder
    tree = tmp_path / "trees" / "300.1"
    tree.mkdir(parents=True)
    (tmp_path / "trees" / "odd").mkdir()
    assert list(outputs.look()) == []
    folder = os.open(tree, os.O_RDONLY)
    out, err = StreamWriter(folder, "out"), StreamWriter(folder, "err")
    out.write(b"abc")
    assert list(outputs.look()) == [((300, 1, "out"), 0, 3)]
    err.write(b"d")
    out.write(b"e")
    assert list(outputs.look()) == [((300, 1, "out"), 0, 4), ((300, 1, "err"), 0, 1)]
    out.write(b"last words")
    (tree / "exit.json").write_text("{}")
    seen = list(outputs.look())
    assert seen[0] == ((300, 1, "out"), 0, 14)
    assert list(outputs.look()) == [] and outputs.all == {(300, 1, "out"): (0, 14), (300, 1, "err"): (0, 1)}
    assert outputs.vanished() == []
    shutil.rmtree(tree)
    assert list(outputs.look()) == [] and outputs.vanished() == [(300, 1)] and outputs.vanished() == [] and not outputs.all
    os.close(folder)


def test_a_stream_that_rolls_goes_on_and_its_start_moves(tmp_path: Path) -> None:
    tree = tmp_path / "7.2"
    tree.mkdir()
    folder = os.open(tree, os.O_RDONLY)
    out = StreamWriter(folder, "out", kept_bytes=2 * STREAM_SEGMENT_BYTES)
    outputs = Outputs(str(tmp_path))
    piece = bytes(STREAM_SEGMENT_BYTES)
    seen = []
    for _ in range(3):
        out.write(piece)
        seen += list(outputs.look())
    out.write(b"more")
    seen += list(outputs.look())
    size = STREAM_SEGMENT_BYTES
    assert [(start, end) for _stream, start, end in seen] == [(0, size), (0, 2 * size), (size, 3 * size), (2 * size, 3 * size + 4)]
    os.close(folder)
