"""What happens in a system, as its gateway hears it: one watch for all watchers, gone on with where it broke off.

It begins with a watch from now on, then reads what there is of leases, in one revision: what the watch says of up to then is left out. After a break it
goes on from the last revision that was heard, not from the next one: so etcd says `compacted` also where only a deletion in the next one is gone.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from unios.errors import Compacted, Unavailable, UniosError
from unios.ids import Generation
from unios.store.etcd import messages, translation
from unios.store.etcd.channel import Channel
from unios.store.etcd.keys import Keys, base_of
from unios.store.etcd.messages import Change, KeyValue, Ranged

AGAIN_S: Final = 0.1
AGAIN_S_MAX: Final = 1.0
"""An etcd that stays away is asked ever more rarely, up to this."""


class Beginning(NamedTuple):
    generation: Generation
    number: int
    leases: tuple[KeyValue, ...]
    endings: tuple[KeyValue, ...]
    seats: tuple[KeyValue, ...] = ()
    base: int = 0
    """See Keys.base."""


class Feed:
    """`begun` is told the beginning, also after history was lost; `heard` each revision, whole and once; `joined` the leases
    that there are when renewals are heard again."""

    def __init__(
        self,
        channel: Channel,
        keys: Keys,
        begun: Callable[[Beginning], None],
        heard: Callable[[int, list[Change]], None],
        broken: Callable[[], None],
        joined: Callable[[Beginning], None] = lambda _beginning: None,
    ) -> None:
        self._channel = channel
        self._keys = keys
        self._begun = begun
        self._heard = heard
        self._broken = broken
        self._joined = joined
        self._whole = True
        """Whether renewals of leases are heard."""
        self._joins = False
        """Whether leases have to be read, since renewals were not heard before."""
        self._at = 0
        self._generation = Generation("")
        self._listening: asyncio.Task[None] | None = None
        self.trouble: UniosError | None = Unavailable("etcd has not answered yet")
        """Why it hears nothing at present."""

    def turn(self, *, whole: bool) -> None:
        """From now on hear renewals of leases too, or no more. What else there is is heard without gap."""
        if whole != self._whole:
            self._whole, self._joins = whole, whole
            if self._listening is not None:
                self._listening.cancel()

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            listening = self._listening = asyncio.get_running_loop().create_task(self._listen())
            try:
                await asyncio.wait([listening])
            finally:
                self._listening = None
                listening.cancel()
            if not listening.cancelled():
                listening.result()

    async def _listen(self) -> None:
        wait_s = AGAIN_S
        while True:
            try:
                if self._at:
                    self._at = await self._gone_on(self._at, self._generation)
                pending: list[Change] = []
                async for told in self._channel.watch(self._keys.root, self._at, b"" if self._whole else self._keys.leases):
                    if told.created and (self._joins or not self._at):
                        await self._begin()
                    self.trouble, wait_s = None, AGAIN_S
                    pending += told.changes
                    if told.fragment:
                        continue
                    for number, same in translation.revisions(tuple(pending)):
                        if number > self._at:
                            self._at = number
                            self._heard(number, same)
                    pending = []
            except (Compacted, LookupError):
                self._broken()
                self._at = 0
            except UniosError as error:
                self.trouble = error
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, AGAIN_S_MAX)

    async def _begin(self) -> None:
        """Read what there is, after the watch has begun: all of it, or the leases alone for one that has heard the rest. Raises Compacted."""
        beginning = await self._read()
        if not self._at:
            self._at, self._generation = beginning.number, beginning.generation
            self._joins = False
            self._begun(beginning)
            return
        if beginning.generation != self._generation:
            raise Compacted("the store has begun a new generation: read everything again")
        self._joins = False
        self._joined(beginning)

    async def present(self) -> int:
        """Return etcd's revision, no older than when it is asked."""
        return messages.read_revision(await self._channel.call("KV/Range", messages.range_(self._keys.generation, count_only=True)))

    async def seen(self, number: int) -> None:
        """Somebody has seen that revision of this generation: an etcd that has not got so far is back with an older state, also if all gateways have begun since."""
        if await self.present() < number:
            await self._restored()

    async def _gone_on(self, at: int, generation: Generation) -> int:
        """Return after which revision it goes on: 0 if etcd is another than it was, which another gateway may have found before it had grown past `at`."""
        found = messages.read_range(await self._channel.call("KV/Range", messages.range_(self._keys.generation)))
        if found.revision < at:
            return await self._restored()
        if [one.value.decode() for one in found.found] == [generation]:
            return at
        self._broken()
        return 0

    async def _read(self) -> Beginning:
        keys = self._keys
        drawn = messages.put(keys.generation, os.urandom(8).hex().encode())
        absent = messages.compare(keys.generation, "version", "==", 0)
        reads = [
            messages.as_range(request)
            for request in (
                messages.range_(keys.generation),
                messages.range_(keys.leases, keys.leases_end),
                messages.range_(keys.endings, keys.endings_end),
                messages.range_(keys.seats, keys.seats_end),
                messages.range_(keys.base_key),
            )
        ]
        known = messages.read_range(await self._channel.call("KV/Range", messages.range_(keys.generation, count_only=True))).total
        # an etcd without space takes no transaction that might write; a generation that was drawn and not heard of is read by the next attempt
        asked = messages.transaction([], reads, []) if known else messages.transaction([absent], [messages.as_put(drawn), *reads], reads)
        done = messages.read_transaction(await self._channel.call("KV/Txn", asked, writes=False))
        generation, leases, endings, seats, base = (one for one in done.results[-5:] if isinstance(one, Ranged))
        drawn_now = Generation(generation.found[0].value.decode())
        return Beginning(drawn_now, done.revision, leases.found, endings.found, seats.found, base_of(base.found[0].value if base.found else b""))

    async def _restored(self) -> int:
        """etcd is back with an older state: its revisions mean other things now. A new generation says so."""
        drawn = messages.put(self._keys.generation, os.urandom(8).hex().encode())
        await self._channel.call("KV/Put", drawn, writes=False)
        self._broken()
        return 0
