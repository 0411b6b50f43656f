"""Of many gateways to one etcd few judge leases: the others hear no renewals, and whoever dies of them, leases still end and none ends too early."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.store.engines import EtcdMember
from unios.core.seats import SEATS
from unios.ids import Generation
from unios.store.etcd.address import parse
from unios.store.etcd.channel import Channel
from unios.store.etcd.gateway import Gateway
from unios.store.model import Put, Range, RangeResult, Transaction, TransactionResult
from unios.store.sqlite import Grant

COUNT = 6
WAIT_S = 20


class Running:
    """A gateway in this process, which can be ended as if it were killed."""

    def __init__(self, address: str) -> None:
        parsed = parse(address)
        self.gateway = Gateway(Channel(parsed), parsed.root, lambda: time.monotonic_ns() // 1_000_000)
        self._task = asyncio.get_running_loop().create_task(self.gateway.run())

    async def kill(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.gateway.close()

    @property
    def judges(self) -> bool:
        return self.gateway._judging._seats._mine() is not None

    @property
    def heard(self) -> int:
        """How many events etcd has told it."""
        traffic = self.gateway._channel.traffic().get("watch")
        return traffic.events if traffic else 0

    async def transact(self, *operations: Put | Range) -> TransactionResult:
        result = await self.gateway.do(Transaction(then=operations))
        assert isinstance(result, TransactionResult)
        return result


@asynccontextmanager
async def gateways(member: EtcdMember) -> AsyncIterator[list[Running]]:
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        running = []
        for _number in range(COUNT):
            one = Running(f"etcd://127.0.0.1:{member.port}/tested")
            stack.push_async_callback(one.kill)
            running.append(one)
        await until(lambda: sum(one.judges for one in running) == SEATS and sum(one.gateway._feed._whole for one in running) == SEATS)
        yield running


async def until(reached) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(WAIT_S):
        while not reached():
            await asyncio.sleep(0.02)


async def there(gateway: Running, key: str) -> bool:
    found = (await gateway.transact(Range(key))).results[0]
    return isinstance(found, RangeResult) and bool(found.records)


def test_who_does_not_judge_hears_no_renewals_and_all_the_rest(member: EtcdMember) -> None:
    async def main() -> None:
        async with gateways(member) as running:
            others = [one for one in running if not one.judges]
            judge = next(one for one in running if one.judges)
            lease = await others[0].gateway.do(Grant(10_000))
            assert isinstance(lease, int)
            revision = (await others[0].transact(Put("/a", b"1"))).revision
            await until(lambda: all(one.gateway._recent.heard >= revision.number for one in running))
            before = [one.heard for one in (judge, *others)]
            for _turn in range(100):
                assert await others[0].gateway.renew(lease) == 10_000
            revision = (await others[0].transact(Put("/a", b"2"))).revision
            await until(lambda: all(one.gateway._recent.heard >= revision.number for one in running))
            after = [one.heard for one in (judge, *others)]
            assert after[0] - before[0] > 100
            assert all(late - early < 50 for early, late in zip(before[1:], after[1:], strict=True)), "seats and one record"
            assert (await others[1].gateway.statistics()).leases == 1

    asyncio.run(main())


def test_leases_end_though_all_judges_have_died_and_not_while_they_are_renewed(member: EtcdMember) -> None:
    async def main() -> None:
        async with gateways(member) as running:
            others = [one for one in running if not one.judges]
            kept, left = [await others[0].gateway.do(Grant(1_000)) for _ in range(2)]
            assert isinstance(kept, int) and isinstance(left, int)
            await others[0].transact(Put("/kept", b"", kept), Put("/left", b"", left))
            for one in running:
                if one.judges:
                    await one.kill()

            async def renew() -> None:
                while True:
                    await others[0].gateway.renew(kept)
                    await asyncio.sleep(0.1)

            renewing = asyncio.create_task(renew())
            async with asyncio.timeout(WAIT_S):
                while await there(others[1], "/left"):
                    await asyncio.sleep(0.05)
            assert sum(one.judges for one in others) > 0 and await there(others[1], "/kept")
            renewing.cancel()
            async with asyncio.timeout(WAIT_S):
                while await there(others[1], "/kept"):
                    await asyncio.sleep(0.05)

    asyncio.run(main())


def test_a_watcher_hears_each_event_once_while_its_gateway_becomes_a_judge(member: EtcdMember) -> None:
    async def main() -> None:
        async with gateways(member) as running:
            follower = next(one for one in running if not one.judges)
            writer = running[-1] if running[-1] is not follower else running[-2]
            watcher = await follower.gateway.watch("/n/", None)
            generation: Generation = (await watcher.next()).batch.revision.generation
            seen: list[bytes] = []

            async def listen() -> None:
                while True:
                    seen.extend(event.record.value for event in (await watcher.next()).batch.events)

            listening = asyncio.create_task(listen())
            for turn in range(60):
                if turn in (20, 40):  # as when a seat is taken, and lost
                    follower.gateway._judges(turn == 20)
                await writer.transact(Put("/n/x", b"%d" % turn))
            await until(lambda: len(seen) >= 60 or listening.done())
            listening.cancel()
            assert seen == [b"%d" % turn for turn in range(60)]
            assert follower.gateway._generation == generation

    asyncio.run(main())


def test_after_a_restore_judge_those_alone_who_hear_renewals(member: EtcdMember) -> None:
    async def main() -> None:
        async with gateways(member) as running:
            generation = running[0].gateway._generation
            await running[0].gateway.restore(())
            await until(lambda: all(one.gateway._generation != generation for one in running))
            await until(lambda: [one.gateway._feed._whole for one in running] == [one.judges for one in running])
            assert [one.gateway._leases._judges for one in running] == [one.judges for one in running]

    asyncio.run(main())
