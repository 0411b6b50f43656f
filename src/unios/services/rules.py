"""Rules as the placement service shows and changes them: quotas and the placement policy. Only for the privileged; kept in the store, seen by all services."""

import asyncio
import contextlib
from collections.abc import Mapping

import msgspec

from unios.core import placement
from unios.core.audit import Draft
from unios.core.capacity import Use
from unios.core.rules import POLICY_KEY, PolicyRule, Quota, Rule, quota_key
from unios.errors import CallerError, Denied, Misused, UniosError
from unios.services.foreign import installed
from unios.services.queueing import wall_ms
from unios.services.view import View
from unios.store.audit import append
from unios.store.model import Compare, Delete, Put, Transaction
from unios.wire.operations import Accepted, Empty, EventView
from unios.wire.queueing import PolicyView, QuotaView

BOUND_MAX = 1 << 53
USER_BYTES_MAX = 100


class Rules:
    """Those of one placement service."""

    def __init__(self, view: View, me: str) -> None:
        self._view = view
        self._me = me
        self._tasks: set[asyncio.Task[None]] = set()
        self._events = 0

    async def policy(self, stale_ms: int | None) -> PolicyView:
        """Return the system's placement policy and those that there are: the latest, or Unavailable; with `stale_ms` as this node knows it, so old."""
        rules = await self._laid_down(stale_ms)
        rule = rules.get(POLICY_KEY)
        known = (*placement.POLICIES, *installed())
        name, replaced = (rule.name, rule.replaced) if isinstance(rule, PolicyRule) else (placement.DEFAULT, "")
        return PolicyView(name, known, replaced, stale_ms or 0)

    async def _laid_down(self, stale_ms: int | None) -> Mapping[str, Rule]:
        return await self._view.rules.latest() if stale_ms is None else self._view.rules.values

    async def set_policy(self, stamp: Accepted, body: PolicyView) -> PolicyView:
        """Make that the system's policy, at once and everywhere. Idempotent."""
        _privileged(stamp, "the placement policy")
        known = (*placement.POLICIES, *installed())
        if body.name not in known:
            raise Misused(f"there is no placement policy {body.name[:80]}; there are {', '.join(known)}")
        rule = PolicyRule(body.name, wall_ms())
        event = self._event("policy", f"{stamp.user} set the placement policy to {body.name}")
        await self._view.store.transact(Transaction(then=(Put(POLICY_KEY, msgspec.msgpack.encode(rule)), event)))
        await self._note(stamp, "policy", f"the placement policy is {body.name}")
        return PolicyView(body.name, known)

    def policy_failed(self, name: str, why: str) -> None:
        """A foreign policy has failed here: say so to everybody, once."""
        task = asyncio.get_running_loop().create_task(self._tell_failed(name, why))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_failed(self, name: str, why: str) -> None:
        rule = self._view.rules.values.get(POLICY_KEY)
        event = self._event("policy", f"the placement policy {name} was replaced by {placement.DEFAULT}: {why}")
        if not isinstance(rule, PolicyRule) or rule.name != name:  # only a process named it
            await self._view.store.put(event.key, event.value)
        elif not rule.replaced:
            put = Put(POLICY_KEY, msgspec.msgpack.encode(msgspec.structs.replace(rule, replaced=why)))
            compare = Compare(POLICY_KEY, "modified", "==", self._view.rules.modified[POLICY_KEY])
            await self._view.store.transact(Transaction((compare,), (put, event)))

    async def quotas(self, stale_ms: int | None) -> tuple[QuotaView, ...]:
        """Return every user's bounds, the latest, or Unavailable, with `stale_ms` as this node knows them, so old; and what is set aside for him, by name."""
        rules = {rule.user: rule for rule in (await self._laid_down(stale_ms)).values() if isinstance(rule, Quota)}
        used = self._view.books.users
        found = []
        for user in sorted(rules.keys() | used.keys()):
            rule, use = rules.get(user, Quota(user)), used.get(user, Use())
            found.append(
                QuotaView(user, rule.cpu_milli, rule.memory_bytes, rule.processes, use.cpu_milli, use.memory_bytes, use.processes, stale_ms or 0)
            )
        return tuple(found)

    async def set_quota(self, stamp: Accepted, body: QuotaView) -> Empty:
        """Bound what a user may have set aside at a time; what runs already goes on. Idempotent."""
        _privileged(stamp, "quotas")
        bounds = (body.cpu_milli, body.memory_bytes, body.processes)
        if not body.user.isprintable() or not 0 < len(body.user.encode("utf-8", "replace")) <= USER_BYTES_MAX or "/" in body.user:
            raise CallerError("that is no user's name")
        if any(not 0 <= bound <= BOUND_MAX for bound in bounds):
            raise CallerError("bounds are numbers from 0 on; 0 is none")
        key = quota_key(body.user)
        what = ", ".join(f"{name} {bound}" for name, bound in zip(("cpu_milli", "memory_bytes", "processes"), bounds, strict=True) if bound)
        event = self._event("quota", f"{stamp.user} set the quota of {body.user} to {what or 'none'}")
        operation = Put(key, msgspec.msgpack.encode(Quota(body.user, *bounds))) if any(bounds) else Delete(key)
        await self._view.store.transact(Transaction(then=(operation, event)))
        await self._note(stamp, "quota", f"of {body.user}: {what or 'none'}")
        return Empty()

    async def _note(self, stamp: Accepted, act: str, what: str) -> None:
        """Have it in the audit log too. What was done stands, should that fail."""
        with contextlib.suppress(UniosError):
            await append(self._view.store, Draft(wall_ms(), self._me, stamp.user, act, what, "done", stamp.pid))

    def _event(self, kind: str, text: str) -> Put:
        self._events += 1
        now = wall_ms()
        view = EventView(now, self._me, kind, text)
        return Put(f"/events/{now:015d}-{self._me}-r{500_000 + self._events % 500_000:06d}", msgspec.msgpack.encode(view))


def _privileged(stamp: Accepted, what: str) -> None:
    if not stamp.privileged:
        raise Denied(f"{what} may be changed by the privileged only")
