"""Bare chains carry what they are given, and leave no process."""

import os
from pathlib import Path

import pytest

from benchmarks import call_limits, chains
from unios.kernel import founding
from unios.wire.home import Home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Home(tmp_path_factory.mktemp("home"))
    founding.found(made, 2, "", "", "")
    return made.path


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_output_comes_through_files_and_a_connection(home: Path) -> None:
    before = children()
    assert chains.output(home, 20_000_000) > 0  # raises if a byte is missing
    assert children() == before


def test_calls_and_bulk_come_through_two_relays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_limits, "BULK_BYTES", 3_000_001)
    before = children()
    with chains.far_echo(home) as call:
        for _ in range(20):
            call()
    with chains.far_bulk(home) as transfer:
        transfer()
        transfer()
    with chains.far_object(home) as transfer:
        transfer()
        transfer()
    assert children() == before


def test_a_call_over_the_standard_library_s_connection_carries_values() -> None:
    before = children()
    with chains.connection_echo() as call:
        for _ in range(20):
            call()
    assert children() == before
