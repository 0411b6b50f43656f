"""Nodes that come and go."""

from unios.core.flapping import Flapping
from unios.limits import FLAP_CALM_MS, FLAP_LOSSES, FLAP_WINDOW_MS


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
