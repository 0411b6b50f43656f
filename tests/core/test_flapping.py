"""Nodes that come and go."""

import msgspec

from unios.core.flapping import Flapping, comes_and_goes, returns
from unios.core.nodes import NodeRecord
from unios.limits import CLOCK_OFFSET_MS_MAX, FLAP_CALM_MS, FLAP_LOSSES, FLAP_WINDOW_MS


def test_a_few_losses_are_news_and_then_one_sentence_until_it_is_steady_again() -> None:
    flapping = Flapping()
    told = []
    for number in range(100):
        flapping.lost("n3", number * 1000)
        told.append(flapping.news("n3", number * 1000, "n3 is lost"))
    assert told[: FLAP_LOSSES - 1] == ["n3 is lost"] * (FLAP_LOSSES - 1)
    assert "comes and goes" in told[FLAP_LOSSES - 1]
    assert not any(told[FLAP_LOSSES:])
    assert flapping.is_unsteady("n3", 99_000 + FLAP_CALM_MS)
    assert not flapping.is_unsteady("n3", 99_001 + FLAP_CALM_MS)
    flapping.lost("n3", 10**6)
    assert flapping.news("n3", 10**6, "n3 is lost") == "n3 is lost"


def test_one_that_is_lost_now_and_then_is_steady() -> None:
    flapping = Flapping()
    for number in range(10):
        flapping.lost("n3", number * FLAP_WINDOW_MS)
        assert not flapping.is_unsteady("n3", number * FLAP_WINDOW_MS)
    assert not flapping.is_unsteady("n1", 0)


def test_one_that_left_is_forgotten() -> None:
    flapping = Flapping()
    for number in range(FLAP_LOSSES):
        flapping.lost("n3", number)
    assert flapping.is_unsteady("n3", 3)
    flapping.forget("n3")
    assert not flapping.is_unsteady("n3", 3)


def registered(*times_ms: int, stopped: bool = False) -> NodeRecord:
    """Return the record of a node that registered at these times."""
    record = None
    for now_ms in times_ms:
        record = NodeRecord("n3", "m", 1, returns_ms=returns(record, now_ms), stopped=stopped)
    assert record is not None
    return record


def test_the_record_of_a_node_says_that_it_flaps_until_it_has_stayed() -> None:
    came = range(1_000_000, 1_100_000, 1_000)
    record = registered(*came)
    assert len(record.returns_ms) == FLAP_LOSSES
    assert comes_and_goes(record, came[-1]) and comes_and_goes(record, came[-1] + FLAP_CALM_MS)
    assert not comes_and_goes(record, came[-1] + FLAP_CALM_MS + 1)
    assert comes_and_goes(record, came[-1] - CLOCK_OFFSET_MS_MAX), "the node's clock may be ahead a little"
    assert not comes_and_goes(record, came[-1] - CLOCK_OFFSET_MS_MAX - 1)


def test_the_first_registration_and_one_after_an_orderly_stop_are_no_returns() -> None:
    assert registered(1_000).returns_ms == ()
    assert not comes_and_goes(registered(1_000, 2_000, 3_000), 3_000)
    assert registered(1_000, 2_000, 3_000, 4_000, stopped=True).returns_ms == ()
    assert returns(msgspec.structs.replace(registered(1_000, 2_000), stopped=True), 3_000) == (2_000,)


def test_one_that_came_back_now_and_then_does_not_flap() -> None:
    assert not comes_and_goes(registered(*range(0, 10 * FLAP_WINDOW_MS, FLAP_WINDOW_MS)), 9 * FLAP_WINDOW_MS)
