"""What a node does with its member of the store's etcd: begins one that is new, and only that; has none before the others let it go; and says when it may not."""

import asyncio
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from unios.core.nodes import Etcd, NodeRecord, alive_key, node_key
from unios.core.quorum import CHANGES, LEAVING, QuorumRecord, record_key
from unios.errors import CallerError, DataLost, Unavailable
from unios.ids import Generation
from unios.kernel import cluster, parts, quorum, quorum_member, runfiles, system
from unios.kernel.cluster import Cluster
from unios.kernel.quorum import Quorum
from unios.kernel.quorum_member import MemberFile
from unios.store.model import Delete, Operation, Put, Transaction, TransactionResult
from unios.store.requests import MemberRequest, MemberView
from unios.store.sqlite import Grant, SqliteEngine
from unios.wire.home import Home

PEER, CLIENT = "https://10.0.0.3:1001", "https://10.0.0.3:1002"


class Members:
    """The members as etcd lists them, and the records of an engine."""

    def __init__(self, *listed: MemberView) -> None:
        self.listed = list(listed)
        self.asked: list[MemberRequest] = []
        self.deleted: list[str] = []
        self.engine = SqliteEngine(":memory:", Generation("g"))

    async def members(self) -> tuple[MemberView, ...]:
        return tuple(self.listed)

    async def change_member(self, request: MemberRequest) -> tuple[MemberView, ...]:
        self.asked.append(request)
        self.listed = [one for one in self.listed if one.id != request.id]
        return tuple(self.listed)

    async def transact(self, transaction: Transaction) -> TransactionResult:
        found = self.engine.run([transaction])[0].result
        assert isinstance(found, TransactionResult), found
        return found

    async def delete(self, key: str) -> None:
        self.deleted.append(key)
        await self.transact(Transaction(then=(Delete(key),)))

    def tell(self, *operations: Operation) -> None:
        self.engine.run([Transaction(then=operations)])


class Rig:
    """Node n3, which can have a member at PEER."""

    def __init__(self, home: Path, *listed: MemberView) -> None:
        self.home = Home(home)
        self.store = Members(*listed)
        self.folder = self.home.node("n3")
        self.etcd = self.folder.path / "etcd"
        self.etcd.mkdir(parents=True)
        self.folder.run.mkdir()
        self.tasks: list[asyncio.Task[Any]] = []
        self.states: dict[str, str] = {}
        self.node = SimpleNamespace(
            name="n3",
            home=self.home,
            folder=self.folder,
            store=self.store,
            file=SimpleNamespace(listen="10.0.0.3"),
            addresses=SimpleNamespace(best="10.0.0.3:1000"),
            system=SimpleNamespace(gateway=True),
            nodes=SimpleNamespace(values={f"n{at}": NodeRecord(f"n{at}", f"m{at}", 1, etcd=Etcd("3.4", peer(at), "")) for at in (1, 2, 3)}),
            membership=SimpleNamespace(view=lambda name: (self.states.get(name, "ready"), "")),
            leasing=SimpleNamespace(lease=self.store.engine.run([Grant(60_000)])[0].result),
            start=lambda work: self.tasks.append(asyncio.get_running_loop().create_task(work)),
        )
        for name, record in self.node.nodes.values.items():
            self.store.tell(Put(node_key(name), msgspec.msgpack.encode(record)), Put(alive_key(name), b""))
        self.quorum = Quorum(self.node)  # type: ignore[arg-type]
        self.quorum.offer = Etcd("3.4", PEER, CLIENT)

    def tell(self, record: QuorumRecord | None) -> None:
        key = record_key("n3")
        self.quorum._mirror.values.pop(key, None)
        if record is not None:
            self.quorum._mirror.values[key] = record
        self.quorum._on_record(key, None, record)

    def mine(self) -> MemberFile | None:
        return quorum_member.read(self.folder)

    def write(self, member: MemberFile) -> None:
        system.write(self.etcd / "member.json", member)

    def data(self) -> Path:
        (self.etcd / "data" / "member" / "wal").mkdir(parents=True)
        (self.etcd / "data" / "member" / "wal" / "0-0.wal").touch()
        return self.etcd / "data"


