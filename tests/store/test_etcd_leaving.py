"""Who writes first decides: the attempt that takes the store out of etcd, or a machine that wants its gateway back."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.store.engines import EtcdMember
from tests.store.test_etcd_left import running
from unios.core.moving import MOVING
from unios.errors import Unavailable
from unios.store.etcd import leaving
from unios.store.etcd.address import parse
from unios.store.etcd.channel import Channel
from unios.store.etcd.gateway import Gateway
from unios.store.etcd.keys import Keys
from unios.store.model import Delete, Put, Range, RangeResult, Transaction

OURS, OTHERS = "m1.a", "m2.b"


def with_gateway(member: EtcdMember, work: Callable[[Gateway, Channel, Keys], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), running(member) as (gateway, channel, keys):
            await gateway.do(Transaction(then=(Put(MOVING, OURS.encode()),)))
            await work(gateway, channel, keys)

    asyncio.run(main())


async def is_under_way(gateway: Gateway) -> bool:
    result = await gateway.do(Transaction(then=(Range(MOVING),)))
    assert not isinstance(result, int) and isinstance(result.results[0], RangeResult)
    return bool(result.results[0].records)


def test_an_attempt_that_somebody_has_ended_does_not_leave(member: EtcdMember) -> None:
    async def work(gateway: Gateway, channel: Channel, keys: Keys) -> None:
        assert await gateway.come_back() == "" and not await is_under_way(gateway)
        with pytest.raises(Unavailable, match="broken off"):
            await gateway.about_to_leave(OURS)
        assert await leaving.left(channel, keys) == ""

    with_gateway(member, work)


def test_nobody_comes_back_once_it_is_about_to_leave_until_its_own_machine_says_that_it_stays(member: EtcdMember) -> None:
    async def work(gateway: Gateway, channel: Channel, keys: Keys) -> None:
        await gateway.about_to_leave(OURS)
        assert await gateway.come_back() == OURS and await is_under_way(gateway)
        await gateway.stay("m2")
        assert await gateway.come_back() == OURS
        await gateway.stay("m1")
        await gateway.stay("m1")
        assert await leaving.left(channel, keys) == "" == await gateway.come_back()

    with_gateway(member, work)


@pytest.mark.parametrize("now", [OTHERS, ""])
def test_an_attempt_leaves_only_while_the_record_is_its_own(member: EtcdMember, now: str) -> None:
    async def work(gateway: Gateway, channel: Channel, keys: Keys) -> None:
        await gateway.do(Transaction(then=(Put(MOVING, now.encode()) if now else Delete(MOVING),)))
        with pytest.raises(Unavailable):
            await gateway.about_to_leave(OURS)
        assert await leaving.left(channel, keys) == ""

    with_gateway(member, work)


def test_what_is_forgotten_in_an_etcd_of_others_leaves_the_word_that_it_has_gone(member: EtcdMember) -> None:
    async def work(gateway: Gateway, channel: Channel, keys: Keys) -> None:
        await gateway.do(Transaction(then=(Put("/k", b"v"),)))
        await gateway.about_to_leave(OURS)
        await gateway.forget(())
        assert await gateway.come_back() == OURS and not await is_under_way(gateway)

    with_gateway(member, work)


def test_what_has_left_by_one_attempt_leaves_by_no_other(member: EtcdMember) -> None:
    async def work(gateway: Gateway, channel: Channel, keys: Keys) -> None:
        await gateway.about_to_leave(OURS)
        await gateway.do(Transaction(then=(Put(MOVING, OTHERS.encode()),)))
        with pytest.raises(Unavailable):
            await gateway.about_to_leave(OTHERS)
        assert await leaving.left(channel, keys) == OURS

    with_gateway(member, work)


def test_who_asks_while_it_is_not_settled_is_told_why(member: EtcdMember) -> None:
    async def refused(_gateway: Gateway) -> None:
        raise Unavailable("etcd refuses: no such user")

    async def main() -> None:
        address = parse(f"etcd://127.0.0.1:{member.port}/s", "s")
        gateway = Gateway(Channel(address), address.root, lambda: time.monotonic_ns() // 1_000_000, settles=refused)
        task = asyncio.create_task(gateway.run())
        with pytest.raises(Unavailable, match="no such user"):
            await gateway.do(Transaction(then=(Range("/k"),)))
        task.cancel()
        await asyncio.wait([task])
        await gateway.close()

    asyncio.run(main())
