"""Judging: has a gateway take, keep and hear of the seats of those that judge leases. Decides with core/seats.py.

Seats are records j/N: the name of a gateway. `changed` is told at each beginning, and
whenever this gateway begins to judge or ceases to.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from unios.core.seats import PATIENCE_MS_MAX, Claim, Seats
from unios.errors import UniosError
from unios.store.etcd import messages
from unios.store.etcd.channel import Channel
from unios.store.etcd.keys import Keys, number
from unios.store.etcd.messages import Change, KeyValue

WRITE_S: Final = 0.5
"""So long the writing of a seat is waited for. A member whose leader has died never answers, and who waited on lost the seat. Whether it was done is heard, and one
that is asked again compares."""


class Judging:
    """That of one gateway."""

    def __init__(
        self, channel: Channel, keys: Keys, name: str, now_ms: Callable[[], int], hears: Callable[[], bool], changed: Callable[[bool], None]
    ) -> None:
        self._channel = channel
        self._keys = keys
        self._name = name
        self._now_ms = now_ms
        self._hears = hears
        self._changed = changed
        self._seats = Seats(name, random.SystemRandom().randrange(PATIENCE_MS_MAX))
        self._judges = True
        self._look = asyncio.Event()

    def begin(self, found: tuple[KeyValue, ...]) -> None:
        """Take the records that there are."""
        self._seats.begin({number(one.key): (one.value.decode(errors="replace"), one.modified) for one in found}, self._now_ms())
        self._judges = self._seats.judges
        self._changed(self._judges)
        self._look.set()

    def hear(self, change: Change) -> None:
        """Note a change of a record, if it is one of a seat."""
        if change.now.key.startswith(self._keys.seats):
            holder = "" if change.deleted else change.now.value.decode(errors="replace")
            self._seats.heard(number(change.now.key), holder, change.now.modified, self._now_ms())
            self._tell()

    def _tell(self) -> None:
        if self._seats.judges != self._judges:
            self._judges = self._seats.judges
            self._changed(self._judges)

    async def run(self) -> None:
        """Take a seat where one is free, and keep it; until cancelled."""
        await self._look.wait()
        while True:
            claim = self._seats.look(self._now_ms(), hears=self._hears())
            if claim is not None:
                with contextlib.suppress(UniosError):  # what came of it is heard, or it is tried again
                    await self._write(claim)
            self._look.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seats.wait_ms(self._now_ms()) / 1000):
                    await self._look.wait()

    async def _write(self, claim: Claim) -> None:
        key = self._keys.seats + b"%d" % claim.seat
        asked = messages.transaction(
            [messages.compare(key, "modified", "==", claim.modified)], [messages.as_put(messages.put(key, self._name.encode()))], []
        )
        done = messages.read_transaction(await self._channel.call("KV/Txn", asked, timeout_s=WRITE_S))
        if done.succeeded:
            self._seats.heard(claim.seat, self._name, done.revision, self._now_ms())
            self._tell()
