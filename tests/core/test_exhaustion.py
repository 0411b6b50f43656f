"""Exhaustion: what is said of a tree in which Linux has killed, and what is never said."""

import pytest

from unios.core.exhaustion import Evidence, sentence, size

MIB = 1 << 20


def seen(**fields: int | bool) -> str:
    return sentence(Evidence(**{"killed": True, "kills": 1, "peak_bytes": 64 * MIB, "limit_bytes": 64 * MIB, "machine_kills": 0, **fields}))  # type: ignore[arg-type]


def test_a_program_that_was_killed_is_told_with_figures() -> None:
    assert seen() == "out of memory: it had used 64 MiB of the 64 MiB that it asked for (killed by Linux)"
    assert seen(limit_bytes=0) == "out of memory: it had used 64 MiB, and the machine had no more (killed by Linux)"
    assert "nobody counted" in seen(peak_bytes=-1)


def test_a_tree_whose_program_went_on_is_told_otherwise() -> None:
    assert seen(killed=False).startswith("out of memory: Linux killed a process of its tree, not its program")
    assert "3 processes" in seen(killed=False, kills=3)


def test_what_nobody_counted_is_only_likely() -> None:
    assert seen(kills=-1, machine_kills=2).startswith("perhaps out of memory")
    assert seen(kills=-1, machine_kills=0) == ""
    assert seen(kills=-1, machine_kills=2, killed=False) == ""


def test_who_was_killed_by_somebody_else_was_not_out_of_memory() -> None:
    assert seen(kills=0) == ""
    assert seen(kills=0, machine_kills=5) == "", "its own groups say that it was none of those"


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (1023, "1023 B"), (64 * MIB, "64 MiB"), (3 * MIB // 2, "1.5 MiB"), (2 << 30, "2 GiB")])
def test_sizes_are_written_as_people_do(number: int, text: str) -> None:
    assert size(number) == text
