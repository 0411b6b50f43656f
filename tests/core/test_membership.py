"""Membership: a broken link is news, an ended lease is proof."""

from unios.core.membership import AliveChanged, BecameLeft, BecameLost, BecameReady, BecameSuspect, LinkChanged, Membership, NodeChanged
from unios.limits import SETTLE_MS


def ready() -> Membership:
    members = Membership("n1")
    assert members.on(AliveChanged("n2", 1)) == []  # its lease may be told before its record
    assert members.on(NodeChanged("n2", 1, False)) == [BecameReady("n2", 1)]
    return members


def test_a_broken_link_makes_suspect_and_never_lost() -> None:
    members = ready()
    assert members.on(LinkChanged("n2", False, "no answer")) == [BecameSuspect("n2", "no answer")]
    assert members.view("n2") == ("suspect", "no answer")
    assert members.on(LinkChanged("n2", True)) == [BecameReady("n2", 1)]


def test_a_link_that_broke_in_an_earlier_life_says_nothing_of_a_later_one() -> None:
    members = ready()
    members.on(LinkChanged("n2", False, "it was stopped"))
    members.on(AliveChanged("n2", 0))
    members.on(NodeChanged("n2", 2, False))
    assert members.on(AliveChanged("n2", 2)) == [BecameReady("n2", 2)]
    assert members.on(LinkChanged("n2", False, "no answer")) == [BecameSuspect("n2", "no answer")]


def test_for_a_moment_after_a_node_came_or_its_link_broke_a_missing_link_is_no_news() -> None:
    members = Membership("n1")
    members.on(NodeChanged("n2", 1, False, 1_000))
    members.on(AliveChanged("n2", 1, 1_000))
    assert members.is_settling("n2", 1_001) and not members.is_settling("n2", 1_000 + SETTLE_MS)
    members.on(LinkChanged("n2", True, "", 5_000))
    members.on(LinkChanged("n2", False, "no answer", 90_000))
    assert members.is_settling("n2", 90_001) and members.view("n2")[0] == "suspect"
    members.on(LinkChanged("n2", False, "still no answer", 92_000))
    members.on(NodeChanged("n2", 1, False, 92_000))
    assert not members.is_settling("n2", 90_000 + SETTLE_MS)


def test_a_link_that_comes_and_goes_is_news() -> None:
    members = Membership("n1")
    members.on(NodeChanged("n2", 1, False, 1_000))
    members.on(AliveChanged("n2", 1, 1_000))
    for now_ms in range(2_000, 20_000, 1_000):
        members.on(LinkChanged("n2", now_ms % 2_000 != 0, "no answer", now_ms))
        assert members.is_settling("n2", now_ms) == (now_ms < 1_000 + SETTLE_MS)


def test_an_ended_lease_is_loss_once() -> None:
    members = ready()
    assert members.on(AliveChanged("n2", 0)) == [BecameLost("n2", 1)]
    assert members.on(LinkChanged("n2", False, "")) == []
    assert members.on(AliveChanged("n2", 0)) == []


def test_a_lease_of_a_former_incarnation_keeps_nobody_alive() -> None:
    members = ready()
    assert members.on(NodeChanged("n2", 2, False)) == [BecameLost("n2", 2)]
    assert members.on(AliveChanged("n2", 2)) == [BecameReady("n2", 2)]


def test_left_is_left_whatever_the_lease_says() -> None:
    members = ready()
    assert members.on(NodeChanged("n2", 1, True)) == [BecameLeft("n2")]
    assert members.on(LinkChanged("n2", False)) == []
    assert members.names("left") == ["n2"]


def test_a_node_does_not_suspect_itself() -> None:
    members = Membership("n1")
    members.on(AliveChanged("n1", 1))
    members.on(NodeChanged("n1", 1, False))
    assert members.on(LinkChanged("n1", False)) == []
    assert members.view("n9")[0] == "lost"


def test_what_people_are_told_of_a_node_in_each_state() -> None:
    members = Membership("n1")
    assert members.view("n2") == ("lost", "its lease has not been seen")
    members.on(LinkChanged("n2", True))
    assert members.view("n2") == ("lost", "its lease has not been seen")  # nothing is known but a link
    assert members.on(NodeChanged("n2", 1, False)) == [BecameLost("n2", 1)] and members.view("n2") == ("lost", "its lease has ended")
    assert members.on(AliveChanged("n2", 1)) == [BecameReady("n2", 1)] and members.view("n2") == ("ready", "")
    members.on(LinkChanged("n2", False))
    assert members.view("n2") == ("suspect", "the link to it is broken")
    assert members.on(NodeChanged("n2", 1, True)) == [BecameLeft("n2")] and members.view("n2") == ("left", "it left")
    assert members.on(NodeChanged("n2", 0, False)) == [] and members.view("n2") == ("lost", "its lease has not been seen")


def test_a_link_that_is_broken_stays_so_while_the_record_of_the_same_life_is_told_again() -> None:
    members = ready()
    members.on(LinkChanged("n2", False, "no answer"))
    assert members.on(NodeChanged("n2", 1, False)) == [] and members.view("n2") == ("suspect", "no answer")


def test_a_link_that_stands_is_not_forgotten_with_a_new_life_and_its_age_counts_from_when_it_came() -> None:
    members = ready()
    members.on(LinkChanged("n2", True, now_ms=10_000))
    members.on(LinkChanged("n2", True, now_ms=20_000))  # told again: it is as old as it was
    members.on(NodeChanged("n2", 2, False))
    members.on(LinkChanged("n2", False, now_ms=20_000 + SETTLE_MS - 1))
    assert members.is_settling("n2", 20_000 + SETTLE_MS)


def test_a_link_that_has_lasted_just_long_enough_was_one_and_its_break_is_a_passing_trouble() -> None:
    for lasted_ms, settling in ((SETTLE_MS - 1, False), (SETTLE_MS, True)):
        members = ready()
        members.on(LinkChanged("n2", True, now_ms=100_000))
        members.on(LinkChanged("n2", False, now_ms=100_000 + lasted_ms))
        assert members.is_settling("n2", 100_000 + lasted_ms) is settling


def test_a_node_of_which_only_the_record_is_known_is_settling_from_the_clocks_beginning_on() -> None:
    members = Membership("n1")
    members.on(NodeChanged("n2", 1, False, 90_000))  # a record is no coming: its lease is
    assert members.is_settling("n2", SETTLE_MS - 1) and not members.is_settling("n2", SETTLE_MS)
