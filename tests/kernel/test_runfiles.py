"""Files of running processes: who reads one finds all of it, whenever it looks."""

import os
import threading
from pathlib import Path

import pytest

from unios.kernel import runfiles


def test_a_reader_finds_the_old_text_or_all_of_the_new(tmp_path: Path) -> None:
    place, texts = tmp_path / "failed", ["a" * 100_000, "b" * 50_000]
    runfiles.place(place, texts[0])
    done, seen = threading.Event(), set()

    def read() -> None:
        while not done.is_set():
            seen.add(place.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(2000):
        runfiles.place(place, texts[turn % 2])
    done.set()
    reader.join()
    assert seen <= set(texts)
    assert os.listdir(tmp_path) == ["failed"]


def test_nothing_is_left_of_what_found_no_room(tmp_path: Path) -> None:
    (tmp_path / "failed").mkdir()
    with pytest.raises(IsADirectoryError):
        runfiles.place(tmp_path / "failed", "text")
    assert os.listdir(tmp_path) == ["failed"]