def peer(number: int) -> str:
    return f"https://10.0.0.{number}:1001"


def listed(number: int, *, id_: int = 0, name: str = "?", learner: bool = False) -> MemberView:
    return MemberView(id_ or 100 + number, f"n{number}" if name == "?" else name, peer(number), "", learner)


def wanted(member: int) -> QuorumRecord:
    return QuorumRecord("n3", CLIENT, {"n1": peer(1), "n3": PEER}, member=member)


def done(work: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quorum, "LOOK_S", 0.001)
    asyncio.run(asyncio.wait_for(work(), 10))  # type: ignore[arg-type]


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_a_member_that_is_new_begins_without_what_an_earlier_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(tmp_path, listed(1), listed(3, name="", learner=True))
        left = rig.data()
        (rig.etcd / "begun").touch()
        rig.tell(wanted(103))
        await until(lambda: rig.mine() is not None)
        assert rig.mine() == MemberFile("n3", PEER, CLIENT, {"n1": peer(1), "n3": PEER}, joins=True, listen="10.0.0.3", member=103)
        assert not left.exists() and not (rig.etcd / "begun").exists()
        await asyncio.gather(*rig.tasks)

    done(work, monkeypatch)


def test_one_that_had_begun_and_was_lost_is_taken_out_and_not_begun_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(tmp_path, listed(1), listed(2), listed(3))
        rig.tell(wanted(103))
        await until(lambda: bool(rig.store.asked))
        assert rig.store.asked == [MemberRequest("remove", 103)]
        await asyncio.sleep(0.02)
        assert rig.mine() is None
        rig.store.listed.append(listed(3, id_=200, name="", learner=True))
        rig.tell(wanted(200))
        await until(lambda: rig.mine() is not None)
        assert (found := rig.mine()) is not None and found.member == 200
        await asyncio.gather(*rig.tasks)

    done(work, monkeypatch)


def test_one_that_was_added_again_is_another_and_begins_with_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(tmp_path, listed(1), listed(3))
        rig.write(MemberFile("n3", PEER, CLIENT, {}, member=103))
        copy = rig.data()
        rig.tell(wanted(200))  # before what is listed has it
        await asyncio.sleep(0.02)
        assert copy.exists(), "the others may need it still"
        rig.store.listed[1] = listed(3, id_=200, name="", learner=True)
        await until(lambda: (found := rig.mine()) is not None and found.member == 200)
        assert not copy.exists()
        await asyncio.gather(*rig.tasks)

    done(work, monkeypatch)


def test_what_is_not_wanted_stays_until_the_others_have_let_it_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(tmp_path, listed(1), listed(2), listed(3))
        rig.write(MemberFile("n3", PEER, CLIENT, {}, member=103))
        copy = rig.data()
        rig.tell(QuorumRecord("n3", "", wanted=False))
        await until(lambda: (found := rig.mine()) is not None and found.leaving)
        await asyncio.sleep(0.02)
        assert copy.exists()
        rig.tell(wanted(103))  # etcd has refused to take it out
        await asyncio.gather(*rig.tasks)
        assert (found := rig.mine()) is not None and not found.leaving and copy.exists()
        rig.tell(QuorumRecord("n3", "", wanted=False))
        rig.store.listed.pop()
        await until(lambda: bool(rig.store.deleted))
        assert rig.mine() is None and not copy.exists()
        rig.tell(None)
        await asyncio.gather(*rig.tasks)

    done(work, monkeypatch)


def test_the_first_learns_its_number_and_an_older_record_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(tmp_path, listed(3))
        rig.write(MemberFile("n3", PEER, CLIENT, {}))
        copy = rig.data()
        for number in (103, 0):
            rig.tell(wanted(number))
            await asyncio.gather(*rig.tasks)
            assert (found := rig.mine()) is not None and found.member == 103 and copy.exists()

    done(work, monkeypatch)


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(tmp_path, listed(3, name="", learner=True))
        full, write = [True], system.write

        def refuse(path: Path, value: object) -> None:
            if full[0]:
                raise OSError(28, "No space left on device")
            write(path, value)

        monkeypatch.setattr(system, "write", refuse)
        rig.tell(wanted(103))
        await asyncio.sleep(0.02)
        assert rig.mine() is None and not rig.tasks[0].done()
        full[0] = False
        await asyncio.gather(*rig.tasks)
        assert rig.mine() is not None

    done(work, monkeypatch)


