"""The steps of a change of etcd's keys: each is safe beside the one before, only those are told and believed who may be, and what was broken off is finished."""

import asyncio
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tests.kernel.test_stopping import MemoryStore
from unios.core.nodes import NodeRecord
from unios.core.quorum import PREFIX
from unios.errors import CallerError, Denied, NotFound, OutcomeUnknown, Unavailable
from unios.ids import LeaseId
from unios.kernel import cluster, quorum_member, rekeying
from unios.kernel.callers import Caller
from unios.kernel.cluster import STEPS, Cluster, following_step
from unios.kernel.expelling import Expelling
from unios.kernel.rekeying import MARK_MS, UNDER_WAY, Rekeying, newer
from unios.kernel.system import ETCD, SQLITE
from unios.store.model import Delete, Put, Transaction
from unios.store.sqlite import End, Grant
from unios.wire.home import Home
from unios.wire.keeping import Keys, StoreEngine
from unios.wire.operations import Empty
from unios.wire.peer import Call

FIRST = Cluster(("127.0.0.1:1",), "s", ca="A", ca_key="a")
FRESH = Cluster((), "s", ca="B", ca_key="b")


def test_at_each_step_what_is_shown_counts_with_all_who_are_a_step_behind_or_ahead() -> None:
    taken = [FIRST]
    for _step in range(STEPS):
        taken.append(following_step(taken[-1], FRESH))
    for before, after in itertools.pairwise(taken):
        assert before.ca in after.trusted and after.ca in before.trusted and after.rotation == before.rotation + 1
    assert taken[-1].trusted == "B" and taken[-1].ca_key == "b" and taken[-1].also_key == "" and taken[-1].is_settled
    assert not any(one.is_settled for one in taken[1:-1])
    assert taken[1].ca_key == "a", "the next authority makes nothing before all trust it"


def test_only_keys_are_taken_and_only_newer_ones() -> None:
    told = following_step(Cluster(("9.9.9.9:1",), "other", ca="A", ca_key="a", quota_bytes=1), FRESH)
    assert newer(FIRST, told) == msgspec.structs.replace(FIRST, also="B", also_key="b", rotation=1)
    assert newer(told, FIRST) == told and newer(told, following_step(FIRST, Cluster((), "s", ca="C", ca_key="c"))) == told


