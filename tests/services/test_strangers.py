"""What nodes said of users: believed for a while, by lease, and only as a reason to wait when somebody may come who knows better."""

from unios.core.nodes import NodeRecord
from unios.errors import ProgramNotFound, UniosError, UserUnknown
from unios.limits import STRANGERS_KEPT_MAX
from unios.services.strangers import Strangers, may_be_elsewhere

UNKNOWN = UserUnknown("there is no user bob")


def test_a_node_that_does_not_know_a_user_is_not_asked_again_until_it_registers_anew() -> None:
    leases = {"n1": 1, "n2": 1}
    strangers = Strangers(leases.__getitem__)
    tried: dict[str, UniosError] = {"n1": UNKNOWN, "n2": ProgramNotFound("no vim")}
    strangers.told("bob", tried)
    assert strangers.of("bob") == {"n1": UNKNOWN}
    assert strangers.of("alice") == {}
    leases["n1"] = 2
    assert strangers.of("bob") == {}


def test_what_is_remembered_is_bounded() -> None:
    strangers = Strangers(lambda _node: 1)
    for number in range(STRANGERS_KEPT_MAX + 1):
        strangers.told(f"u{number}", {"n1": UNKNOWN})
    assert not strangers.of("u0") and strangers.of("u1")


def test_a_process_waits_only_if_somebody_who_is_away_may_know_its_user() -> None:
    tried: dict[str, UniosError] = {"n1": UNKNOWN}
    here, away = NodeRecord("n1", "m1", 1), NodeRecord("n2", "m2", 1)
    assert not may_be_elsewhere(1, tried, [here], {"n1"})
    assert may_be_elsewhere(1, tried, [here, away], {"n1"})
    assert may_be_elsewhere(2, tried, [here], {"n1"}), "it ran somewhere before"
    assert not may_be_elsewhere(1, tried, [here, NodeRecord("n2", "m2", 1, state="left")], {"n1"})
    assert not may_be_elsewhere(2, {**tried, "n2": ProgramNotFound("no vim")}, [here, away], {"n1"}), "n2 knows him"
    assert not may_be_elsewhere(2, {}, [here, away], {"n1"})