@pytest.mark.parametrize(
    ("voters", "lost", "together", "said"),
    [
        ((1, 2, 3), (), (), ""),
        ((1, 2), (), (), ""),
        ((1, 2, 3), ("n2",), (), "n2, which has another"),
        ((1, 2, 3), (), ("n1", "n3"), "n1, which has another"),
        ((1, 3), (), (), "one of only 2 copies"),
        ((3,), (), (), "the only copy"),
    ],
)
def test_who_may_leave(tmp_path: Path, voters: tuple[int, ...], lost: tuple[str, ...], together: tuple[str, ...], said: str) -> None:
    rig = Rig(tmp_path, *(listed(number) for number in voters))
    rig.write(MemberFile("n3", PEER, CLIENT, {}))
    rig.store.tell(*(Delete(alive_key(name)) for name in lost))
    if not said:
        asyncio.run(rig.quorum.check_leave(together))
        return
    with pytest.raises(CallerError, match=said):
        asyncio.run(rig.quorum.check_leave(together))


def test_a_node_that_leaves_waits_until_its_member_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(tmp_path, listed(1), listed(2), listed(3))
        rig.write(MemberFile("n3", PEER, CLIENT, {}, member=103))
        going = asyncio.create_task(rig.quorum.let_go())
        await asyncio.sleep(0.02)
        assert not going.done() and rig.mine() is not None
        rig.store.listed.pop()
        await going
        assert rig.mine() is None

    done(work, monkeypatch)


def managed(rig: Rig, *members: str) -> None:
    cluster.write(rig.home, Cluster(members, "s", ca="a", ca_key="k"))


def test_the_only_member_is_found_at_its_new_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    managed(rig, "10.0.0.9:1002", "10.0.0.1:1002")
    rig.write(MemberFile("n3", "https://10.0.0.9:1001", "https://10.0.0.9:1002", {}, listen="10.0.0.3", member=103))
    system.write(rig.etcd / "offer.json", quorum.Offer(1001, 1002))
    monkeypatch.setattr(quorum_member, "binary", lambda: "")
    rig.quorum.offer = None
    asyncio.run(rig.quorum.prepare())
    assert (found := rig.mine()) is not None and (found.peer, found.client, found.member) == (PEER, CLIENT, 103)
    assert (kept := cluster.read(rig.home)) is not None and kept.members == ("10.0.0.3:1002", "10.0.0.1:1002")
    assert rig.quorum.offer == Etcd("", PEER, CLIENT), "an etcd that is away for an upgrade makes no node one without a member"


def test_a_full_disk_takes_no_kernel_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path, _value: object) -> None:
        raise OSError(28, "No space left on device")

    rig = Rig(tmp_path)
    managed(rig)
    said: list[str] = []
    rig.node.file.listen = "127.0.0.1"
    monkeypatch.setattr(system, "write", refuse)
    monkeypatch.setattr(quorum_member, "binary", lambda: "/bin/true")
    monkeypatch.setattr(runfiles, "complain", said.append)
    rig.quorum.offer = None
    asyncio.run(rig.quorum.prepare())
    assert rig.quorum.offer is None and "No space left" in said[0]


def test_a_member_does_not_begin_again_without_its_data(tmp_path: Path) -> None:
    quorum_member.check_data(tmp_path, "n1")
    (tmp_path / "begun").touch()
    with pytest.raises(DataLost, match="does not begin without it"):
        quorum_member.check_data(tmp_path, "n1")
    (tmp_path / "data" / "member" / "wal").mkdir(parents=True)
    (tmp_path / "data" / "member" / "wal" / "0-0.wal").touch()
    quorum_member.check_data(tmp_path, "n1")


