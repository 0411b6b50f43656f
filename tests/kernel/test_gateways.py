"""A machine gives up its gateway for another one's attempt to have the store, and hears from that one alone what came of it."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tests.kernel.moving.rig import with_served
from tests.kernel.test_following_engine import FOUND, Told
from unios.core import moving
from unios.core.nodes import NodeRecord
from unios.errors import CallerError, Denied, Unavailable
from unios.kernel import cluster, gateways, system
from unios.kernel.callers import Caller
from unios.kernel.clocks import boot_ms
from unios.kernel.gateways import AWAY_MS, Gateways
from unios.kernel.system import ETCD, SQLITE, NodeFile
from unios.store.client import StoreClient
from unios.store.server import take_lock
from unios.wire.home import Home
from unios.wire.keeping import Forgo, StoreEngine
from unios.wire.peer import Call

ATTEMPT = "m2.0-a"


class Machine(Told):
    """One with a gateway to etcd; n2 is a node of the machine m2, n3 of another."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, object] | None = None) -> None:
        super().__init__(folder, {} if answers is None else answers, ())
        monkeypatch.setattr(gateways, "find_spec", lambda _name: object())
        system.note_engine(self.home.system_file, ETCD)
        cluster.write(self.home, FOUND)
        peers = {"n2": SimpleNamespace(machine="m2", users=("*",)), "n3": SimpleNamespace(machine="m3", users=("*",))}
        self.node.links.identity = peers.get
        self.node.engine_moving = self.moving
        self.gateways = Gateways(cast(Any, self.node))
        asyncio.run(self.moving.look())

    def forgo(self, attempt: str = ATTEMPT, machine: str = "m2", users: tuple[str, ...] = ("*",)) -> None:
        call = cast(Call, SimpleNamespace(decode=lambda _type: Forgo(attempt)))
        asyncio.run(self.gateways.forgo(Caller("root", 0, True, "n2", users=users, machine=machine), call))

    def follow(self) -> None:
        asyncio.run(self.gateways.follow())

    def has(self) -> tuple[str, bool, str]:
        known = self.known()
        return known.engine, known.gateway, known.forgone


@pytest.mark.parametrize(
    ("attempt", "machine", "users", "error"),
    [("m2.a", "m2", (), Denied), ("m3.a", "m2", ("*",), CallerError), ("there.a", "there", ("*",), CallerError)],
)
def test_it_gives_up_for_whom_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: str, machine: str, users: tuple[str, ...], error: type[Exception]
) -> None:
    told = Machine(tmp_path, monkeypatch)
    with pytest.raises(error):
        told.forgo(attempt, machine, users)
    assert told.has() == (ETCD, True, "")


def test_a_machine_that_has_the_store_in_its_own_file_gives_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Machine(tmp_path, monkeypatch)
    system.note_engine(told.home.system_file, SQLITE)
    with pytest.raises(Unavailable, match="in a file of its own"):
        told.forgo()
    assert told.has() == (SQLITE, False, "")


def test_it_gives_up_for_none_who_does_not_speak_for_all_of_its_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Machine(tmp_path, monkeypatch)
    for name, users in (("n8", ("alice",)), ("n9", ("*", "root"))):
        told.home.node(name).path.mkdir(parents=True)
        system.write(told.home.node(name).node_file, NodeFile(name, users))
    told.node.identity.users = ("alice",)
    with pytest.raises(Denied):
        told.forgo(users=("alice",))
    told.forgo(users=("*", "root"))


def test_it_says_that_it_has_given_up_when_its_gateway_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Machine(tmp_path, monkeypatch)
    monkeypatch.setattr(gateways, "ENDS_S", 0.1)

    async def straight() -> Any:
        raise Unavailable("it hangs")

    told.node.store_way.straight = straight
    lock = take_lock(told.home.store)
    assert lock is not None
    with pytest.raises(Unavailable, match="does not end"):
        told.forgo()
    os.close(lock)
    told.forgo()
    assert told.has() == (ETCD, False, ATTEMPT) and not told.node.system.has_store


def test_what_came_of_it_is_believed_of_that_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, object] = {"n3": StoreEngine(SQLITE)}
    told = Machine(tmp_path, monkeypatch, answers)
    told.forgo()
    told.follow()
    assert told.asked == [] and told.has() == (ETCD, False, ATTEMPT)
    answers["n2"] = StoreEngine(SQLITE)
    told.follow()
    assert told.asked == ["n2"] and told.has() == (SQLITE, False, "")
    assert told.known().store_machine == "m2" == told.node.system.store_machine


def test_a_gateway_begins_again_when_the_store_has_stayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Machine(tmp_path, monkeypatch, {"n2": StoreEngine(ETCD)})
    told.forgo()
    told.follow()
    assert told.has() == (ETCD, True, "") and told.node.system.has_store


