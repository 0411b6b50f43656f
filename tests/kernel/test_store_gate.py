"""The gate over a real engine: what is denied is done in no part, what was judged is what is changed, and leases stay with whom they were granted to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from tests.core.test_gate import process, spec
from unios.core.gate import Member
from unios.core.nodes import Alive
from unios.core.processes import process_key, spec_key
from unios.errors import Denied, NotFound, Unavailable, UniosError
from unios.ids import Generation, LeaseId
from unios.kernel.callers import Caller
from unios.kernel.store_gate import GateSession, StoreGate, _Granted
from unios.limits import GATE_CLOCK_MS_MAX, GATE_CONNECTIONS_MAX, GATE_LEASES_MAX
from unios.store.client import StoreClient
from unios.store.model import Batch, Compare, Delete, Put, Range, RangeResult, Revision, Transaction, TransactionResult
from unios.store.requests import WatchRequest
from unios.store.sqlite import End, Grant, Job, Look, SqliteEngine

BOB = Member("n2", "m2", ("bob",))
packed = msgspec.msgpack.encode
Meddle = Callable[[], None]


class Direct:
    """What the gate uses of a StoreClient, on an engine in memory. `meddle` is called once before each transaction that writes."""

    def __init__(self) -> None:
        self.engine = SqliteEngine(":memory:", Generation("g"))
        self.meddle: list[Meddle] = []

    def do(self, job: Job) -> Any:
        result = self.engine.run([job])[0].result
        if isinstance(result, UniosError):
            raise result
        return result

    def put(self, key: str, value: bytes, lease: int = 0) -> None:
        self.do(Transaction(then=(Put(key, value, lease),)))

    def get(self, key: str) -> bytes | None:
        found = self.do(Transaction(then=(Range(key),))).results[0].records
        return found[0].value if found else None

    async def transact(self, transaction: Transaction) -> TransactionResult:
        if self.meddle and any(not isinstance(operation, Range) for operation in transaction.then):
            self.meddle.pop(0)()
        return cast(TransactionResult, self.do(transaction))

    async def range(self, key: str, *, prefix: bool = False, after: str = "", limit: int = 0) -> tuple[RangeResult, Revision]:
        result = self.do(Transaction(then=(Range(key, prefix, after, limit),)))
        return result.results[0], result.revision

    async def watch(self, prefix: str, *, after: Revision | None = None, calm_ms: int = 0) -> AsyncIterator[Batch]:
        yield self.do(Look(prefix, after))

    async def lease_grant(self, ttl_ms: int) -> LeaseId:
        return LeaseId(self.do(Grant(ttl_ms)))

    async def lease_renew(self, lease: LeaseId) -> int:
        if lease not in self.engine.leases():
            raise NotFound("it has ended")
        return self.engine.leases()[lease]

    async def lease_revoke(self, lease: LeaseId) -> None:
        self.do(End((lease,)))


class Asked:
    """A request as the session sees it."""

    def __init__(self, op: str, body: object) -> None:
        self.op, self._body, self.sent = op, body, list[Any]()

    def decode(self, type_: type) -> Any:
        return msgspec.msgpack.decode(packed(self._body), type=type_)

    async def send(self, item: object) -> None:
        self.sent.append(item)


def session(store: Direct, leases: dict[int, None] | None = None, member: Member = BOB) -> GateSession:
    return GateSession(member, cast(StoreClient, store), {} if leases is None else leases, lambda: 0)


def run(work: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await work

    return asyncio.run(main())


def ask(one: GateSession, op: str, body: object = None) -> Any:
    return run(one.handle(cast(Any, Asked(op, body))))


def begun(user: str, pid: int = 400, request: str = "ab") -> tuple[Put, ...]:
    return (Put(process_key(pid), process(user, pid)), Put(spec_key(pid), spec(user)), Put(f"/requests/{request}", b"%d" % pid))


def test_a_submission_passes_and_is_seen() -> None:
    store = Direct()
    done = run(session(store).transact(Transaction((Compare(process_key(400), "version", "==", 0),), begun("bob"), (Range("/requests/ab"),))))
    assert done.succeeded and done.results == (0, 0, 0)
    again = run(
        session(store).transact(Transaction((Compare("/requests/ab", "version", "==", 0),), begun("bob", 401, "cd"), (Range("/requests/ab"),)))
    )
    assert not again.succeeded and len(again.results) == 1 and again.results[0].records[0].value == b"400"


def test_a_submission_that_says_it_came_long_ago_is_denied_by_the_gates_own_clock() -> None:
    store = Direct()
    one = GateSession(BOB, cast(StoreClient, store), {}, lambda: GATE_CLOCK_MS_MAX + 1)
    with pytest.raises(Denied, match="clock"):
        run(one.transact(Transaction(then=begun("bob"))))
    assert store.get(process_key(400)) is None


def test_what_is_denied_is_done_in_no_part() -> None:
    store = Direct()
    with pytest.raises(Denied):
        run(session(store).transact(Transaction(then=(Put("/next/pid", b"316"), Put("/nodes/n1", b"")))))
    assert store.get("/next/pid") is None


@pytest.mark.parametrize(
    "transaction",
    [
        Transaction(then=(Delete("/alive/n1"),)),
        Transaction(then=(Delete(process_key(400)),)),
        Transaction(then=(Delete("/alive/n2", prefix=True),)),
        Transaction((Compare("/tokens/a", "version", "==", 0),)),
        Transaction((Compare(spec_key(400), "value", "<", b"z"),), (), (Range("/nodes/n2"),)),
    ],
)
def test_every_part_is_judged(transaction: Transaction) -> None:
    with pytest.raises(Denied):
        run(session(Direct()).transact(transaction))


@pytest.mark.parametrize("write", [Put("/next/pid", b"316"), Delete("/alive/n2")])
def test_nothing_is_written_otherwise(write: Put | Delete) -> None:
    with pytest.raises(Denied):
        run(session(Direct()).transact(Transaction((), (), (write,))))


def test_what_was_judged_is_what_is_changed() -> None:
    """Between the gate's look and the transaction the pid becomes root's: the second look denies it."""
    store = Direct()
    store.meddle.append(lambda: store.put(process_key(400), process("root")))
    with pytest.raises(Denied):
        run(session(store).transact(Transaction(then=begun("bob"))))
    assert store.get(process_key(400)) == process("root")
    assert store.get(spec_key(400)) is None


def test_a_record_that_changes_meanwhile_is_judged_again_and_not_taken_for_a_lost_race() -> None:
    store = Direct()
    store.put(process_key(400), process("bob"))
    store.meddle.append(lambda: store.put(process_key(400), process("bob")))
    done = run(session(store).transact(Transaction(then=(Put(process_key(400), process("bob")),), otherwise=(Range("/nodes/n1"),))))
    assert done.succeeded and store.meddle == []


def test_a_record_that_never_rests_is_given_up() -> None:
    store = Direct()
    store.put(process_key(400), process("bob"))
    store.meddle += [lambda: store.put(process_key(400), process("bob"))] * 20
    with pytest.raises(Unavailable):
        run(session(store).transact(Transaction(then=(Put(process_key(400), process("bob")),))))


def test_others_secrets_are_left_out() -> None:
    store = Direct()
    store.put("/tokens/a", b"secret")
    store.do(Transaction(then=begun("root")))
    store.do(Transaction(then=begun("bob", 401, "cd")))
    looks = tuple(Range(key, prefix=True) for key in ("/tokens/", "/specs/", "/requests/", "/processes/", "/"))
    for result in (
        run(session(store).transact(Transaction(then=looks))),
        run(session(store).transact(Transaction((Compare("/x", "version", ">", 0),), (), looks))),
    ):
        keys = [[record.key for record in found.records] for found in result.results]
        assert keys[:3] == [[], [spec_key(401)], ["/requests/cd"]]
        assert keys[3] == [process_key(400), process_key(401)]
        assert keys[4] == [process_key(400), process_key(401), "/requests/cd", spec_key(401)]


def test_a_page_of_others_secrets_is_passed_over() -> None:
    store = Direct()
    for pid in range(400, 405):
        store.do(Transaction(then=begun("root" if pid < 404 else "bob", pid, f"r{pid}")))
    found = run(session(store).transact(Transaction(then=(Range("/specs/", prefix=True, limit=2),)))).results[0]
    assert [record.key for record in found.records] == [spec_key(404)] and not found.more
    found = run(session(store).transact(Transaction(then=(Range("/processes/", prefix=True, limit=2),)))).results[0]
    assert [record.key for record in found.records] == [process_key(400), process_key(401)] and found.more


def test_watching_leaves_them_out_too() -> None:
    store = Direct()
    start = store.engine.revision
    store.put("/tokens/a", b"secret")
    store.do(Transaction(then=begun("root")))
    store.do(Transaction(then=begun("bob", 401, "cd")))
    store.do(Transaction(then=(Delete("/tokens/a"), Delete(spec_key(400)), Delete(spec_key(401)))))
    asked = Asked("store.watch", WatchRequest("/", start))
    run(session(store).handle(cast(Any, asked)))
    (batch,) = asked.sent
    assert batch.revision == store.engine.revision
    assert {event.record.key for event in batch.events} == {process_key(400), process_key(401), spec_key(401), "/requests/cd"}


def test_leases_are_its_own_over_all_of_its_connections() -> None:
    store, leases = Direct(), dict[int, None]()
    foreign = store.do(Grant(1_000))
    own = ask(session(store, leases), "store.grant", {"lease": 0, "ttl_ms": 1_000})
    other = session(store, leases)
    assert ask(other, "store.renew", {"lease": own, "ttl_ms": 0}) == 1_000
    run(other.transact(Transaction(then=(Put("/alive/n2", packed(Alive(1)), own),))))
    with pytest.raises(Denied):
        run(other.transact(Transaction(then=(Put("/alive/n2", packed(Alive(1)), foreign),))))
    with pytest.raises(Denied):
        ask(other, "store.end", {"lease": foreign, "ttl_ms": 0})
    with pytest.raises(NotFound):
        ask(other, "store.renew", {"lease": foreign, "ttl_ms": 0})
    assert foreign in store.engine.leases()
    assert ask(other, "store.end", {"lease": own, "ttl_ms": 0}) == 1
    assert own not in store.engine.leases() and own not in leases


def test_a_gate_that_knows_nothing_takes_up_the_lease_of_the_nodes_own_record() -> None:
    store = Direct()
    own, foreign = store.do(Grant(1_000)), store.do(Grant(1_000))
    store.put("/alive/n2", packed(Alive(1)), own)
    store.put("/alive/n1", packed(Alive(1)), foreign)
    assert ask(session(store), "store.renew", {"lease": own, "ttl_ms": 0}) == 1_000
    run(session(store).transact(Transaction(then=(Put("/alive/n2", packed(Alive(2)), own),))))
    with pytest.raises(NotFound):
        ask(session(store), "store.renew", {"lease": foreign, "ttl_ms": 0})


def test_a_lease_that_has_ended_is_said_to_have_ended() -> None:
    store, leases = Direct(), {77: None}
    with pytest.raises(NotFound):
        ask(session(store, leases), "store.renew", {"lease": 77, "ttl_ms": 0})
    assert leases == {}


def test_leases_are_bounded_and_the_newest_stay() -> None:
    store = Direct()
    one = session(store)
    granted = [ask(one, "store.grant", {"lease": 0, "ttl_ms": 1_000}) for _ in range(GATE_LEASES_MAX + 3)]
    assert sorted(store.engine.leases()) == granted[3:]


def test_an_unknown_lease_of_its_own_is_taken_up_before_it_is_judged() -> None:
    store = Direct()
    own = store.do(Grant(1_000))
    store.put("/alive/n2", packed(Alive(1)), own)
    assert ask(session(store), "store.end", {"lease": own, "ttl_ms": 0}) == 1
    assert own not in store.engine.leases()


def test_connections_are_bounded() -> None:
    gate = StoreGate(lambda: cast(StoreClient, None))
    gate._granted["n2", "m2"] = granted = _Granted()
    granted.connections = GATE_CONNECTIONS_MAX
    with pytest.raises(Unavailable):
        run(gate.serve(Caller("bob", -1, False, "n2", users=("bob",), machine="m2"), cast(Any, Asked("ports.relay", None))))


def test_history_is_not_its_to_forget() -> None:
    with pytest.raises(Denied):
        ask(session(Direct()), "store.compact", None)