def test_the_part_says_that_it_has_begun_and_refuses_to_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    managed(rig)
    etcd = tmp_path / "etcd.sh"
    etcd.write_text(
        f"#!/bin/sh\nmkdir -p {rig.etcd}/data/member/wal && touch {rig.etcd}/data/member/wal/0-0.wal\nwhile [ ! -e {rig.etcd}/begun ]; do sleep 0.01; done\nexit 3\n"
    )
    etcd.chmod(0o755)
    rig.write(MemberFile("n3", PEER, CLIENT, {}))
    monkeypatch.setattr(quorum_member, "binary", lambda: str(etcd))
    monkeypatch.setattr(cluster, "issue", lambda *_: None)
    monkeypatch.setattr(quorum_member.signal, "signal", lambda *_: None)
    assert quorum_member.main(rig.folder, lambda: None) == 3
    (rig.etcd / "data" / "member" / "wal" / "0-0.wal").unlink()
    with pytest.raises(DataLost):
        quorum_member.main(rig.folder, lambda: None)


def test_it_listens_at_addresses_of_ipv6_too() -> None:
    made = quorum_member.command("etcd", MemberFile("n1", "https://[fd00::1]:1001", "https://[fd00::1]:1002", {}, listen="::"), Path("/x"))
    assert "--listen-peer-urls=https://[::]:1001" in made and "--listen-client-urls=https://[::]:1002" in made


def test_certificates_of_an_earlier_system_are_not_shown_in_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issued: list[str] = []
    monkeypatch.setattr(cluster, "issue", lambda found, *_: issued.append(found.ca))
    home = Home(tmp_path)
    home.store.mkdir()
    for part, text in (("cert", "c"), ("ca", "old")):
        (home.store / f"etcd-{part}.pem").write_text(text)
    cluster.address_of(home, Cluster(("10.0.0.1:1",), "s", ca="old", ca_key="k"))
    assert issued == []
    cluster.address_of(home, Cluster(("10.0.0.1:1",), "s", ca="new", ca_key="k"))
    assert issued == ["new"]


def test_a_kernel_beats_while_etcd_is_slow_to_say_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, turned = Rig(tmp_path), threading.Event()
    managed(rig)
    rig.node.file.listen = "127.0.0.1"
    monkeypatch.setattr(quorum_member, "binary", lambda: "etcd")
    monkeypatch.setattr(quorum_member, "version", lambda _path: "3.4" if turned.wait(2) else "the loop stood still")

    async def work() -> None:
        asyncio.get_running_loop().call_later(0.01, turned.set)
        await rig.quorum.prepare()

    asyncio.run(work())
    assert rig.quorum.offer is not None and rig.quorum.offer.version == "3.4"


def test_of_two_that_ask_to_leave_at_once_one_is_told_to_wait(tmp_path: Path) -> None:
    async def work() -> None:
        rig = Rig(tmp_path, *(listed(number) for number in (1, 2, 3)))
        rig.write(MemberFile("n3", PEER, CLIENT, {}))
        rig.store.tell(Put(LEAVING + "n2", b""))  # who was told so a moment ago, and is there still
        with pytest.raises(CallerError, match="n2, which has another, is away or leaves too"):
            await rig.quorum.check_leave(())
        rig.store.tell(Delete(LEAVING + "n2"))
        await rig.quorum.check_leave(())
        assert rig.store.engine.run([Transaction(then=(Delete(LEAVING + "n3"),))])[0].events, "the next one is told"
        await rig.quorum.check_leave(())
        await rig.quorum.stay()
        assert not rig.store.engine.run([Transaction(then=(Delete(LEAVING + "n3"),))])[0].events

    asyncio.run(work())


def test_that_a_node_stays_is_written_when_the_store_is_back_unless_it_has_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        rig = Rig(tmp_path, *(listed(number) for number in (1, 2, 3)))
        rig.write(MemberFile("n3", PEER, CLIENT, {}))
        plain, refused = rig.store.delete, [3]

        async def delete(key: str) -> None:
            if refused[0]:
                refused[0] -= 1
                raise Unavailable("away")
            await plain(key)

        rig.store.delete = delete  # type: ignore[method-assign]
        await rig.quorum.check_leave(())
        await rig.quorum.stay()
        assert refused == [0] and rig.store.deleted == [LEAVING + "n3"]
        refused[0] = 1
        await rig.quorum.check_leave(())
        staying = asyncio.create_task(rig.quorum.stay())
        await until(lambda: refused == [0])
        await rig.quorum.check_leave(())
        await staying
        assert rig.store.deleted == [LEAVING + "n3"], "what it was told last holds"

    done(work, monkeypatch)


