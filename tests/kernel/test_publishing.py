"""Which ports are open is told the store, whatever comes between: the store away, a lease that ends, thousands of ports, one that is refused."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from tests.wire.pairs import bounded, settled, until
from unios.errors import Denied, NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.ids import LeaseId
from unios.kernel import publishing
from unios.kernel.ports import PortRecord
from unios.kernel.publishing import Publishing
from unios.limits import PORTS_PUBLISHED_AT_ONCE
from unios.store.model import Delete, Generation, Put, Revision, Transaction, TransactionResult

LEASE = LeaseId(7)


class Open:
    """The ports that are open here."""

    def __init__(self, *names: str) -> None:
        self.open = dict.fromkeys(names)

    def names(self) -> list[str]:
        return list(self.open)

    def has(self, name: str) -> bool:
        return name in self.open

    def record(self, name: str) -> PortRecord | None:
        return PortRecord(name, "n1", "ann", 0o600) if name in self.open else None


class Store:
    """What has been told. Refuses with `why` those that are asked of it, and does what `between` says before it does a transaction."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.transactions = 0
        self.why: dict[str, UniosError] = {}
        self.away: list[UniosError] = []
        self.between: Callable[[], None] = lambda: None

    async def transact(self, transaction: Transaction) -> TransactionResult:
        self.transactions += 1
        between, self.between = self.between, lambda: None
        between()
        await asyncio.sleep(0)
        if self.away:
            raise self.away.pop()
        assert len(transaction.then) <= PORTS_PUBLISHED_AT_ONCE and not transaction.compares
        for write in transaction.then:
            assert isinstance(write, Put | Delete)
            if write.key in self.why:
                raise self.why[write.key]
        for write in transaction.then:
            if isinstance(write, Put):
                assert msgspec.msgpack.decode(write.value, type=PortRecord).name == write.key[len("/ports/") : -len("/n1")]
                self.keys[write.key] = write.lease
            elif isinstance(write, Delete):
                assert not write.prefix
                self.keys.pop(write.key, None)
        return TransactionResult(True, Revision(Generation("g"), 1))

    def names(self) -> list[str]:
        return sorted(key[len("/ports/") : -len("/n1")] for key in self.keys)


def published(work: Callable[[Publishing, Open, Store], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "AGAIN_S", 0)

    async def main() -> None:
        ports, store = Open(), Store()
        one = Publishing("n1", ports, store)
        running = asyncio.create_task(one.run())
        await work(one, ports, store)
        running.cancel()

    bounded(main)


def test_thousands_of_ports_take_few_transactions_and_none_before_there_is_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(one: Publishing, ports: Open, store: Store) -> None:
        for number in range(3 * PORTS_PUBLISHED_AT_ONCE):
            ports.open[f"p/{number}"] = None
            one.changed(f"p/{number}")
        await settled()
        assert not store.transactions
        one.begin(LEASE)
        assert not store.transactions  # whoever registers does not wait for it
        await until(lambda: len(store.keys) == 3 * PORTS_PUBLISHED_AT_ONCE)
        assert store.transactions == 3 and set(store.keys.values()) == {LEASE}

    published(work, monkeypatch)


@pytest.mark.parametrize("why", [Unavailable("the store is being restarted"), OutcomeUnknown("no answer came")])
def test_what_opens_and_closes_while_the_store_is_away_is_told_when_it_is_back(why: UniosError, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(one: Publishing, ports: Open, store: Store) -> None:
        ports.open["goes"] = None
        one.begin(LEASE)
        await until(lambda: store.names() == ["goes"])
        store.away = [why, why, why]
        del ports.open["goes"]
        ports.open["comes"] = None
        one.changed("goes")
        one.changed("comes")
        await until(lambda: store.names() == ["comes"])
        assert not store.away

    published(work, monkeypatch)


def test_what_changes_while_it_is_being_told_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(one: Publishing, ports: Open, store: Store) -> None:
        def closes() -> None:
            del ports.open["p"]
            one.changed("p")

        def opens() -> None:
            ports.open["p"] = None
            one.changed("p")

        store.between = closes
        ports.open["p"] = None
        one.begin(LEASE)
        await until(lambda: store.transactions == 2)
        await settled()
        assert not store.keys
        opens()
        await until(lambda: store.names() == ["p"])
        store.between = opens
        closes()
        await until(lambda: store.transactions == 5)
        await settled()
        assert store.names() == ["p"]
        closes()
        await until(lambda: not store.keys)
        await settled()
        assert not one._told and not one._due

    published(work, monkeypatch)


def test_one_that_the_store_refuses_keeps_no_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(one: Publishing, ports: Open, store: Store) -> None:
        store.why["/ports/root's/n1"] = Denied("n1 does not speak for root")
        ports.open.update(dict.fromkeys(("a", "root's", "z")))
        one.begin(LEASE)
        await until(lambda: store.names() == ["a", "z"])
        await settled()
        told = store.transactions
        await settled()
        assert store.transactions == told  # and is not asked for again and again

    published(work, monkeypatch)


def test_nothing_is_told_under_a_lease_that_has_ended_and_all_of_it_under_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(one: Publishing, ports: Open, store: Store) -> None:
        ports.open["a"] = None
        store.away = [NotFound("lease 7 has ended")]
        one.begin(LEASE)
        await until(lambda: store.transactions == 1)
        ports.open["b"] = None
        one.changed("b")
        await settled()
        assert store.transactions == 1
        one.begin(LeaseId(8))
        await until(lambda: store.names() == ["a", "b"])
        assert set(store.keys.values()) == {8}
        store.between = lambda: one.begin(LeaseId(10))
        store.away = [NotFound("lease 8 has ended")]  # the word of an earlier one is not that of the next
        one.begin(LeaseId(8))
        await until(lambda: set(store.keys.values()) == {10})

    published(work, monkeypatch)


def test_what_a_kernel_before_this_one_had_told_is_taken_back_unless_it_is_open_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(one: Publishing, ports: Open, store: Store) -> None:
        store.keys = {f"/ports/old/{number}/n1": LEASE for number in range(1000)}
        ports.open["old/5"] = None
        one.begin(LEASE, (f"old/{number}" for number in range(1000)))
        await until(lambda: store.names() == ["old/5"])

    published(work, monkeypatch)


def test_ports_that_come_and_go_while_the_store_is_away_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(one: Publishing, ports: Open, store: Store) -> None:
        store.away = [Unavailable("the store is being restarted")] * 10_000
        one.begin(LEASE)
        for number in range(1000):
            ports.open[f"p/{number}"] = None
            one.changed(f"p/{number}")
            del ports.open[f"p/{number}"]
            one.changed(f"p/{number}")
        assert not one._due and not one._told
        store.away.clear()

    published(work, monkeypatch)
