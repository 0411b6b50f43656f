"""Journals: a full disk ends a journal and nothing else."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unios.core import holding
from unios.core.fencing import Tick
from unios.core.journal import Journal, replay
from unios.kernel.init import Init
from unios.kernel.journals import open_journal
from unios.wire.home import NodeFolder


def told(journal: Journal, count: int) -> None:
    for _ in range(count):
        journal.write("holding", holding.Failed(), [])


@pytest.fixture
def node(tmp_path: Path) -> NodeFolder:
    (tmp_path / "journal").mkdir()
    return NodeFolder(tmp_path)


def test_a_part_outlives_the_disk_on_which_its_journal_is(node: NodeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(node, "kernel")
    assert journal is not None
    told(journal, 2)

    def full(*_args: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        told(journal, 1)
    told(journal, 2)  # after a hole nothing more: it would not replay
    (path,) = (node.path / "journal").iterdir()
    assert replay(path.read_bytes().splitlines()) == (2, None)


def test_a_part_starts_without_a_journal_where_none_can_be_made(node: NodeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_options: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    assert open_journal(node, "kernel") is None


def test_a_tree_outlives_the_disk_on_which_its_inits_journal_is() -> None:
    init: Any = SimpleNamespace(_journal=os.open("/dev/full", os.O_WRONLY), job=SimpleNamespace(on_partition="replace", pid=300, incarnation=1))
    Init._note(init, Tick(1), [])
    assert init._journal == -1