@pytest.mark.parametrize("engine", [ETCD, SQLITE])
def test_a_store_that_has_moved_more_than_once_meanwhile_is_asked_for_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    told = Machine(tmp_path, monkeypatch, {"n2": StoreEngine(engine, b"", 2)})
    told.forgo()
    told.follow()
    assert told.has() == (SQLITE, False, "") and told.known().store_machine == "m2"


def test_while_it_is_being_moved_nothing_changes_however_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Machine(tmp_path, monkeypatch, {"n2": StoreEngine(ETCD, moving=True)})
    told.forgo()
    now = boot_ms()
    for later in (1, AWAY_MS - 1, 2 * AWAY_MS, 3 * AWAY_MS):
        monkeypatch.setattr(gateways, "boot_ms", lambda: now + later)  # noqa: B023 it is called in this round
        told.follow()
    assert told.has() == (ETCD, False, ATTEMPT)


def test_one_that_cannot_say_is_as_good_as_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, object] = {"n2": Unavailable("its store does not begin")}
    told = Machine(tmp_path, monkeypatch, answers)
    told.forgo()
    later = boot_ms() + AWAY_MS + 1
    monkeypatch.setattr(gateways, "boot_ms", lambda: later)
    told.follow()
    assert told.has() == (ETCD, True, ATTEMPT)
    answers["n2"] = StoreEngine(SQLITE, b"", 1)  # etcd may be gone, and never tell the gateway that has begun
    told.follow()
    assert told.has() == (SQLITE, False, "")


def test_an_answer_to_an_earlier_attempt_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Machine(tmp_path, monkeypatch)
    told.forgo()

    async def call(*_given: object, **_named: object) -> StoreEngine:
        system.forgo(told.home.system_file, "m2.0-b")  # another node of the machine hears of the next one meanwhile
        return StoreEngine(ETCD)

    told.node.links.call, told.node.links.names = call, lambda: ["n2"]
    told.follow()
    assert told.has() == (ETCD, False, "m2.0-b")


def test_one_that_has_lost_sight_of_it_begins_its_gateway_and_has_etcd_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Machine(tmp_path, monkeypatch)
    told.forgo()
    told.follow()
    assert told.has() == (ETCD, False, ATTEMPT)
    later = boot_ms() + AWAY_MS + 1
    monkeypatch.setattr(gateways, "boot_ms", lambda: later)
    told.follow()
    assert told.has() == (ETCD, True, ATTEMPT)
    system.found_left(told.home.system_file, ATTEMPT, "m3.0-c")
    assert told.has() == (ETCD, False, "m3.0-c")
    system.come_back(told.home.system_file, "m3.0-c")
    system.found_left(told.home.system_file, "m3.0-c", "")
    assert told.has() == (ETCD, True, "")


def another(folder: Path) -> Home:
    """Return a home with a place for a store."""
    home = Home(folder / "another")
    home.store.mkdir(parents=True)
    return home


async def _moving(store: StoreClient) -> list[bytes]:
    return [record.value for record in (await store.range(moving.MOVING))[0].records]


def test_an_attempt_takes_the_place_of_one_of_its_own_machine_that_was_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Machine(tmp_path, monkeypatch)
    told.node.leasing = SimpleNamespace(lease=0)

    async def work(store: StoreClient) -> None:
        await store.put(moving.MOVING, b"there.0-x")
        async with told.gateways.given_up(store) as (attempt, machines):
            assert machines == () and await _moving(store) == [attempt.encode()] and moving.machine_of(attempt) == "there"
        assert not await _moving(store)
        await store.put(moving.MOVING, b"m2.0-x")
        with pytest.raises(Unavailable, match="by another machine"):
            async with told.gateways.given_up(store):
                pass
        assert await _moving(store) == [b"m2.0-x"]

    with_served(another(tmp_path), work)


def test_a_machine_that_has_given_up_meanwhile_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Machine(tmp_path, monkeypatch)
    told.node.leasing = SimpleNamespace(lease=0)
    system.forgo(told.home.system_file, ATTEMPT)  # by another node of the machine

    async def work(store: StoreClient) -> None:
        with pytest.raises(Unavailable, match="for another one"):
            async with told.gateways.given_up(store):
                pass
        assert not await _moving(store)

    with_served(another(tmp_path), work)


def test_a_machine_that_was_not_asked_keeps_the_store_where_it_is() -> None:
    nodes = [(f"/nodes/{name}", msgspec.msgpack.encode(NodeRecord(name, machine, 1))) for name, machine in (("n1", "m1"), ("n2", "m2"), ("n3", "m3"))]
    moving.check(nodes, {"m1", "m2", "m3"})
    with pytest.raises(CallerError, match="n3 may go on"):
        moving.check(nodes, {"m1", "m2"})
    left = [("/nodes/n3", msgspec.msgpack.encode(NodeRecord("n3", "m3", 1, state="left")))]
    moving.check([*nodes[:2], *left], {"m1", "m2"})
