"""A client that floods the store delays itself: another's requests and everybody's renewals pass."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unios.errors import NotFound, Unavailable
from unios.ids import Generation
from unios.store import client, rated
from unios.store.host import StoreHost
from unios.store.rated import Rated, Rates
from unios.store.server import Requests as StoreRequests
from unios.store.server import Server
from unios.store.sqlite import SqliteEngine
from unios.store.tally import Tally
from unios.store_limits import ASKED_BURST_MAX, ASKED_RATE_MAX, RENEWED_BURST_MAX


class Requests:
    """Answers at once, or leaves it, or fails, by the operation."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.tally = Tally()

    async def handle(self, call: Any) -> object:
        self.served.append(f"{call.op} later")
        return None

    def at_once(self, call: Any) -> bool:
        if call.op == "store.bad":
            raise NotFound("no")
        if call.op == "store.slow":
            return False
        self.served.append(call.op)
        return True


class Peer:
    pass


def test_each_request_is_counted_once_whoever_answers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rated, "_now_us", lambda: 0)

    async def main() -> None:
        answers, peer = Rated(Requests()), Peer()
        rates = answers._of(peer)  # type: ignore[arg-type]
        for op in ("store.transact", "store.slow", "store.bad"):
            call: Any = SimpleNamespace(op=op, peer=peer, body=b"")
            before = rates._asked._full_us
            try:
                if not answers.at_once(call):
                    await answers.handle(call)
            except NotFound:
                pass
            assert rates._asked._full_us - before == 1_000_000 // ASKED_RATE_MAX

    asyncio.run(main())


def test_a_flood_is_left_to_wait_while_others_and_renewals_are_served_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rated, "_now_us", lambda: 0)
    requests = Requests()
    answers, flooding, other = Rated(requests), Peer(), Peer()

    def at_once(peer: Peer, op: str) -> bool:
        call: Any = SimpleNamespace(op=op, peer=peer, body=b"")
        return answers.at_once(call)

    assert sum(at_once(flooding, "store.transact") for _ in range(ASKED_BURST_MAX + 500)) == ASKED_BURST_MAX
    assert at_once(other, "store.transact") and at_once(flooding, "store.renew")
    assert sum(at_once(flooding, "store.renew") for _ in range(1_000)) == RENEWED_BURST_MAX - 1, "renewals have a bound of their own"


def test_who_is_refused_is_told_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rated, "_now_us", lambda: 0)

    async def main() -> None:
        rates = Rates(rate=1, burst=1)
        await rates.wait("store.transact", "n7")
        assert rates._asked.ask(0) == 1_000_000
        with pytest.raises(Unavailable, match="n7 asks the store for more than 1 things a second"):
            await rates.wait("store.transact", "n7")

    asyncio.run(main())


def test_a_store_has_who_asks_too_much_wait_and_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rated, "_now_us", lambda: 0)
    monkeypatch.setattr(rated, "Rates", lambda: Rates(rate=1_000, burst=10))

    async def main() -> None:
        (tmp_path / "store").mkdir()
        host = StoreHost(SqliteEngine(tmp_path / "store" / "store.db", Generation("g")), lambda: 0)
        running = asyncio.create_task(host.run())
        server = Server(tmp_path / "store", StoreRequests(host))
        flooding, other = (client.StoreClient(client.at(tmp_path / "store")) for _ in range(2))
        await asyncio.gather(*(flooding.range("/x") for _ in range(15)))
        lease = await other.lease_grant(5_000)
        for _renewal in range(20):
            await other.lease_renew(lease)
        assert host.tally.shown()[0]["delayed"].messages == 5
        for one in (flooding, other):
            await one.close()
        server.close()
        running.cancel()
        host.close()

    asyncio.run(main())
