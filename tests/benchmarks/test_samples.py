"""Samples: ranks, turns and blocks."""

from benchmarks.samples import blocks, interleaved, percentile, sustained, timed


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, percent) for percent in (0, 50, 99, 100)] == [1.0, 3.0, 5.0, 5.0]


def test_contestants_take_turns_and_the_warm_ones_do_not_count() -> None:
    order: list[str] = []
    taken = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, warm=2)
    assert order == ["a", "b"] * 5
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_blocks_take_turns_and_the_first_does_not_count() -> None:
    order: list[str] = []
    taken = blocks({name: timed(lambda name=name: order.append(name)) for name in "ab"}, 2, 3)  # type: ignore[misc]
    assert order == ["a", "a", "a", "b", "b", "b"] * 3
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 6, "b": 6}


def test_all_runs_are_made_whatever_their_number_of_threads() -> None:
    made: list[int] = []
    assert sustained([lambda: made.append(0), lambda: made.append(1), lambda: made.append(2)], 10) > 0
    assert sorted(made) == [0] * 4 + [1] * 3 + [2] * 3
