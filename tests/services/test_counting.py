"""Counting on a real store: what goes is counted, once, whoever else tidies at the same time."""

import asyncio
from pathlib import Path

import msgspec

from tests.store.engines import on_sqlite
from unios.core.processes import ProcessRecord, process_key, spec_key
from unios.core.sums import UserSum, usage_key
from unios.demands import Usage
from unios.services.counting import delete
from unios.store.model import Put, Store, Transaction


def records(count: int) -> dict[str, ProcessRecord]:
    made = (
        ProcessRecord(pid=300 + n, incarnation=1, state="exited", user="bob" if n % 3 else "eve", usage=Usage(10 + n, 1_000 * n))
        for n in range(count)
    )
    return {process_key(one.pid): one for one in made}


async def modified(store: Store) -> dict[str, int]:
    result, _revision = await store.range("/processes/", prefix=True)
    return {record.key: record.modified for record in result.records}


async def write(store: Store, all_: dict[str, ProcessRecord]) -> list[str]:
    keys: list[str] = []
    for key, one in all_.items():
        await store.transact(Transaction(then=(Put(key, msgspec.msgpack.encode(one)), Put(spec_key(one.pid), b"x"))))
        keys += [key, spec_key(one.pid)]
    return keys


async def sum_of(store: Store, user: str) -> UserSum:
    result, _revision = await store.range(usage_key(user))
    return msgspec.msgpack.decode(result.records[0].value, type=UserSum)


def expected(all_: dict[str, ProcessRecord], user: str) -> UserSum:
    mine = [one for one in all_.values() if one.user == user]
    return UserSum(user, len(mine), sum(one.usage.cpu_ms for one in mine), max(one.usage.memory_peak_bytes for one in mine))


def test_what_goes_is_counted_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        all_ = records(100)
        keys = await write(store, all_)
        await delete(store, keys, all_, await modified(store))
        for prefix in ("/processes/", "/specs/"):
            result, _revision = await store.range(prefix, prefix=True)
            assert not result.records
        for user in ("bob", "eve"):
            assert await sum_of(store, user) == expected(all_, user)

    on_sqlite(tmp_path, work)


def test_two_that_tidy_at_once_count_each_record_once(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        all_ = records(60)
        keys = await write(store, all_)
        seen = await modified(store)
        await asyncio.gather(*(delete(store, keys, all_, seen) for _ in range(4)))
        await delete(store, keys, all_, seen)  # by a mirror that is behind
        for user in ("bob", "eve"):
            assert await sum_of(store, user) == expected(all_, user)

    on_sqlite(tmp_path, work)


def test_another_process_under_the_number_of_one_that_is_gone_is_left_alone(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        all_ = records(4)
        keys = await write(store, all_)
        seen = await modified(store)
        await write(store, all_)  # the numbers have come round
        await delete(store, keys, all_, seen)
        assert (await modified(store)).keys() == all_.keys()

    on_sqlite(tmp_path, work)
