"""How many inits without a job a node keeps."""

import itertools

import pytest

from unios.core import spares
from unios.core.spares import REST, kept_at_rest, lacking, may_recycle
from unios.limits import RECYCLED_MAX, SPARES_MAX

ANN, BOB = (1_000, 1_000), (1_001, 1_001)


def test_at_rest_there_are_two_of_which_one_is_new() -> None:
    assert lacking(0, [], []) == REST == 2
    assert lacking(1, [ANN], []) == 0
    assert lacking(0, [ANN, ANN, BOB], []) == 1  # for another user


def test_each_that_waits_gets_one_and_two_are_left_up_to_the_bound() -> None:
    assert lacking(0, [], [ANN]) == 3
    assert lacking(3, [], [ANN]) == 0
    assert lacking(0, [], [ANN] * 50) == SPARES_MAX


def test_one_that_has_had_a_tree_counts_for_its_owner_only_and_for_one_job() -> None:
    assert lacking(2, [ANN], [ANN]) == 0
    assert lacking(2, [ANN], [BOB]) == 1
    assert lacking(2, [ANN, ANN, ANN], [ANN]) == 0
    assert lacking(1, [ANN, ANN, ANN], [ANN]) == 1
    assert lacking(1, [ANN, BOB, BOB], [ANN, BOB]) == 1


def test_never_are_more_made_than_the_bound() -> None:
    for new, old, waiting in itertools.product(range(6), range(6), range(6)):
        more = lacking(new, [ANN] * old, [ANN] * waiting)
        assert 0 <= more <= max(0, SPARES_MAX - new)


def test_many_begin_one_after_the_other_and_no_more_than_the_bound_are_kept_of_those_that_have_had_a_tree() -> None:
    assert may_recycle(RECYCLED_MAX - 1) and not may_recycle(RECYCLED_MAX)


@pytest.mark.parametrize(("new", "recycled", "kept"), [(2, 0, (2, 0)), (4, 0, (2, 0)), (3, 5, (1, 1)), (1, 1, (1, 1)), (0, 3, (0, 1))])
def test_when_nobody_has_taken_one_for_a_while_there_are_two_again(new: int, recycled: int, kept: tuple[int, int]) -> None:
    assert kept_at_rest(new, recycled) == kept


def test_what_is_left_at_rest_is_neither_too_much_nor_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else spares would be made and ended in turns."""
    for rest in (1, 2, 3):
        monkeypatch.setattr(spares, "REST", rest)
        for new, old in itertools.product(range(6), range(9)):
            left = kept_at_rest(new, old)
            assert sum(left) <= rest
            if new + min(old, rest - 1) >= rest:
                assert lacking(left[0], [ANN] * left[1], []) == 0
