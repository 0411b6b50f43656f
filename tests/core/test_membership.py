"""Membership: a broken link is news, an ended lease is proof."""

from unios.core.membership import AliveChanged, BecameLeft, BecameLost, BecameReady, BecameSuspect, LinkChanged, Membership, NodeChanged


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
