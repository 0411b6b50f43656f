"""Sequences: the lowest number goes first, what is begun is not broken, and nothing starves. Counted in turns, never in time."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unios.core import sequences
from unios.core.sequences import BACKGROUND, COUNT, LEASE, OUTPUT, SIGNAL, Sequences, sequence_of
from unios.limits import SEQUENCE_TURNS_MAX


def emptied(waiting: Sequences[str]) -> list[str]:
    return [waiting.take() for _ in range(waiting.count)]


def test_the_lowest_number_goes_first_and_each_keeps_its_order() -> None:
    waiting: Sequences[str] = Sequences()
    for sequence, work in ((OUTPUT, "o1"), (SIGNAL, "s1"), (OUTPUT, "o2"), (LEASE, "l1"), (SIGNAL, "s2")):
        waiting.raise_flag(sequence, work)
    assert emptied(waiting) == ["l1", "s1", "s2", "o1", "o2"]
    assert waiting.first() == COUNT
    with pytest.raises(IndexError):
        waiting.take()


def taken_before_the_signal(*, prioritised: bool, flood: int = 1_000) -> int:
    """Return how much of a flood is taken before a signal that came after it."""
    waiting: Sequences[str] = Sequences(prioritised=prioritised)
    for _ in range(flood):
        waiting.raise_flag(OUTPUT, "output")
    waiting.raise_flag(SIGNAL, "signal")
    return emptied(waiting).index("signal")


def test_a_signal_overtakes_a_flood_that_was_there_before_it() -> None:
    assert taken_before_the_signal(prioritised=True) == 0


def test_without_sequences_a_signal_waits_for_the_whole_flood() -> None:
    assert taken_before_the_signal(prioritised=False) == 1_000


arrivals = st.lists(st.integers(0, COUNT - 1), max_size=120)


@given(st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(0, 3)), max_size=300))
def test_nothing_is_lost_or_done_twice_and_one_sequence_keeps_its_order(steps: list[tuple[int, int]]) -> None:
    waiting: Sequences[tuple[int, int]] = Sequences()
    taken: list[tuple[int, int]] = []
    for number, (sequence, takes) in enumerate(steps):
        waiting.raise_flag(sequence, (sequence, number))
        assert waiting.quantum() >= 1
        taken += [waiting.take() for _ in range(min(takes, waiting.count))]
        assert waiting.urgent == sum(one not in taken and one[0] < BACKGROUND for one in ((s, n) for n, (s, _) in enumerate(steps[: number + 1])))
    taken += [waiting.take() for _ in range(waiting.count)]
    assert sorted(taken) == sorted((sequence, number) for number, (sequence, _) in enumerate(steps))
    for sequence in range(COUNT):
        numbers = [number for of, number in taken if of == sequence]
        assert numbers == sorted(numbers)


@settings(max_examples=25)
@given(st.integers(1, COUNT - 1), st.sets(st.integers(0, COUNT - 1), min_size=1))
def test_background_work_waits_a_bounded_number_of_turns_however_much_is_urgent(sequence: int, busy: set[int]) -> None:
    waiting: Sequences[str] = Sequences()
    waiting.raise_flag(sequence, "it")
    turns = 0
    while True:
        for other in busy - {sequence}:  # never less than two of each
            waiting.raise_flag(other, "another")
            waiting.raise_flag(other, "another")
        if waiting.take() == "it":
            break
        turns += 1
        assert turns < COUNT * SEQUENCE_TURNS_MAX


def test_without_its_share_background_work_starves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "SEQUENCE_TURNS_MAX", 10**9)
    waiting: Sequences[str] = Sequences()
    waiting.raise_flag(OUTPUT, "it")
    for _ in range(2 * COUNT * SEQUENCE_TURNS_MAX):
        waiting.raise_flag(SIGNAL, "another")
        assert waiting.take() == "another"


def test_after_one_step_of_background_new_arrivals_are_looked_for_and_after_all_that_is_urgent() -> None:
    waiting: Sequences[str] = Sequences()
    assert waiting.quantum() == 0
    for _ in range(5):
        waiting.raise_flag(OUTPUT, "output")
    assert waiting.quantum() == 1
    for _ in range(3):
        waiting.raise_flag(SIGNAL, "signal")
    assert waiting.quantum() == 3


def test_every_operation_of_the_kernel_has_a_sequence_and_the_urgent_ones_have_the_lower() -> None:
    assert all(0 <= sequence_of(op) < COUNT for op in [*sequences.OPERATIONS, "blocks.put", "store.transact", "of.a.newer.peer", ""])
    order = ["store.renew", "links.ping", "processes.signal", "processes.spawn", "store.transact", "node.info", "ports.relay", "processes.follow"]
    numbers = [sequence_of(op) for op in order]
    assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers)


def test_the_manual_shows_the_table_as_it_is() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "kernel.md").read_text()
    names = {name: number for name, number in vars(sequences).items() if name.isupper() and isinstance(number, int)}
    for name, number in names.items():
        if name not in ("COUNT", "BACKGROUND", "SEQUENCE_TURNS_MAX"):
            assert f"| {number} | {name.lower()} |" in manual, name
