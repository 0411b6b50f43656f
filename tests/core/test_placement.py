"""The placement policies by name, and the wishes that hold under each of them."""

import pytest

from unios.core import placement
from unios.core.capacity import Books
from unios.core.nodes import NodeRecord
from unios.core.processes import ProcessRecord
from unios.demands import Placing

NAMES = ["a1", "a2", "b1"]


def books(**running: int) -> Books:
    """Two nodes of machine a and one of machine b, of four cores each, with so many processes of one core."""
    made = Books()
    for name in NAMES:
        made.offer(NodeRecord(name, name[0], 1, users=("*",), cores=4))
    pid = 1_000
    for name, count in running.items():
        for _one in range(count):
            made.put(ProcessRecord(pid := pid + 1, 1, "running", "ann", node=name, placing=Placing(label=f"on-{name}")))
    return made


def first(policy: str, made: Books, wishes: Placing | None = None, recent: dict[str, int] | None = None) -> str:
    record = ProcessRecord(300, 1, "pending", "ann", placing=wishes or Placing())
    names, wrong = placement.order(placement.POLICIES[policy], placement.candidates(made, NAMES, record, recent or {}))
    assert not wrong and sorted(names) == NAMES
    return names[0]


def test_each_policy_has_its_own_idea() -> None:
    made = books(a1=3, a2=1, b1=2)
    assert first("least-loaded", made) == "a2"
    assert first("pack", made) == "a1"
    assert first("spread", made) == "b1"  # one machine has four processes, the other two
    assert first("most-recent-first", made, recent={"b1": 7, "a1": 3}) == "b1"


@pytest.mark.parametrize("policy", placement.POLICIES)
def test_who_attracts_and_who_repels_goes_before_any_policy(policy: str) -> None:
    made = books(a1=3, a2=1, b1=2)
    for name in NAMES:
        assert first(policy, made, Placing(near=(f"on-{name}",))) == name
    assert first(policy, made, Placing(apart=("on-a1", "on-b1"))) == "a2"
    assert first(policy, made, Placing(near=("on-a1",), apart=("on-a1",))) != "a1"  # being apart weighs more
    assert first(policy, made, Placing(near=("1001",))) == "a1"  # by its pid


def test_books_count_a_process_once_however_often_it_is_told() -> None:
    made = books(a1=1)
    record = ProcessRecord(1_001, 1, "running", "ann", node="a2")
    for _time in range(3):
        made.put(record)
    assert (made.running("a1"), made.running("a2"), made.set_aside("a2").cpu_milli) == (0, 1, 1_000)
    made.drop(1_001)
    made.drop(1_001)
    assert made.set_aside("a2").cpu_milli == 0 and not made.users
