"""Who has to confirm an expulsion."""

from unios.core.expulsion import Expulsion, why_not
from unios.core.nodes import NodeRecord


def test_it_is_whole_once_every_node_whose_lease_stands_has_confirmed() -> None:
    decided = Expulsion(["n2", "n3", "n4"])
    decided.has_cut("n2")
    assert not decided.is_whole and decided.open == ("n3", "n4")
    assert decided.failed("n3", "no link", stands=True)
    assert dict(decided.missing())["n3"] == "no link"
    decided.has_cut("n3")
    assert not decided.failed("n4", "no link", stands=False)
    assert decided.is_whole and decided.confirmed == ["n2", "n3"]
    assert [name for name, _why in decided.missing()] == ["n4"]


def test_one_that_was_lost_and_confirms_after_all_is_missing_no_more() -> None:
    decided = Expulsion(["n2"])
    decided.failed("n2", "", stands=False)
    decided.has_cut("n2")
    assert decided.missing() == () and decided.confirmed == ["n2"]
    assert not decided.failed("n2", "late", stands=True)


def test_nobody_expels_himself_or_who_has_the_machine_of_the_store() -> None:
    keepers = frozenset({"m1"})
    assert "cannot expel itself" in why_not(NodeRecord("n1", "m2", 1), "n1", keepers, "keeps the store")
    assert "keeps the store" in why_not(NodeRecord("n2", "m1", 1), "n3", keepers, "keeps the store")
    assert why_not(NodeRecord("n2", "m2", 1), "n1", keepers, "keeps the store") == ""
