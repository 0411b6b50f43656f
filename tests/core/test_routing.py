"""Routing: straight, with help from the other side, or through a third."""

from unios.core.routing import HELP_MS, Attempt, Route, keeps_new


def test_the_smaller_name_dials_at_once_and_the_other_helps_later() -> None:
    assert Route("n1", "n2", ["a:1"], 0).next(0, []) == Attempt(address="a:1")
    assert Route("n2", "n1", ["a:1"], 0).next(0, []) is None
    assert Route("n2", "n1", ["a:1"], 0).next(HELP_MS, []) == Attempt(address="a:1")


def test_after_a_failure_neighbours_are_asked_to_relay_in_turn() -> None:
    route, now, seen = Route("n1", "n2", ["a:1"], 0), 0, []
    for _ in range(6):
        while (attempt := route.next(now, ["n3", "n4", "n1", "n2"])) is None:
            now += 10
        seen.append(attempt)
        route.failed(now)
    assert Attempt(via="n3") in seen and Attempt(via="n4") in seen and Attempt(address="a:1") in seen


def test_straight_is_tried_again_while_the_way_is_not_straight() -> None:
    route = Route("n1", "n2", ["a:1"], 0)
    route.up(straight=False, now_ms=0)
    assert route.next(100, ["n3"]) is None
    assert route.next(10_000, ["n3"]) == Attempt(address="a:1")
    route.up(straight=True, now_ms=10_000)
    assert route.next(99_999, ["n3"]) is None
    route.down(100_000)
    assert route.next(100_000, []) == Attempt(address="a:1")


def test_what_failed_before_says_nothing_of_a_peer_that_has_come_back() -> None:
    for me, peer, helps_ms in (("n1", "n2", 0), ("n2", "n1", HELP_MS)):
        route, now = Route(me, peer, ["a:1"], 0), HELP_MS
        for _ in range(9):
            while route.next(now, []) is None:
                now += 10
            route.failed(now)
        assert route.next(now + HELP_MS, []) is None
        assert route.expected(now)
        assert (route.next(now, []) is None) == bool(helps_ms)
        assert route.next(now + helps_ms, []) == Attempt(address="a:1")
        route.failed(now)
        assert route.next(now + 200, []) == Attempt(address="a:1"), "it begins anew with short waits"
    route.up(straight=False, now_ms=now)
    assert not route.expected(now) and route.next(now + 1, ["n3"]) is None, "there is a link: nothing to do"


def test_both_sides_keep_the_same_connection() -> None:
    for straight in ((True, True), (False, True), (True, False)):
        old, new = straight
        for old_by_n1 in (True, False):
            for new_by_n1 in (True, False):
                answers = {
                    keeps_new(
                        me,
                        peer,
                        old_dialled_here=old_by_n1 == (me == "n1"),
                        new_dialled_here=new_by_n1 == (me == "n1"),
                        old_straight=old,
                        new_straight=new,
                    )
                    for me, peer in (("n1", "n2"), ("n2", "n1"))
                }
                assert len(answers) == 1
