"""Carries out the upkeep of the system's own etcd, as core/upkeep.py decides: one step at a look, each waited for to its end."""

import contextlib
import time
from collections.abc import Callable
from typing import Final

from unios.core import upkeep
from unios.core.upkeep import State
from unios.errors import Compacted, UniosError
from unios.store.client import StoreClient
from unios.store.model import Put
from unios.store.requests import Health

COMPACTED_S: Final = 600.0
"""So long a compaction is not done again, if room stays short: what it left is records."""


class QuorumUpkeep:
    """That of one recovery service."""

    def __init__(self, store: StoreClient, event: Callable[[str, str], Put]) -> None:
        self._store = store
        self._event = event
        self._compacted_s = -COMPACTED_S
        self._rewritten: set[int] = set()
        """Members that have been defragmented since."""

    async def look(self, health: Health | None) -> None:
        """Take a step if one is due. Of an etcd whose quota is not known none is: who runs it sees to it. Raises what the store says is wrong."""
        if health is None or not health.quota_bytes:
            return
        now = time.monotonic()
        states = [State(one.id, one.name, one.answers, one.learner, one.leader, one.bytes, one.used_bytes, one.alarm) for one in health.members]
        compacted = now - self._compacted_s < COMPACTED_S
        step = upkeep.decide(states, health.quota_bytes, compacted=compacted, rewritten=self._rewritten)
        match step.what if step is not None else "":
            case "compact":
                _found, revision = await self._store.range("/nodes/", limit=1)
                with contextlib.suppress(Compacted):  # it is already
                    await self._store.compact(revision)
                self._compacted_s = now
                self._rewritten.clear()
            case "defragment" if step is not None:
                self._rewritten.add(step.member)
                await self._store.defragment(step.member)
            case "disarm" if step is not None:
                await self._store.disarm(step.member)
                await self._tell(f"the store takes writes again: {step.why}")

    async def _tell(self, text: str) -> None:
        put = self._event("store", text)
        with contextlib.suppress(UniosError):
            await self._store.put(put.key, put.value)
