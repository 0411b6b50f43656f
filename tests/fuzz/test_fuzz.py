"""The short form: the corpus, then a bounded number of mutations of it with a fixed seed; and that the runner notices what it is there for."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import feeding
from tests.fuzz.feeding import CORPUS, Broken, feed, inputs, scratch
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import STRUCTS, TARGETS, Target

INPUTS = 400
"""For a share of 1."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with contextlib.contextmanager(scratch)() as made:
        yield made


@pytest.mark.parametrize("target", TARGETS)
def test_only_what_is_promised_comes_of_the_corpus_and_what_is_made_of_it(target: str, folder: Path) -> None:
    corpus = inputs(target)
    for data in corpus:
        feed(target, data, folder)
    rng = random.Random(target)
    for _number in range(int(INPUTS * TARGETS[target].share)):
        feed(target, mutated(corpus, rng), folder)


def test_the_corpus_is_small_and_each_folder_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert files and max(path.stat().st_size for path in files) <= 64 * 1024
    assert len(STRUCTS) > 100


def _breaks(data: bytes, folder: Path) -> None:
    (folder / "left").mkdir()
    if data == b"wrong":
        raise KeyError("a surprise")
    if data == b"silent":
        raise ValueError
    if data == b"hangs":
        while True:
            pass
    if data == b"large":
        bytearray(b"x") * (200 << 20)


@pytest.mark.parametrize(("data", "said"), [(b"wrong", "a surprise"), (b"silent", "without a sentence"), (b"hangs", "no end"), (b"large", "MiB for")])
def test_the_runner_notices(monkeypatch: pytest.MonkeyPatch, folder: Path, data: bytes, said: str) -> None:
    monkeypatch.setitem(TARGETS, "breaks", Target(_breaks, (ValueError,), lambda: iter(())))
    monkeypatch.setattr(feeding, "PROCESSOR_S", 0.2)
    feed("breaks", b"right", folder)
    with pytest.raises(Broken, match=said):
        feed("breaks", data, folder)
