"""What a run makes of what its witness heard."""

from tests.histories import judge
from tests.histories.history import pair
from tests.histories.run import ran

EFFECTS = [(1.0, 300, 1), (2.0, 300, 2), (2.51, 300, 1), (2.6, 300, 2)]


def words(goes_on_ns: list[int]) -> str:
    return judge.of("table", pair(ran(EFFECTS, goes_on_ns))["table"])["table"].word


def test_a_late_effect_counts_unless_its_whole_machine_went_on_just_then() -> None:
    assert words([]) == "bad"
    assert words([2_500_000_000]) == "good"
    assert words([1_500_000_000]) == "bad" == words([2_520_000_000])
