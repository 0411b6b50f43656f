"""The outlook of what nodes have refused: it waits for those that have not, and if there are none it says what they said."""

from typing import Any
from unittest import mock

import pytest
from msgspec.structs import replace

from tests.core.test_queue import EVERYBODY, World, waiting
from unios.core import claims
from unios.core.nodes import NodeRecord
from unios.core.processes import ProcessRecord
from unios.core.queue import Queue, kind_of
from unios.demands import Placing, Queueing

NO_BOB = "a, b: there is no user bob: add it there (useradd bob), or run it as another user"


def refused(pid: int, *nodes: str, reason: str = NO_BOB) -> ProcessRecord:
    return claims.placed(waiting(pid, user="bob"), "", reason, refused=nodes)


def test_what_every_node_has_refused_says_what_they_said_and_not_that_it_waits_for_room() -> None:
    world = World(a=2, b=2)
    world.put(refused(300, "a", "b"), refused(301, "b", "a", reason="a, b: no program bobs"))
    assert world.why(300) == NO_BOB and world.why(301) == "a, b: no program bobs"
    world.put(replace(world.records[300], queueing=Queueing(held=True)))
    assert world.why(300).startswith("held")
    world.put(refused(300, "a", "b"))
    world.ready.append("c")
    world.books.offer(NodeRecord("c", "c", 1, users=EVERYBODY, cores=1))
    assert world.why(300) == "waits for a core: 0 of 1 are set aside; 0 before it"  # it may be tried there
    world.ready[:] = ["c"]
    world.books.offer(NodeRecord("c", "c", 1, users=("ann",), cores=1))
    assert world.why(300) == "no node that is ready runs programs as bob"
    assert claims.placed(refused(302, "a"), "b", "").refused == ()


def test_a_pin_and_forbidden_nodes_are_named_where_they_are_what_it_lacks() -> None:
    world = World(a=2, b=2)
    world.books.offer(NodeRecord("c", "c", 1, users=("ann",), cores=8))
    world.ready.append("c")

    def why(**fields: Any) -> str:
        world.put(waiting(300, **fields))
        return world.why(300)

    assert why(user="bob", pinned="c") == "c runs nothing as bob"
    assert why(user="ann", pinned="a", cpu=4_000) == "a does not have 4 cores"
    assert why(user="ann", cpu=9_000) == "no node that is ready has 9 cores"
    assert why(user="bob", placing=Placing(forbidden=("a", "b"))) == "it may not be on a, b, and no other node that is ready runs programs as bob"
    assert why(user="ann", pinned="a", placing=Placing(forbidden=("a",))) == "it is to be on a alone, and not on a"
    assert why(user="ann", pinned="gone") == "waits for node gone, which is not ready"


def test_of_what_it_waits_for_nodes_that_have_refused_are_no_part() -> None:
    world = World(a=2, b=1)
    world.put(waiting(300, pinned="b"))
    assert world.plan() == [300]
    world.put(refused(301, "a"))
    assert world.why(301) == "waits for a core: 1 of 1 are set aside; 0 before it"


def test_in_whatever_order_nodes_have_refused_them_they_are_of_one_kind() -> None:
    assert kind_of(refused(1, "n1", "n3", "n2")) == kind_of(refused(2, "n3", "n2", "n1"))


def test_what_every_node_has_refused_holds_up_no_newcomer() -> None:
    world = World(a=2)
    world.put(refused(300, "a"))
    assert world.queue.place_now(waiting(301), world.ready, world.choose)[0] == "a"
    world.put(replace(refused(300), queueing=Queueing(priority=20)))
    assert world.queue.place_now(waiting(301), world.ready, world.choose)[0] == ""


def test_what_a_node_with_room_has_refused_keeps_its_reservation_on_the_other() -> None:
    world = World(a=2, b=2)
    world.put(waiting(300, pinned="b"))
    assert world.plan() == [300]

    def choose(record: ProcessRecord, names: list[str]) -> tuple[str, str]:
        return World.choose(world, record, [name for name in names if record.user != "bob" or name != "a"])

    world.choose = choose  # type: ignore[method-assign]
    large = waiting(301, user="bob", cpu=2_000, priority=20)
    world.put(claims.placed(large, "", NO_BOB, refused=("a",)), waiting(302, pinned="b"))
    assert world.plan() == []
    world.end(300)
    assert world.plan() == [301]


def test_refusals_that_nobody_looks_at_are_missed() -> None:
    with mock.patch.object(Queue, "hopeful", Queue.able), pytest.raises(AssertionError):
        test_what_every_node_has_refused_says_what_they_said_and_not_that_it_waits_for_room()
