"""Leaving etcd: what says there that the store goes back into a file of one machine, so that no other machine begins a gateway again.

For the way back all other machines give up their gateways (kernel/gateways.py), for one attempt, which the record MOVING names. Two things may come of
it, and etcd decides which, whoever dies: the attempt writes `left` if MOVING is still its own, and then decides by its file; or a machine that has lost sight of
it takes MOVING away if there is no `left`, and has a gateway again. `left` of an attempt that came to nothing is taken back by its own machine alone.
"""

from collections.abc import Sequence
from typing import Final

from unios.core.moving import MOVING, machine_of
from unios.errors import Unavailable
from unios.store.etcd import messages
from unios.store.etcd.channel import Channel
from unios.store.etcd.keys import Keys

BROKEN_OFF: Final = "the way back was broken off: another machine, or an expired lease, has ended the attempt; try again"


async def leave(channel: Channel, keys: Keys, attempt: str) -> None:
    """Write that the store is about to go, by that attempt. Raises Unavailable: it may not; OutcomeUnknown."""
    compares = [messages.compare(keys.record(MOVING), "value", "==", attempt.encode()), messages.compare(keys.left, "version", "==", 0)]
    done = await _transact(channel, compares, [messages.as_put(messages.put(keys.left, attempt.encode()))])
    if not done.succeeded:
        raise Unavailable(BROKEN_OFF)


async def stay(channel: Channel, keys: Keys, machine: str) -> None:
    """Take back what an attempt of that machine wrote, which has not been decided. Idempotent. Raises Unavailable, OutcomeUnknown."""
    found = await left(channel, keys)
    if found and machine_of(found) == machine:
        await _transact(channel, [messages.compare(keys.left, "value", "==", found.encode())], [messages.as_delete(messages.delete(keys.left))])


async def left(channel: Channel, keys: Keys) -> str:
    """Return the attempt by which the store has gone, or is about to; empty: none. Raises Unavailable."""
    return _attempt(messages.read_range(await channel.call("KV/Range", messages.range_(keys.left))))


async def come_back(channel: Channel, keys: Keys) -> str:
    """Have whatever attempt there is end; return "" then, or the attempt that has gone too far for that. Raises Unavailable, OutcomeUnknown."""
    compares = [messages.compare(keys.left, "version", "==", 0)]
    ends, looks = [messages.as_delete(messages.delete(keys.record(MOVING)))], [messages.as_range(messages.range_(keys.left))]
    done = await _transact(channel, compares, ends, looks)
    return "" if done.succeeded else _attempt(done.results[0])


def _attempt(found: object) -> str:
    return found.found[0].value.decode(errors="replace") if isinstance(found, messages.Ranged) and found.found else ""


async def _transact(channel: Channel, compares: list[bytes], then: list[bytes], otherwise: Sequence[bytes] = ()) -> messages.Done:
    return messages.read_transaction(await channel.call("KV/Txn", messages.transaction(compares, then, list(otherwise))))
