"""What has come of requests: kept until it is acknowledged, within bounds, the same on every copy."""

from hypothesis import given, settings
from hypothesis import strategies as st

from unios import limits
from unios.core import outcomes
from unios.core.outcomes import Found, Outcomes, Request

requests = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.integers(1, 6)), max_size=40)


@settings(deadline=None)  # what else the machine does is not judged
@given(requests)
def test_no_request_is_ever_new_twice(asked: list[tuple[str, int, int]]) -> None:
    kept, done = Outcomes(), set()
    for session, number, answered in asked:
        request = Request(session, number, min(answered, number), b"")
        if kept.find(request) is Found.NEW:
            assert (session, number) not in done
            done.add((session, number))
            kept.note(request, b"x")
        kept = Outcomes(kept.keep())  # as on a new copy


def test_what_was_acknowledged_goes_and_what_was_not_stays() -> None:
    kept = Outcomes()
    for number in (1, 2, 3):
        kept.note(Request("s", number, 1, b""), b"%d" % number)
    assert kept.find(Request("s", 1, 1, b"")) == b"1"
    kept.note(Request("s", 4, 3, b""), b"4")
    assert kept.find(Request("s", 1, 1, b"")) is Found.FORGOTTEN
    assert kept.find(Request("s", 3, 3, b"")) == b"3"


def test_over_the_bounds_the_oldest_are_forgotten_and_not_done_again() -> None:
    kept = Outcomes()
    large = b"x" * (limits.OBJECT_OUTCOMES_BYTES_MAX // 2)
    for session in "abc":
        kept.note(Request(session, 1, 1, b""), large)
    assert kept.find(Request("a", 1, 1, b"")) is Found.FORGOTTEN
    assert kept.find(Request("c", 1, 1, b"")) == large
    for number in range(outcomes.OBJECT_SESSIONS_MAX):
        kept.note(Request(f"s{number}", 1, 1, b""), b"")
    assert kept.find(Request("c", 2, 2, b"")) is Found.FORGOTTEN
    assert len(kept.keep()) == outcomes.OBJECT_SESSIONS_MAX
