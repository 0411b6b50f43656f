"""Refusals: what no session may say to the manager of locks, whatever is held or waited for. Decides only, for core/locks.py.

Names have bounds because the manager keeps them, and data because only an item of a queue is data.
"""

from typing import Final

from unios.core.grants import KINDS, Answer, Ask, Held, Known, Open, fault
from unios.synchronisation_limits import SYNC_ACTOR_BYTES_MAX, SYNC_NAME_BYTES_MAX

GATES: Final = frozenset({"lock", "rwlock", "semaphore", "election"})
BRINGS: Final = frozenset({("queue", "put"), ("queue", "back")})
"""What brings an item."""


def malformed(ask: Ask) -> Answer | None:
    """Return what is answered to a question that makes no sense; None if it may."""
    if ask.kind not in KINDS or not _is_name(ask.name) or (ask.text and not _is_name(ask.text)):
        return fault(ask.id, "usage", f"{ask.kind[:40]} {(ask.text or ask.name)[:80]!r} is no name: use up to {SYNC_NAME_BYTES_MAX} bytes")
    if not _is_short(ask.actor) or (ask.data and (ask.kind, ask.op) not in BRINGS):
        return fault(ask.id, "usage", f"{ask.op[:40]} of {ask.kind} {ask.name[:80]} brings more than it may")
    if ask.size < 1 or ask.spec < 0 or (ask.kind == "barrier" and ask.spec < 1):
        return fault(ask.id, "usage", f"{ask.size} of {ask.spec} is no number for {ask.kind} {ask.name[:80]}")
    return None


def may_be_held(held: Held) -> bool:
    """Whether a session can hold that."""
    return held.kind in GATES and held.size > 0 and held.spec >= 0 and _is_name(held.name) and _is_short(held.actor)


def may_be_known(known: Known) -> bool:
    """Whether a session can remember that."""
    return known.kind == "event" and _is_name(known.name)


def is_called_too_long(opened: Open) -> bool:
    """Whether a session has no name for itself, or its process, that can be kept."""
    return not all(map(_is_short, (opened.session, opened.label, opened.linux[0])))


def _is_name(text: str) -> bool:
    return 0 < len(text.encode(errors="replace")) <= SYNC_NAME_BYTES_MAX


def _is_short(text: str) -> bool:
    return len(text.encode(errors="replace")) <= SYNC_ACTOR_BYTES_MAX