def test_changes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    cluster.write(home, FIRST)
    assert (
        cluster.change(Home(tmp_path / "nobody"), lambda kept: kept) is None if (tmp_path / "nobody" / "store").mkdir(parents=True) is None else False
    )

    def count() -> None:
        for _time in range(20):
            cluster.change(home, lambda kept: msgspec.structs.replace(kept, rotation=kept.rotation + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = cluster.read(home)
    assert kept is not None and kept.rotation == 80


class LeasingStore(MemoryStore):
    """With leases that end when somebody says so, and records of who has a member."""

    def __init__(self, keepers: list[str]) -> None:
        super().__init__()
        self.engine.run([Transaction(then=tuple(Put(PREFIX + name, b"") for name in keepers))])

    async def lease_grant(self, ttl_ms: int) -> LeaseId:
        return LeaseId(cast(int, self.engine.run([Grant(ttl_ms)])[0].result))

    async def lease_renew(self, _lease: LeaseId) -> int:
        return 1

    async def lease_revoke(self, lease: LeaseId) -> None:
        self.engine.run([End((lease,))])


class Scene:
    """A kernel with a gateway, and others that answer what they are told to; `took`: which steps who has been told."""

    def __init__(self, folder: Path, others: dict[str, object], *, kept: Cluster = FIRST, trusted: tuple[str, ...] | None = None) -> None:
        self.home = Home(folder / "home")
        self.home.store.mkdir(parents=True)
        cluster.write(self.home, kept)
        self.others, self.took = others, list[tuple[str, int]]()
        self.lost: set[str] = set()
        self.store = LeasingStore(["n1", "n2"])
        trusted = tuple(others) if trusted is None else trusted

        async def call(name: str, op: str, body: Any, *_more: object, **_named: object) -> object:
            answer = others[name]
            if op == "store.engine":
                if isinstance(answer, Exception):
                    raise answer
                return StoreEngine(ETCD, msgspec.json.encode(answer) if isinstance(answer, Cluster) else b"")
            assert op == "store.keys" and isinstance(body, Keys)
            told = msgspec.json.decode(body.cluster, type=Cluster)
            self.took.append((name, told.rotation))
            if name in self.lost:
                raise Unavailable("it is lost")
            others[name] = newer(cast(Cluster, answer), told)
            return Empty()

        async def write(*_event: object) -> None:
            pass

        self.node = SimpleNamespace(
            home=self.home,
            name="n1",
            user="root",
            folder=SimpleNamespace(path=folder / "n1"),
            system=SimpleNamespace(id="s", engine=ETCD, gateway=True),
            identity=SimpleNamespace(users=("*",)),
            events=SimpleNamespace(write=write),
            store=self.store,
            membership=SimpleNamespace(names=lambda *_states: ["n1", *others], view=lambda name: ("lost" if name in self.lost else "ready", "")),
            links=SimpleNamespace(call=call, names=lambda: list(others)),
            store_way=SimpleNamespace(keeps=lambda name: name in trusted),
        )
        self.rekeying = Rekeying(cast(Any, self.node))

    def kept(self) -> Cluster:
        found = cluster.read(self.home)
        assert found is not None
        return found


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    made: list[int] = []

    def begun(system: str, rotation: int) -> Cluster:
        made.append(rotation)
        return Cluster((), system, ca=f"CA{rotation}", ca_key=f"key{rotation}")

    async def nothing(_self: Rekeying) -> None:
        pass

    monkeypatch.setattr(rekeying.cluster, "begun", begun)
    monkeypatch.setattr(rekeying.cluster, "address_of", lambda _home, _kept: None)
    monkeypatch.setattr(Rekeying, "_gateway_anew", nothing)
    return lambda others, **named: Scene(tmp_path, others, **named)


def test_all_who_have_a_gateway_take_each_step_before_the_next(scene: Callable[..., Scene]) -> None:
    one = scene({"n2": FIRST, "n3": FIRST, "bare": None})
    done = asyncio.run(one.rekeying.change())
    assert done.nodes == ("n1", "n2", "n3") and one.took == [(name, step) for step in (0, 1, 2, 3) for name in ("n2", "n3")]
    assert one.kept() == one.others["n2"] == one.others["n3"] == msgspec.structs.replace(FIRST, ca="CA3", ca_key="key3", rotation=3)


def test_who_may_not_have_them_is_not_told(scene: Callable[..., Scene]) -> None:
    one = scene({"n2": FIRST, "narrow": FIRST}, trusted=("n2",))
    assert asyncio.run(one.rekeying.change()).nodes == ("n1", "n2") and "narrow" not in dict(one.took)


def test_one_that_does_not_say_what_it_has_is_not_passed_over(scene: Callable[..., Scene]) -> None:
    one = scene({"n2": FIRST, "n3": Unavailable("it does not answer")})
    with pytest.raises(Unavailable, match="n3 does not say"):
        asyncio.run(one.rekeying.change())
    assert one.kept() == FIRST and not one.took


def test_one_that_is_lost_meanwhile_holds_up_nobody_and_one_that_refuses_ends_it(scene: Callable[..., Scene]) -> None:
    one = scene({"n2": FIRST, "n3": FIRST})
    one.lost.add("n3")
    asyncio.run(one.rekeying.change())
    assert one.kept().rotation == 3 and one.others["n3"] == FIRST
    one.lost.clear()

    call, refused = one.node.links.call, 3

    async def older(name: str, op: str, body: Any, *given: Any, **named: Any) -> object:
        if op == "store.keys" and name == "n2" and msgspec.json.decode(body.cluster, type=Cluster).rotation >= refused:
            raise NotFound("there is no operation store.keys")
        return await call(name, op, body, *given, **named)

    one.node.links.call = older
    with pytest.raises(Unavailable, match="n2 has not taken the new keys"):
        asyncio.run(one.rekeying.change())
    assert one.kept().trusted == "CA3", "one that knows nothing of it is found before anything is changed"
    refused = 4
    with pytest.raises(Unavailable, match="n2 has not taken the new keys"):
        asyncio.run(one.rekeying.change())
    assert one.kept().trusted == "CA3CA6", "both count until it is gone on with"


@pytest.mark.parametrize("steps", [1, 2])
def test_what_was_broken_off_is_finished_and_then_all_are_changed(scene: Callable[..., Scene], steps: int) -> None:
    """Who has just been expelled may know the keys of a change that was broken off."""
    half = FIRST
    for _step in range(steps):
        half = following_step(half, FRESH)
    one = scene({"n2": half, "n3": FIRST})
    asyncio.run(one.rekeying.take_in(following_step(FIRST, FRESH)))
    assert ["goes on with it" in note for note in one.rekeying.notes()] == [True]
    asyncio.run(one.rekeying.change())
    assert not list(one.rekeying.notes())
    assert [step for name, step in one.took if name == "n3"] == list(range(steps, 7)), "none takes a step before all have taken the one before"
    assert (one.kept().rotation, one.kept().trusted) == (6, f"CA{steps + STEPS}") and one.others["n2"] == one.kept()


def test_one_change_at_a_time(scene: Callable[..., Scene]) -> None:
    one = scene({"n2": FIRST})

    async def work() -> None:
        await one.store.transact(Transaction(then=(Put(UNDER_WAY, b"n2"),)))
        with pytest.raises(Unavailable, match="are being changed"):
            await one.rekeying.change()
        await one.store.delete(UNDER_WAY)
        await one.rekeying.change()
        await one.rekeying.change()  # the mark has gone with the first

    asyncio.run(work())
    assert one.kept().rotation == 6


def test_when_it_is_not_known_whether_the_mark_is_there_nothing_is_changed_and_none_is_left(scene: Callable[..., Scene]) -> None:
    one = scene({"n2": FIRST})
    transact = one.store.transact

    async def lost(transaction: Transaction) -> object:
        await transact(transaction)
        raise OutcomeUnknown("the connection ended")

    one.store.transact = lost  # type: ignore[assignment, method-assign]
    with pytest.raises(Unavailable, match="nothing was changed"):
        asyncio.run(one.rekeying.change())
    one.store.transact = transact  # type: ignore[method-assign]
    assert one.kept() == FIRST and not asyncio.run(one.store.range(UNDER_WAY))[0].records


def test_who_has_lost_the_mark_goes_no_further_and_leaves_the_mark_of_others(scene: Callable[..., Scene]) -> None:
    one, others = scene({"n2": FIRST}), list[int]()
    call = one.node.links.call

    async def lose(name: str, op: str, body: Any, *given: Any, **named: Any) -> object:
        if op == "store.keys" and msgspec.json.decode(body.cluster, type=Cluster).rotation == 1:
            others.append(await one.store.lease_grant(MARK_MS))
            await one.store.transact(Transaction(then=(Put(UNDER_WAY, b"n2", others[0]),)))
        return await call(name, op, body, *given, **named)

    one.node.links.call = lose
    with pytest.raises(Unavailable, match="away for too long"):
        asyncio.run(one.rekeying.change())
    assert one.kept().rotation == 1
    assert [record.lease for record in asyncio.run(one.store.range(UNDER_WAY))[0].records] == others


def test_one_that_joins_meanwhile_is_told_the_rest(scene: Callable[..., Scene]) -> None:
    one = scene({"n2": FIRST})
    call = one.node.links.call

    async def join(name: str, op: str, body: Any, *given: Any, **named: Any) -> object:
        if op == "store.keys" and msgspec.json.decode(body.cluster, type=Cluster).rotation == 1:
            one.others.setdefault("n3", FIRST)
        return await call(name, op, body, *given, **named)

    one.node.links.call = join
    one.node.store_way.keeps = lambda _name: True
    assert asyncio.run(one.rekeying.change()).nodes == ("n1", "n2", "n3")
    assert [step for name, step in one.took if name == "n3"] == [2, 3] and one.others["n3"] == one.kept()


def test_members_are_started_anew_one_after_the_other_also_by_one_that_can_have_none(scene: Callable[..., Scene]) -> None:
    one = scene({"n2": FIRST, "n3": FIRST, "n4": FIRST})
    asyncio.run(one.store.transact(Transaction(then=(Delete(PREFIX + "n1"), Put(PREFIX + "n3", b""), Put(PREFIX + "n4", b"")))))
    call, at_once = one.node.links.call, list[int]()
    asked = 0

    async def look(name: str, op: str, *given: Any, **named: Any) -> object:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        at_once.append(asked)
        try:
            return await call(name, op, *given, **named)
        finally:
            asked -= 1

    one.node.links.call = look
    asyncio.run(one.rekeying.change())
    assert set(at_once) == {1}


def test_an_expulsion_changes_them_also_where_no_member_can_be(scene: Callable[..., Scene]) -> None:
    one = scene({"n2": FIRST})
    one.node.rekeying, one.node.quorum = one.rekeying, SimpleNamespace(offer=None, keepers=[])
    notes = asyncio.run(Expelling(cast(Any, one.node))._change_keys(cast(NodeRecord, SimpleNamespace(name="rogue"))))
    assert notes == ("the keys of the system's etcd were changed, on n1, n2: those that the machine of rogue had let nobody in",)
    assert one.kept().rotation == 3


def test_a_disk_that_takes_no_keys_is_said(scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_given: object) -> None:
        raise OSError(28, "No space left on device")

    one = scene({"n2": FIRST})
    monkeypatch.setattr(rekeying.cluster, "write", full)
    with pytest.raises(Unavailable, match=r"n1 cannot keep the new keys.*No space left"):
        asyncio.run(one.rekeying.change())
    assert one.kept() == one.others["n2"] == FIRST


def test_a_member_that_was_away_for_the_first_step_is_started_anew_at_the_second(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom it trusts it has read at its start: those to whom others belong who show the next authority's certificates by now."""
    second = following_step(following_step(FIRST, FRESH), FRESH)
    one, done = scene({}), list[str]()
    mine = one.node.folder.path / "etcd"
    mine.mkdir(parents=True)
    (mine / "etcd-cert.pem").write_text("")
    monkeypatch.setattr(quorum_member, "read", lambda _folder: SimpleNamespace(peer="p"))
    monkeypatch.setattr(quorum_member, "show", lambda *_given: done.append("shows"))
    monkeypatch.setattr(quorum_member, "start_anew", lambda _folder: done.append("anew"))
    for lies in ("A", "AB"):
        (mine / "etcd-ca.pem").write_text(lies)
        asyncio.run(one.rekeying.take_in(second, wait=False))
    assert done == ["anew", "shows"]


@pytest.mark.parametrize(("engine", "gateway", "kept"), [(SQLITE, False, FIRST), (ETCD, False, FIRST), (ETCD, True, Cluster(("h:1",), "s"))])
def test_where_there_are_no_keys_of_its_own_it_says_so(scene: Callable[..., Scene], engine: str, gateway: bool, kept: Cluster) -> None:
    one = scene({"n2": FIRST}, kept=kept)
    one.node.system.engine, one.node.system.gateway = engine, gateway
    with pytest.raises(CallerError, match="no keys of an etcd of its own"):
        asyncio.run(one.rekeying.change())


def test_keys_are_taken_from_kernels_that_speak_for_as_many(scene: Callable[..., Scene]) -> None:
    one = scene({})
    told = msgspec.json.encode(following_step(FIRST, FRESH))

    def ask(users: tuple[str, ...], data: bytes) -> None:
        call = cast(Call, SimpleNamespace(decode=lambda _type: Keys(data)))
        asyncio.run(cast(Any, one.rekeying.keys(cast(Caller, SimpleNamespace(users=users, privileged=True)), call)))

    for users in ((), ("ann",), ("root",)):
        with pytest.raises(Denied):
            ask(users, told)
    for data in (b"{", b"[]", msgspec.json.encode(Cluster(("h:1",), "s"))):
        with pytest.raises(CallerError):
            ask(("*",), data)
    assert one.kept() == FIRST
    ask(("*",), told)
    assert one.kept().rotation == 1
    ask(("*",), msgspec.json.encode(FIRST))
    assert one.kept().rotation == 1


def test_one_that_was_away_asks_those_whom_it_may_believe(scene: Callable[..., Scene]) -> None:
    now = FIRST
    for _step in range(STEPS):
        now = following_step(now, FRESH)
    far = msgspec.structs.replace(now, ca="rogue", rotation=99)
    one = scene({"rogue": far, "away": Unavailable("no"), "n2": now}, trusted=("n2", "away"))
    asyncio.run(one.rekeying.catch_up())
    assert one.kept() == now
    asyncio.run(one.rekeying.catch_up())
    assert one.kept() == now


def test_one_that_is_silent_keeps_nobody_from_the_keys_of_the_others(scene: Callable[..., Scene]) -> None:
    now = msgspec.structs.replace(FIRST, rotation=3)
    one = scene({"a-silent": FIRST, "n2": now})
    call, asked = one.node.links.call, asyncio.Event()

    async def silent(name: str, *given: Any, **named: Any) -> object:
        if name == "a-silent":
            await asked.wait()
            raise Unavailable("it has not answered")
        asked.set()
        return await call(name, *given, **named)

    async def work() -> None:
        async with asyncio.timeout(5):
            await one.rekeying.catch_up()

    one.node.links.call = silent
    asyncio.run(work())
    assert one.kept() == now


def test_what_is_damaged_is_copied_from_those_whom_it_may_believe(scene: Callable[..., Scene]) -> None:
    now = msgspec.structs.replace(FIRST, rotation=3)
    one = scene({"rogue": msgspec.structs.replace(FIRST, ca="rogue", rotation=9), "n2": now}, trusted=("n2",))
    (one.home.store / cluster.FILE).write_bytes(b"{\xff")
    one.others["n2"] = Unavailable("it is away")
    asyncio.run(one.rekeying.catch_up())
    with pytest.raises(Unavailable, match="cannot be read"):
        one.kept()
    one.others["n2"] = now
    asyncio.run(one.rekeying.catch_up())
    assert one.kept() == now


def test_only_the_owner_may_have_them_changed(scene: Callable[..., Scene]) -> None:
    with pytest.raises(Denied):
        asyncio.run(cast(Any, scene({}).rekeying.rekey(cast(Caller, SimpleNamespace(privileged=False)), cast(Call, None))))
