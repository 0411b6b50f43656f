"""Capabilities: rights to some operations of one port, each derived from another, none stronger than that; decided where the port is served.

There is one table for a port, in the process that answers on it, so that a right that has been taken out of it is served nowhere: no copy has to be told.
Names of capabilities are hashes of secrets; times are milliseconds of that process's monotonic clock.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from unios.errors import CallerError, Denied, Unavailable
from unios.security_limits import CAPABILITIES_MAX, CAPABILITY_DEPTH_MAX


class Terms(NamedTuple):
    """What a capability lets one do. `operations`: None for all; `until_ms`: None for ever; `uses`: how many calls are left, None for any number;
    `user`: who may use it, "" for whoever holds it."""

    operations: frozenset[str] | None = None
    until_ms: int | None = None
    uses: int | None = None
    user: str = ""


ALL: Final = Terms()


class _Right:
    __slots__ = ("children", "depth", "parent", "terms", "uses")

    def __init__(self, terms: Terms, parent: str, depth: int) -> None:
        self.terms, self.parent, self.depth = terms, parent, depth
        self.uses = terms.uses
        self.children: set[str] = set()


class Capabilities:
    """Those of one port. Belongs to whoever holds its owner's lock."""

    def __init__(self) -> None:
        self._rights: dict[str, _Right] = {}

    def __len__(self) -> int:
        return len(self._rights)

    def mint(self, name: str, terms: Terms, now_ms: int) -> None:
        """Make one that is derived from none: the port's owner does. Unavailable over the bound, CallerError for terms that make no sense."""
        self._add(name, terms, "", 0, now_ms)

    def derive(self, parent: str, name: str, terms: Terms, user: str, now_ms: int) -> None:
        """Make one from another, for `user`, who has to be one that may use that. It is bounded by each of those that it comes from, whatever `terms` say;
        who is not named in them stays who he is. Denied, Unavailable, CallerError."""
        chain = self._chain(parent, user, now_ms)
        if chain[0].depth + 1 >= CAPABILITY_DEPTH_MAX:
            raise CallerError(f"a capability may be {CAPABILITY_DEPTH_MAX} steps from the first one: derive it from an earlier one")
        self._add(name, terms._replace(user=terms.user or chain[0].terms.user), parent, chain[0].depth + 1, now_ms)

    def admit(self, name: str, operation: str, user: str, now_ms: int) -> None:
        """Count one call. Denied if that one, or one that it comes from, does not let this user call that, or does no more."""
        chain = self._chain(name, user, now_ms)
        for right in chain:
            if right.terms.operations is not None and operation not in right.terms.operations:
                raise Denied(f"this capability does not let you call {operation[:80]!r}")
            if right.uses == 0:
                raise Denied("this capability has been used as often as it may")
        for right in chain:
            if right.uses is not None:
                right.uses -= 1

    def holds(self, name: str, user: str, now_ms: int) -> None:
        """Denied if it lets this user do nothing any more, uses aside."""
        self._chain(name, user, now_ms)

    def revoke(self, name: str) -> int:
        """Take it out with all that comes from it; return how many those were, 0 if there is none. Idempotent."""
        if (right := self._rights.get(name)) is None:
            return 0
        if (parent := self._rights.get(right.parent)) is not None:
            parent.children.discard(name)
        waiting, count = [name], 0
        while waiting:
            gone = self._rights.pop(waiting.pop())
            waiting += gone.children
            count += 1
        return count

    def _chain(self, name: str, user: str, now_ms: int) -> list[_Right]:
        """Return it and those that it comes from, itself first. Denied if one of them is gone or over, or it is another user's."""
        chain: list[_Right] = []
        while name or not chain:
            right = self._rights.get(name)
            if right is None or (right.terms.until_ms is not None and now_ms >= right.terms.until_ms):
                raise Denied("this capability is none, was revoked or is over: ask who gave it to you for another one")
            chain.append(right)
            name = right.parent
        if chain[0].terms.user not in ("", user):
            raise Denied("this capability is another user's")
        return chain

    def _add(self, name: str, terms: Terms, parent: str, depth: int, now_ms: int) -> None:
        if terms.uses is not None and terms.uses < 0:
            raise CallerError("a capability cannot be used less than 0 times")
        if len(self._rights) >= CAPABILITIES_MAX:
            self._tidy(now_ms)
        if len(self._rights) >= CAPABILITIES_MAX:
            raise Unavailable(f"this port has {CAPABILITIES_MAX} capabilities, which is its limit: some have to be revoked")
        self._rights[name] = _Right(terms, parent, depth)
        if parent:
            self._rights[parent].children.add(name)

    def _tidy(self, now_ms: int) -> None:
        """Let go of those that are over."""
        over: Iterable[str] = [name for name, one in self._rights.items() if one.terms.until_ms is not None and now_ms >= one.terms.until_ms]
        for name in over:
            self.revoke(name)
