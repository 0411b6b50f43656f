"""Nearness: a task goes to its data when that is sooner, and anywhere when it is not."""

from hypothesis import given
from hypothesis import strategies as st

from unios.core.nearness import plan_node

GIGA = 1_000_000_000


def test_a_task_goes_where_most_of_its_data_are() -> None:
    assert plan_node({"n1": GIGA, "n2": 0, "n3": GIGA // 2}) == "n1"


def test_small_data_move_nothing() -> None:
    assert plan_node({"n1": 100_000, "n2": 0}) == ""


def test_data_that_are_everywhere_move_nothing() -> None:
    assert plan_node({"n1": GIGA, "n2": GIGA}) == ""


def test_data_on_the_only_node_that_has_them_draw_the_task_there() -> None:
    assert plan_node({"n1": GIGA}) in ("n1", "")
    assert plan_node({}) == ""


def test_a_long_wait_at_the_data_is_worse_than_their_way() -> None:
    bytes_at = {"n1": GIGA, "n2": 0}
    assert plan_node(bytes_at, wait_ms={"n1": 10_000}) == "n2"
    assert plan_node(bytes_at, wait_ms={"n1": 10_000, "n2": 9_000}) == "n1"


def test_a_gain_that_is_little_against_the_task_moves_nothing() -> None:
    bytes_at = {"n1": 50_000_000, "n2": 0}
    assert plan_node(bytes_at, cost_ms=100) == "n1"
    assert plan_node(bytes_at, cost_ms=60_000) == ""


@given(st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), st.integers(0, GIGA)), st.floats(0, 1e6))
def test_the_node_is_one_of_those_and_no_other_ends_sooner(bytes_at: dict[str, int], cost_ms: float) -> None:
    node = plan_node(bytes_at, cost_ms=cost_ms)
    assert node == "" or bytes_at[node] == max(bytes_at.values())
