"""A renewal that hangs at one member is asked of another beside it: with members that hang, refuse and answer. Without an etcd."""

import asyncio
import time

import pytest

from unios.core.seats import SEAT_TTL_MS
from unios.errors import CallerError, OutcomeUnknown, Unavailable, UniosError
from unios.ids import Generation
from unios.store.etcd import judging
from unios.store.etcd.address import Address
from unios.store.etcd.beside import AGAIN_S, BESIDE_S, ask
from unios.store.etcd.channel import CALL_TIMEOUT_S, Channel
from unios.store.etcd.feed import Beginning
from unios.store.etcd.keys import Keys
from unios.store.etcd.leases import RENEWAL_S, EtcdLeases
from unios.store.etcd.messages import KeyValue
from unios.store.etcd.protobuf import blob, integer

KEYS = Keys(b"/unios/s/")
DONE = blob(1, integer(3, 12)) + integer(2, 1) + blob(3, blob(2, blob(1, integer(3, 12))))
SLACK_S = 0.2
"""For a machine that does something else as well."""


class Member:
    """Hangs until the time is over, or does what it was given. `ended`: of how many requests it was said how they ended, and not cut off."""

    def __init__(self, does: bytes | UniosError | None = None) -> None:
        self.does = does
        self.asked: list[float] = []
        self.ended = 0

    async def call(self, _name: str, _request: bytes, *, writes: bool | None = None, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
        self.asked.append(timeout_s)
        if self.does is None:
            await asyncio.sleep(timeout_s)
            self.ended += 1
            raise OutcomeUnknown("dropped")
        self.ended += 1
        if isinstance(self.does, UniosError):
            raise self.does
        return self.does


class Members(Member):
    """Is the first, and knows the others."""

    def __init__(self, does: bytes | UniosError | None, *others: Member) -> None:
        super().__init__(does)
        self.all: tuple[Member, ...] = (self, *others)

    def beside(self, number: int) -> Member:
        return self.all[number % len(self.all)]


def leases_at(members: Members, count: int = 1) -> EtcdLeases:
    leases = EtcdLeases(members, KEYS, "g", lambda: time.monotonic_ns() // 1_000_000)  # type: ignore[arg-type]
    leases.begin(Beginning(Generation("one"), 1, tuple(KeyValue(KEYS.lease(5 + n), b"1200", 1, 1, 1, 0) for n in range(count)), ()))
    return leases


def test_a_renewal_that_hangs_at_one_member_is_answered_by_another() -> None:
    async def main() -> None:
        members = Members(None, Member(DONE))
        leases = leases_at(members, 2)
        began = time.monotonic()
        first = asyncio.create_task(leases.renew(5))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(leases.renew(6))
        assert await first == await second == 1_200
        assert time.monotonic() - began < 2 * BESIDE_S + 2 * SLACK_S < RENEWAL_S + 0.01, "that of another lease was not held up by it"
        await asyncio.sleep(RENEWAL_S)
        assert members.ended == len(members.asked) == 2, "what it comes to says something of the member"

    asyncio.run(main())


def test_two_members_that_hang_are_not_all_that_is_asked() -> None:
    async def main() -> None:
        members = Members(None, Member(None), Member(DONE))
        began = time.monotonic()
        assert await leases_at(members).renew(5) == 1_200
        assert time.monotonic() - began < 2 * BESIDE_S + SLACK_S

    asyncio.run(main())


def test_a_member_that_answers_is_the_only_one_that_is_asked() -> None:
    async def main() -> None:
        other = Member(DONE)
        assert await leases_at(Members(DONE, other)).renew(5) == 1_200
        assert not other.asked

    asyncio.run(main())


def test_a_member_that_knows_of_no_leader_is_asked_again_soon() -> None:
    async def main() -> None:
        member = Members(Unavailable("etcdserver: no leader"))
        renewing = asyncio.create_task(leases_at(member).renew(5))
        await asyncio.sleep(2.5 * AGAIN_S)
        assert 2 <= len(member.asked) <= 3 and not renewing.done()
        member.does = DONE
        async with asyncio.timeout(AGAIN_S + SLACK_S):
            assert await renewing == 1_200

    asyncio.run(main())


def test_nobody_is_waited_for_longer_than_the_first_one() -> None:
    """Also what is asked beside at the end: what is answered later moves no deadline."""

    async def main() -> None:
        members = Members(None, Member(None))
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await leases_at(members).renew(5)
        assert RENEWAL_S - 0.01 <= time.monotonic() - began < RENEWAL_S + SLACK_S
        asked = [timeout_s for member in members.all for timeout_s in member.asked]
        assert len(asked) == 4 and max(asked) <= RENEWAL_S

    asyncio.run(main())


def test_one_of_which_it_is_not_known_says_so_whatever_the_others_say() -> None:
    async def main() -> None:
        with pytest.raises(OutcomeUnknown):
            await ask(Members(None, Member(Unavailable("no leader"))), "KV/Txn", b"", within_s=0.4)  # type: ignore[arg-type]
        with pytest.raises(OutcomeUnknown):
            await ask(Members(OutcomeUnknown("timed out"), Member(Unavailable("no leader"))), "KV/Txn", b"", within_s=1.5 * AGAIN_S)  # type: ignore[arg-type]
        with pytest.raises(Unavailable, match="no leader"):
            await ask(Members(Unavailable("no leader")), "KV/Txn", b"", within_s=0.2)  # type: ignore[arg-type]
        with pytest.raises(CallerError):  # at once: no other member would say anything else
            await ask(Members(CallerError("too large"), Member(DONE)), "KV/Txn", b"", within_s=60)  # type: ignore[arg-type]

    asyncio.run(main())


def test_who_is_cancelled_leaves_nothing_behind() -> None:
    async def main() -> None:
        members = Members(None, Member(None))
        asking = asyncio.create_task(ask(members, "KV/Txn", b"", within_s=60))  # type: ignore[arg-type]
        await asyncio.sleep(1.5 * BESIDE_S)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0)
        assert all(len(member.asked) == 1 for member in members.all) and len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_channel_has_one_connection_to_each_other_member_and_gives_them_back() -> None:
    pytest.importorskip("grpc")

    async def main() -> None:
        channel = Channel(Address(("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"), "s"))
        asked = [channel.beside(number) for number in range(6)]
        assert asked[0] is channel and [one.members for one in asked[1:4]] == [("10.0.0.2:1",), ("10.0.0.3:1",), ("10.0.0.1:1",)]
        assert asked[4] is asked[1] and asked[1].tally is channel.tally
        channel.turn_to(("10.0.0.4:1", "10.0.0.5:1"))
        assert channel.beside(1).members == ("10.0.0.5:1",), "of members that are gone none is asked"
        assert list(channel._beside) == ["10.0.0.5:1"]
        alone = Channel(Address(("10.0.0.1:1",), "s"))
        assert alone.beside(1) is alone
        await channel.close()
        await alone.close()
        assert not channel._beside

    asyncio.run(main())


def test_a_judge_writes_its_seat_again_before_it_has_lost_it() -> None:
    """It waited for longer than a seat lasts on a member whose leader had died."""

    async def main() -> None:
        member = Member(None)
        judge = judging.Judging(member, KEYS, "g", lambda: time.monotonic_ns() // 1_000_000, lambda: True, lambda _judges: None)  # type: ignore[arg-type]
        judge.begin((KeyValue(KEYS.seats + b"0", b"g", 1, 1, 1, 0),))
        running = asyncio.create_task(judge.run())
        async with asyncio.timeout(SEAT_TTL_MS / 1000):
            while len(member.asked) < 2:
                await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(main())
