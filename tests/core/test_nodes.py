"""Whose node a node may say it is."""

import pytest

from unios.core.nodes import NodeRecord, covers, may_claim_machine

ROOT, ANYBODY, ALICE = ("*", "root"), ("*",), ("alice",)
KNOWN = (NodeRecord("n1", "first", 1, users=ROOT), NodeRecord("n2", "alices", 1, users=ALICE), NodeRecord("n3", "gone", 1, users=ROOT, state="left"))


def test_covers_whom_the_other_speaks_for() -> None:
    assert covers(ROOT, ANYBODY) and covers(ROOT, ALICE) and covers(ANYBODY, ALICE) and covers(ALICE, ())
    assert not covers(ANYBODY, ROOT) and not covers(ALICE, ANYBODY) and not covers(ALICE, ("bob",))


@pytest.mark.parametrize(
    ("machine", "users", "may"),
    [
        ("first", ROOT, True),
        ("first", ANYBODY, False),
        ("first", ALICE, False),
        ("keys", ANYBODY, False),
        ("alices", ALICE, True),
        ("alices", ANYBODY, True),
        ("alices", ("bob",), False),
        ("new", ("bob",), True),
        ("gone", ("bob",), True),
    ],
)
def test_a_machine_is_claimed_only_by_who_speaks_for_its_users(machine: str, users: tuple[str, ...], may: bool) -> None:
    assert may_claim_machine(machine, users, frozenset({"first", "keys"}), KNOWN, owner="root") is may


def test_an_ordinary_users_system_takes_more_nodes_of_that_user_on_its_machine() -> None:
    known = (NodeRecord("n1", "m", 1, users=ALICE),)
    assert may_claim_machine("m", ALICE, frozenset({"m"}), known, owner="alice")
    assert not may_claim_machine("m", ("bob",), frozenset({"m"}), known, owner="alice")