def test_a_decision_that_another_one_overtakes_is_made_again(tmp_path: Path) -> None:
    async def work() -> None:
        rig = Rig(tmp_path, *(listed(number) for number in (1, 2, 3)))
        rig.write(MemberFile("n3", PEER, CLIENT, {}))
        plain = rig.store.members

        async def meanwhile() -> tuple[MemberView, ...]:
            rig.store.tell(Put(CHANGES, b""), Put(LEAVING + "n1", b""))
            return await plain()

        rig.store.members = meanwhile  # type: ignore[method-assign]
        with pytest.raises(CallerError, match="n1, which has another"):
            await rig.quorum.check_leave(())
        rig.store.tell(Delete(LEAVING + "n1"))

        async def always() -> tuple[MemberView, ...]:
            rig.store.tell(Put(CHANGES, b""))
            return await plain()

        rig.store.members = always  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="try again"):
            await rig.quorum.check_leave(())

    asyncio.run(work())


def test_a_node_that_comes_to_another_address_has_its_member_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path, listed(1), listed(2), listed(3))
    managed(rig, "10.0.0.1:1002", "10.0.0.3:1002")
    rig.write(MemberFile("n3", PEER, CLIENT, {}, listen="10.0.0.3", member=103))
    system.write(rig.etcd / "offer.json", quorum.Offer(1001, 1002))
    monkeypatch.setattr(quorum_member, "binary", lambda: "")
    with subprocess.Popen(["sleep", "1000"]) as child:
        runfiles.write(rig.folder.run / "member.json", child.pid)
        rig.quorum.offer = Etcd("", PEER, CLIENT)
        asyncio.run(rig.quorum.readdress())
        assert child.poll() is None, "nothing has changed"
        rig.node.addresses.best = "10.0.0.33:1000"
        asyncio.run(rig.quorum.readdress())
        assert child.wait(10) == -signal.SIGHUP, "etcd is started anew, and the part that has it goes on"
    assert rig.quorum.offer == Etcd("", "https://10.0.0.33:1001", "https://10.0.0.33:1002")
    assert (found := rig.mine()) is not None and (found.peer, found.member) == ("https://10.0.0.33:1001", 103)


def test_a_member_that_is_leaving_is_started_again_as_one_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 0 the supervisor takes it for one that need not run, finds that it shall, and starts it at once, over and over."""
    rig = Rig(tmp_path)
    managed(rig)
    rig.write(MemberFile("n3", PEER, CLIENT, {}, leaving=True))
    monkeypatch.setattr(quorum_member, "binary", lambda: "/bin/true")
    monkeypatch.setattr(cluster, "issue", lambda *_: None)
    monkeypatch.setattr(quorum_member.signal, "signal", lambda *_: None)
    assert quorum_member.main(rig.folder, lambda: None) == 1


def test_the_log_of_a_member_that_runs_on_is_turned_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    managed(rig)
    rig.folder.log.mkdir()
    (rig.folder.log / "member.log").write_bytes(b"x" * (parts.LOG_BYTES_MAX + 1))
    rig.write(MemberFile("n3", PEER, CLIENT, {}))
    etcd = tmp_path / "etcd.sh"
    etcd.write_text(f"#!/bin/sh\nwhile [ -s {rig.folder.log}/member.log ]; do sleep 0.01; done\n")
    etcd.chmod(0o755)
    monkeypatch.setattr(quorum_member, "binary", lambda: str(etcd))
    monkeypatch.setattr(cluster, "issue", lambda *_: None)
    monkeypatch.setattr(quorum_member.signal, "signal", lambda *_: None)
    assert quorum_member.main(rig.folder, lambda: None) == 1
    assert (rig.folder.log / "member.old.log").stat().st_size == parts.LOG_BYTES_MAX + 1
