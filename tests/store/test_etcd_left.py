"""What an engine that is about to be left hands over: all that it has at one moment, while no lease ends by itself."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.store.engines import EtcdMember
from unios.store.etcd import messages
from unios.store.etcd.address import parse
from unios.store.etcd.channel import Channel
from unios.store.etcd.gateway import Gateway
from unios.store.etcd.keys import Keys
from unios.store.model import Put, Transaction
from unios.store.sqlite import Grant


@asynccontextmanager
async def running(member: EtcdMember) -> AsyncIterator[tuple[Gateway, Channel, Keys]]:
    address = parse(f"etcd://127.0.0.1:{member.port}/s", "s")
    channel, keys = Channel(address), Keys(address.root)
    gateway = Gateway(Channel(address), address.root, lambda: time.monotonic_ns() // 1_000_000)
    task = asyncio.create_task(gateway.run())
    try:
        await gateway.begun(10)
        yield gateway, channel, keys
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await gateway.close()
        await channel.close()


async def put(gateway: Gateway, key: str, lease: int = 0) -> None:
    await gateway.do(Transaction(then=(Put(key, b"", lease),)))


def test_what_hangs_on_a_lease_that_has_ended_is_not_taken_along(member: EtcdMember) -> None:
    async def work() -> None:
        async with running(member) as (gateway, channel, keys):
            lives, ended = [await gateway.do(Grant(20_000)) for _ in range(2)]
            assert isinstance(lives, int) and isinstance(ended, int)
            for key, lease in (("/stays", 0), ("/lives", lives), ("/going", ended)):
                await put(gateway, key, lease)
            # another gateway has ended it, and has not come to deleting its keys
            then = [messages.as_delete(messages.delete(keys.lease(ended))), messages.as_put(messages.put(keys.ending(ended), b""))]
            await channel.call("KV/Txn", messages.transaction([], then, []))
            found = await gateway.everything()
            assert {record.key: record.lease for record in found.records} == {"/stays": 0, "/lives": lives}
            assert found.leases == {lives: 20_000}
            assert found.number >= max(record.modified for record in found.records)

    asyncio.run(work())


def test_no_lease_ends_by_itself_until_it_goes_on(member: EtcdMember) -> None:
    async def work() -> None:
        async with running(member) as (gateway, _channel, _keys):
            lease = await gateway.do(Grant(1_000))
            assert isinstance(lease, int)
            await put(gateway, "/k", lease)
            await gateway.freeze()
            for _turn in range(15):  # each is heard, and heard things are judged
                await put(gateway, "/turn")
                await asyncio.sleep(0.1)
            assert set((await gateway.everything()).leases) == {lease} and await gateway.renew(lease) == 1_000
            gateway.thaw()
            while (await gateway.everything()).leases:
                await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(work(), 20))
