"""Audit: who did what to the system's safety, when, from where and how it came out, as a chain of hashes. Decides only; store/audit.py reads and writes.

Interface: `Waiting` keeps what is not written yet; `follow(head, draft)` makes the next entry; `fault(...)` says what is wrong with a log. Invariants:

- entry n names the hash of entry n-1, so whoever changes, removes or puts in an entry has to change all that come after it, and the head;
- every kernel remembers a head that it has seen (`Seen`): a log that was changed before that and hashed anew is told from the right one by it;
- the log is bounded: the oldest go, the number of the first that is kept is in the head;
- what repeats itself while it waits to be written is one entry that says how often.

The idea: Schneier and Kelsey, Secure audit logs to support computer forensics (1999), without its evolving keys: who may write has the store anyway.
"""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from unios.security_limits import AUDIT_KEPT, AUDIT_REPEAT_MS, AUDIT_TEXT_MAX, AUDIT_WAITING_MAX

PREFIX: Final = "/audit/"
HEAD_KEY: Final = "/audit/head"
NONE: Final = "0" * 64
"""The hash before the first entry."""

Outcome = Literal["done", "denied", "failed"]


class Draft(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that is to be written down. `node`: whose kernel saw it. `user`, `pid`: who asked; `via`: the node from which he did, if it was another.
    `act`: the operation; `what`: on what, and why not."""

    at_ms: int
    node: str
    user: str
    act: str
    what: str
    outcome: Outcome
    pid: int = 0
    via: str = ""
    times: int = 1


class Entry(msgspec.Struct, frozen=True):
    """At /audit/<number, 12 digits>."""

    number: int
    before: str
    """Hash of the entry before."""
    said: Draft

    def hash(self) -> str:
        """Return the SHA-256 of this entry as it is written."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()


class Head(msgspec.Struct, frozen=True):
    """At /audit/head: the newest entry, and from which on they are kept."""

    number: int = 0
    hash: str = NONE
    first: int = 1


class Seen(NamedTuple):
    """A head that a kernel has seen, and remembers by itself."""

    number: int
    hash: str


def key_of(number: int) -> str:
    return f"{PREFIX}{number:012d}"


def follow(head: Head, said: Draft, most: int) -> tuple[Entry, Head, tuple[str, ...]]:
    """Return the next entry, the head with it, and the keys of at most `most` old entries that go."""
    short = msgspec.structs.replace(said, what=said.what[:AUDIT_TEXT_MAX], user=said.user[:AUDIT_TEXT_MAX], act=said.act[:AUDIT_TEXT_MAX])
    entry = Entry(head.number + 1, head.hash, short)
    first = min(max(head.first, entry.number - AUDIT_KEPT + 1), head.first + most)
    return entry, Head(entry.number, entry.hash(), first), tuple(key_of(number) for number in range(head.first, first))


def fault(head: Head, entries: Sequence[Entry], seen: Seen | None) -> str:
    """Return what is wrong with a log, "" if nothing is. `entries`: all that are kept, the oldest first. `seen`: what this side remembers."""
    numbers = [entry.number for entry in entries]
    if numbers != list(range(head.first, head.number + 1)):
        lacking = sorted(set(range(head.first, head.number + 1)).difference(numbers))
        return f"entry {lacking[0]} of the audit log is missing" if lacking else "the audit log has entries that do not belong to it"
    for before, entry in itertools.pairwise(entries):
        if entry.before != before.hash():
            return f"entry {before.number} of the audit log has been changed, or one was put in after it"
    if (entries[-1].hash() if entries else NONE) != head.hash and head.number:
        return f"entry {head.number} of the audit log, the newest, has been changed"
    if seen is not None and seen.number > head.number:
        return f"the audit log ends with entry {head.number}, and entry {seen.number} has been seen: what came later was taken away"
    if seen is not None and seen.number >= head.first and entries[seen.number - head.first].hash() != seen.hash:
        return f"entry {seen.number} of the audit log, or an earlier one, is not what was seen when it was written: the log was made anew"
    return ""


class Waiting:
    """What one kernel has to write down and has not yet."""

    def __init__(self) -> None:
        self._drafts: dict[tuple[object, ...], Draft] = {}
        self._repeated: dict[tuple[object, ...], tuple[int, Draft | None]] = {}
        """Of refusals: until when the same is only counted, and what has been so far."""
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._drafts)

    def add(self, said: Draft) -> None:
        """Keep it, or count it to one like it that waits, or, if it is a refusal, that was written lately. Where too many wait the newest are only counted."""
        key = _alike(said)
        if key in self._repeated:
            until_ms, known = self._repeated[key]
            self._repeated[key] = (until_ms, _counted(known, said))
        elif key in self._drafts or len(self._drafts) < AUDIT_WAITING_MAX:
            self._drafts[key] = _counted(self._drafts.get(key), said)
        else:
            self._dropped += said.times

    def take(self, now_ms: int) -> Draft | None:
        """Take out the oldest; None if there is none. Who cannot write it gives it back."""
        for key, (until_ms, known) in list(self._repeated.items()):
            if now_ms >= until_ms or until_ms > now_ms + AUDIT_REPEAT_MS:  # or the clock was set back
                del self._repeated[key]
                if known is not None:
                    self.add(known)
        if not self._drafts:
            return None
        key = next(iter(self._drafts))
        said = self._drafts.pop(key)
        if said.outcome == "denied" and len(self._repeated) < AUDIT_WAITING_MAX:
            self._repeated[key] = (now_ms + AUDIT_REPEAT_MS, None)
        if self._dropped:
            what = f"{said.what} (and {self._dropped} more for which there was no room)"
            said, self._dropped = msgspec.structs.replace(said, what=what), 0
        return said

    def give_back(self, said: Draft) -> None:
        """It could not be written: it is the oldest again."""
        key = _alike(said)
        _until, later = self._repeated.pop(key, (0, None))
        newer = self._drafts.pop(key, later)
        self._drafts = {key: said if newer is None else _counted(said, newer), **self._drafts}


def _alike(said: Draft) -> tuple[object, ...]:
    return (said.node, said.user, said.act, said.what, said.outcome, said.pid, said.via)


def _counted(known: Draft | None, said: Draft) -> Draft:
    return said if known is None else msgspec.structs.replace(known, times=known.times + said.times)
