"""Deaths of a service, and which foreign policy they are laid to."""

from collections.abc import Callable
from pathlib import Path

import pytest

from unios.limits import POLICY_DEATHS_MAX, POLICY_DEATHS_WINDOW_MS
from unios.services.policy_deaths import PolicyDeaths


class Node:
    """Its services, one after the other; each but the last has died."""

    def __init__(self, path: Path) -> None:
        self.path, self.now_ms, self.supervisor = path, 1_000, "7"

    def begin(self) -> PolicyDeaths:
        return PolicyDeaths(self.path, self.supervisor, lambda: self.now_ms)

    def die(self, times: int, doing: Callable[[PolicyDeaths], None]) -> None:
        for _time in range(times):
            service = self.begin()
            doing(service)
            service.close()

    def guilty(self, *names: str) -> list[str]:
        service = self.begin()
        found = [name for name in names if service.guilt(name)]
        service.close()
        return found


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "policies")


def loads(service: PolicyDeaths) -> None:
    service.begins("a", 5)


def runs_both(service: PolicyDeaths) -> None:
    for name in ("a", "b"):
        service.begins(name)
        service.loaded(name)


def asks_b(service: PolicyDeaths) -> None:
    runs_both(service)
    question = service.asked("b")
    question.__enter__()
    service._keep = question  # type: ignore[attr-defined]  # else it would end with this function


def test_after_a_few_deaths_it_is_guilty_and_not_before(node: Node) -> None:
    node.die(POLICY_DEATHS_MAX - 1, loads)
    assert node.guilty("a") == []
    node.die(1, loads)
    assert node.guilty("a") == ["a"]
    assert node.guilty("a") == ["a"]  # and stays so while nothing runs


def test_who_was_asked_is_blamed_and_else_who_was_being_loaded_and_else_all(node: Node) -> None:
    node.die(POLICY_DEATHS_MAX, asks_b)
    assert node.guilty("a", "b") == ["b"]
    node.path.unlink()

    def loads_b(service: PolicyDeaths) -> None:
        service.begins("a")
        service.loaded("a")
        with service.asked("a"):
            pass
        service.begins("b")

    node.die(POLICY_DEATHS_MAX, loads_b)
    assert node.guilty("a", "b") == ["b"]
    node.path.unlink()
    node.die(POLICY_DEATHS_MAX, runs_both)
    assert node.guilty("a", "b") == ["a", "b"]


def test_a_service_that_ends_its_policies_did_not_die_of_them(node: Node) -> None:
    def ends(service: PolicyDeaths) -> None:
        loads(service)
        service.ends("a")

    node.die(9, ends)
    assert node.guilty("a") == []


def test_a_node_that_is_stopped_and_started_counts_nothing(node: Node) -> None:
    for supervisor in ("1", "2", "3", "4", "", "", "", ""):
        node.supervisor = supervisor
        node.die(1, loads)
    assert node.guilty("a") == []


def test_old_deaths_are_forgotten_and_so_are_all_if_it_is_set_anew(node: Node) -> None:
    node.die(POLICY_DEATHS_MAX, loads)
    service = node.begin()
    service.set("a", 5)
    assert service.guilt("a")
    service.set("a", 6)
    assert not service.guilt("a")
    service.close()
    assert node.guilty("a") == []
    node.path.unlink()
    node.die(POLICY_DEATHS_MAX, loads)
    node.now_ms += POLICY_DEATHS_WINDOW_MS + 1
    assert node.guilty("a") == []


@pytest.mark.parametrize("damage", [b"", b"x" * 300, b"\0" * 256 + b'{"supervisor":"7","policies":{"a":{"deaths":7}}}', b"\0" * 256 + b"[]"])
def test_a_damaged_file_costs_the_count_only(node: Node, damage: bytes) -> None:
    node.path.write_bytes(damage)
    node.die(POLICY_DEATHS_MAX, loads)
    assert node.guilty("a") == ["a"]


def test_without_a_file_nothing_is_counted(tmp_path: Path) -> None:
    node = Node(tmp_path / "none" / "policies")
    node.die(9, loads)
    assert node.guilty("a") == []
