"""What a gateway makes of an etcd that is not what it was: another state, other members, at other addresses. Without an etcd."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from unios.errors import OutcomeUnknown, Unavailable
from unios.ids import Generation
from unios.store.etcd import members
from unios.store.etcd.address import Address
from unios.store.etcd.channel import CALL_TIMEOUT_S, Channel
from unios.store.etcd.feed import Beginning, Feed
from unios.store.etcd.keys import Keys
from unios.store.etcd.leases import EtcdLeases
from unios.store.etcd.messages import KeyValue, Watched
from unios.store.etcd.protobuf import blob, integer

KEYS = Keys(b"/unios/s/")


class OtherEtcd:
    """Answers with a generation and a revision that a test sets; its watches break when told."""

    def __init__(self) -> None:
        self.generation, self.revision = "one", 10
        self.cut = asyncio.Event()
        self.watched: list[int] = []

    async def call(self, name: str, _request: bytes, *, writes: bool | None = None) -> bytes:
        header = blob(1, integer(3, self.revision))
        found = header + blob(2, blob(1, KEYS.generation) + blob(5, self.generation.encode()))
        return found if name == "KV/Range" else header + blob(3, blob(1, found)) + 4 * blob(3, blob(1, header))

    async def watch(self, _prefix: bytes, start: int, _end: bytes = b"") -> AsyncIterator[Watched]:
        self.watched.append(start)
        yield Watched(self.revision, True, False, 0, "", False, ())
        await self.cut.wait()
        self.cut.clear()
        raise Unavailable("cut")


@pytest.mark.parametrize(("generation", "anew"), [("one", False), ("two", True)])
def test_a_feed_does_not_go_on_in_an_older_state_that_another_gateway_has_found_first(generation: str, anew: bool) -> None:
    async def main() -> None:
        etcd, begun, broken = OtherEtcd(), list[Beginning](), list[int]()
        feed = Feed(etcd, KEYS, begun.append, lambda *_: None, lambda: broken.append(1))  # type: ignore[arg-type]
        running = asyncio.create_task(feed.run())
        async with asyncio.timeout(10):
            while not begun:
                await asyncio.sleep(0.001)
            etcd.generation, etcd.revision = generation, 20  # restored at 5, and written to since
            etcd.cut.set()
            while len(etcd.watched) < 2:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
        running.cancel()
        assert etcd.watched == [0, 0 if anew else 10] and bool(broken) == anew
        assert [one.generation for one in begun] == (["one", "two"] if anew else ["one"])

    asyncio.run(main())


def test_of_members_with_names_the_next_is_asked_when_one_is_away() -> None:
    pytest.importorskip("grpc")

    async def main() -> None:
        channel = Channel(Address(("a.example:1", "b.example:1"), "s"))
        away: Any = SimpleNamespace(code=lambda: SimpleNamespace(name="UNAVAILABLE"), details=lambda: "failed to connect to all addresses")
        channel._told(away, writes=False)
        assert channel.members == ("b.example:1", "a.example:1")
        channel._told(away, writes=False)
        assert channel.members == ("b.example:1", "a.example:1"), "each is given its time"
        await channel.close()
        numeric = Channel(Address(("10.0.0.1:1", "10.0.0.2:1"), "s"))
        numeric._told(away, writes=False)
        assert numeric.members == ("10.0.0.1:1", "10.0.0.2:1"), "the library asks all of them"
        await numeric.close()

    asyncio.run(main())


def test_a_member_that_came_back_elsewhere_is_found_though_nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "LOOK_S", 0.01)

    async def main() -> None:
        there = blob(2, integer(1, 7) + blob(2, b"n1") + blob(3, b"https://10.0.0.9:1") + blob(4, b"https://10.0.0.9:2"))
        told: list[tuple[str, ...]] = []

        async def call(_name: str, _request: bytes) -> bytes:
            return there

        channel: Any = SimpleNamespace(members=("10.0.0.1:2",), call=call, turn_to=told.append)
        following = asyncio.create_task(members.Following(channel, lambda found: found).run())
        async with asyncio.timeout(10):
            while not told:
                await asyncio.sleep(0.001)
        following.cancel()
        assert told[0] == ("10.0.0.9:2",)

    asyncio.run(main())


def test_a_member_that_was_not_waited_for_long_is_not_left() -> None:
    pytest.importorskip("grpc")

    async def main() -> None:
        channel = Channel(Address(("10.0.0.1:1", "10.0.0.2:1"), "s"))
        silent: Any = SimpleNamespace(code=lambda: SimpleNamespace(name="DEADLINE_EXCEEDED"), details=lambda: "Deadline Exceeded")
        channel._told(silent, writes=True, patient=False)
        assert channel.members == ("10.0.0.1:1", "10.0.0.2:1"), "its disk is slow, or its leader has just died"
        channel._told(silent, writes=True)
        assert channel.members == ("10.0.0.2:1", "10.0.0.1:1")
        await channel.close()

    asyncio.run(main())


class DroppingEtcd:
    """A follower whose leader has died: it drops what it passes on. `asked`: for how long each request would have been waited for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []

    def beside(self, _number: int) -> "DroppingEtcd":
        return self

    async def call(self, name: str, _request: bytes, *, writes: bool | None = None, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
        self.asked.append((name, timeout_s))
        raise OutcomeUnknown("dropped")


def test_neither_a_sign_of_life_nor_a_renewal_waits_for_what_a_dead_leader_took_along() -> None:
    async def main() -> None:
        etcd = DroppingEtcd()
        leases = EtcdLeases(etcd, KEYS, "g", lambda: time.monotonic_ns() // 1_000_000)  # type: ignore[arg-type]
        leases.begin(Beginning(Generation("one"), 1, (KeyValue(KEYS.lease(5), b"1200", 1, 1, 1, 0),), ()))
        running = asyncio.create_task(leases.run())
        with pytest.raises(OutcomeUnknown):
            await leases.renew(5)
        async with asyncio.timeout(10):
            while [name for name, _timeout_s in etcd.asked].count("KV/Put") < 2:
                await asyncio.sleep(0.001)
        running.cancel()
        assert {name for name, _timeout_s in etcd.asked} == {"KV/Put", "KV/Txn"}
        assert all(timeout_s < CALL_TIMEOUT_S for _name, timeout_s in etcd.asked)

    asyncio.run(main())
