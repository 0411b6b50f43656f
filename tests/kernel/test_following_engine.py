"""A machine that reaches the store through another one's kernels hears of its move to etcd from those alone, and gets what it may have."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from unios.errors import Denied, Unavailable
from unios.kernel import cluster, engine_moving, system
from unios.kernel.callers import Caller
from unios.kernel.cluster import Cluster
from unios.kernel.engine_moving import EngineMoving
from unios.kernel.system import ETCD, SQLITE, SystemFile
from unios.wire.home import Home
from unios.wire.keeping import AskEngine, StoreEngine
from unios.wire.peer import Call

FOUND = Cluster(("127.0.0.1:1",), "s", ca="authority", ca_key="its key")
NO_CALL = cast(Call, SimpleNamespace(decode=lambda _type: AskEngine()))


class Told:
    """A machine's kernel as far as this concerns it; `answers`: what nodes say, by name; `kept`: those whose certificate is of the store's machine."""

    def __init__(self, folder: Path, answers: dict[str, object], kept: tuple[str, ...], machine: str = "there") -> None:
        self.home = Home(folder / "home")
        self.home.path.mkdir()
        system.write(self.home.system_file, SystemFile("s", machine, SQLITE, "here", "here"))
        self.asked: list[str] = []

        async def call(name: str, *_given: object, **_named: object) -> object:
            self.asked.append(name)
            if isinstance(answers[name], Exception):
                raise cast(Exception, answers[name])
            return answers[name]

        async def begin() -> None:
            pass

        def start(work: Any) -> None:
            work.close()

        self.node = SimpleNamespace(
            home=self.home,
            name="n9",
            user="root",
            system=system.read(self.home.system_file, SystemFile),
            nodes=SimpleNamespace(revision=SimpleNamespace(generation="g1")),
            links=SimpleNamespace(names=lambda: list(answers), call=call),
            store_way=SimpleNamespace(keeps=lambda name: name in kept),
            quorum=SimpleNamespace(begin=begin, has_any=lambda: False),
            identity=SimpleNamespace(users=("*",)),
            start=start,
        )
        self.moving = EngineMoving(cast(Any, self.node))

    def known(self) -> SystemFile:
        return system.read(self.home.system_file, SystemFile)


def test_nobody_else_is_asked_nor_believed(tmp_path: Path) -> None:
    told = Told(tmp_path, {"rogue": StoreEngine(ETCD, msgspec.json.encode(FOUND))}, ())
    asyncio.run(told.moving.follow())
    assert told.asked == [] and told.known().engine == SQLITE and cluster.read(told.home) is None


def test_it_gets_a_gateway_and_asks_once_for_each_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_moving, "find_spec", lambda _name: object())
    answers: dict[str, object] = {"rogue": StoreEngine(SQLITE), "n1": Unavailable("it starts"), "n2": StoreEngine(SQLITE)}
    told = Told(tmp_path, answers, ("n1", "n2"))

    async def work() -> None:
        with pytest.raises(Unavailable):
            await told.moving.follow()
        answers["n1"] = StoreEngine(SQLITE)
        for _turn in range(3):
            await told.moving.follow()
        assert told.asked == ["n1", "n1"]
        answers["n1"], told.node.nodes.revision.generation = StoreEngine(ETCD, msgspec.json.encode(FOUND)), "g2"
        for _turn in range(3):
            await told.moving.follow()

    asyncio.run(work())
    assert told.asked == ["n1", "n1", "n1"] and cluster.read(told.home) == FOUND
    known = told.known()
    assert (known.engine, known.gateway, known.has_store, known.store_machine, known.moves) == (ETCD, True, True, "here", 1)
    assert told.node.system.engine == ETCD and told.node.system.gateway


@pytest.mark.parametrize("grpc", [None, object()])
def test_without_what_lets_it_in_it_goes_on_through_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grpc: object) -> None:
    monkeypatch.setattr(engine_moving, "find_spec", lambda _name: grpc)
    told = Told(tmp_path, {"n1": StoreEngine(ETCD, b"" if grpc else msgspec.json.encode(FOUND))}, ("n1",))
    asyncio.run(told.moving.follow())
    assert (told.known().engine, told.known().has_store) == (ETCD, False) and cluster.read(told.home) is None


def test_what_makes_no_sense_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_moving, "find_spec", lambda _name: object())
    told = Told(tmp_path, {"n1": StoreEngine(ETCD, b"{")}, ("n1",))
    with pytest.raises(Unavailable, match="does not understand"):
        asyncio.run(told.moving.follow())
    assert told.known().engine == SQLITE


def test_the_way_into_etcd_is_told_to_kernels_that_speak_for_as_many_users(tmp_path: Path) -> None:
    told = Told(tmp_path, {}, (), machine="here")
    cluster.write(told.home, FOUND)

    def asked(*users: str) -> object:
        return asyncio.run(told.moving.engine(Caller("root", 0, True, "n2", users=users, machine="m2"), NO_CALL))

    assert asked("*") == StoreEngine(SQLITE)
    system.note_engine(told.home.system_file, ETCD)
    assert asked("*") == StoreEngine(ETCD, msgspec.json.encode(FOUND), 1)
    assert asked("alice") == StoreEngine(ETCD, b"", 1)
    with pytest.raises(Denied):
        asked()
    (tmp_path / "other").mkdir()
    elsewhere = Told(tmp_path / "other", {}, ())
    with pytest.raises(Unavailable, match="not on the machine"):
        asyncio.run(elsewhere.moving.engine(Caller("root", 0, True, "n2", users=("*",), machine="m2"), NO_CALL))
