"""Memory: what a session says of itself and remembers of what it used, beside what it holds."""

import os
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from unios.client.synchronisation.pending import Pending
from unios.errors import DataLost, LeaseLost
from unios.wire.synchronising import Ask, Held, Token

QUEUE_LOST: Final = {
    "put": "outcome-unknown",
    "get": "data-lost",
    "join": "data-lost",
    "done": "data-lost",
    "release": "outcome-unknown",
    "take": "data-lost",
}
_local = threading.local()


def taken(ask: Ask, token: Token, units: int) -> Held | None:
    """Return what is held once a question is granted; of a semaphore so many units, and a signal is not held."""
    if ask.kind != "semaphore":
        return Held(ask.kind, ask.name, token, ask.size, 0, ask.actor)
    return Held(ask.kind, ask.name, token, units, ask.spec, ask.actor) if units else None


def naming(held: dict[Token, Held], ask: Ask, under_way: Iterable[Pending]) -> Ask:
    """Return the question with the token of the unit that a release gives back first, if one is held here: one of this thread's if there is, and none that
    another release gives back already. Two who mean the same unit would leave one of which only the manager knows."""
    if ask.op != "release":
        return ask
    named = _named(ask.name, under_way)
    free = [one for token, one in held.items() if one.kind == ask.kind and one.name == ask.name and _text(token) not in named]
    if not free:
        return ask
    token = min(free, key=lambda one: one.actor != ask.actor).token
    return msgspec.structs.replace(ask, number=token.number, text=str(token.epoch))


def given_for(held: dict[Token, Held], token: Token, pending: Pending, under_way: Iterable[Pending]) -> Token:
    """Return what is given back for one who was interrupted: what he was granted, or another unit if a release has taken that for its own."""
    ask, answer = pending.ask, pending.answer
    if ask.kind != "semaphore" or (answer is not None and not answer.value):  # a signal is held by nobody
        return token
    named = _named(ask.name, under_way)
    if _text(token) not in named and (token in held or answer is None):
        return token
    return next((other for other, one in held.items() if one.kind == ask.kind and one.name == ask.name and _text(other) not in named), token)


def _named(name: str, under_way: Iterable[Pending]) -> set[tuple[str, int]]:
    return {(one.ask.text, one.ask.number) for one in under_way if one.ask.op == "release" and one.ask.name == name}


def _text(token: Token) -> tuple[str, int]:
    return str(token.epoch), token.number


def without_units(held: dict[Token, Held], ask: Ask) -> dict[Token, Held]:
    """Return what is held after units of a semaphore have been given back."""
    left, count = dict(held), ask.size
    for token, one in sorted(held.items(), key=lambda item: _text(item[0]) != (ask.text, ask.number)):
        if one.kind == "semaphore" and one.name == ask.name and count > 0:
            del left[token]
            if one.size > count:
                left[token] = msgspec.structs.replace(one, size=one.size - count)
            count -= one.size
    return left


def actor() -> str:
    """Return how this thread is called in messages."""
    found: str | None = getattr(_local, "actor", None)
    if found is None:
        found = _local.actor = f"{threading.current_thread().name}, thread {threading.get_native_id()}"
    return found


def label() -> str:
    """Return how this process is called in messages."""
    pid, node = os.environ.get("UNIOS_PID", ""), os.uname().nodename
    return f"process {pid} on {node}" if pid else f"Linux process {os.getpid()} on {node}"


def linux_process() -> tuple[str, int, int, int]:
    """Return boot id, pid namespace, pid and start time of this process; empty where Linux does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        with open("/proc/self/stat", errors="replace") as file:
            start = int(file.read().rsplit(")", 1)[1].split()[19])
        return boot, os.stat("/proc/self/ns/pid").st_ino, os.getpid(), start
    except (OSError, ValueError, IndexError):
        return "", 0, 0, 0


class Volatile:
    """What is in the manager's memory alone: items of queues, and what semaphores were given beyond what they began with."""

    def __init__(self) -> None:
        self._used: set[tuple[str, str]] = set()
        self._lost: set[tuple[str, str]] = set()
        self._units: Counter[tuple[str, str]] = Counter()
        """Units that went back when a lease ended and that their takers have still to release, by semaphore and actor."""

    def lapsed(self, held: dict[Token, Held]) -> None:
        """A lease has ended with this held: the manager has taken the units back."""
        for one in held.values():
            if one.kind == "semaphore":
                self._units[one.name, one.actor] += one.size

    def check(self, held: dict[Token, Held], ask: Ask) -> None:
        """Raise, once, DataLost if what a question is about was lost, LeaseLost if it gives back units that have gone back already."""
        if self.is_lost(ask.kind, ask.name):
            raise DataLost(f"what {ask.kind} {ask.name} held was lost with the service that kept it")
        if ask.op == "release" and self._units and (size := self._gone(held, ask)):
            raise LeaseLost(
                f"{size} units of semaphore {ask.name} were lost: their lease had ended, and others may hold them; nothing was given back"
            )

    def _gone(self, held: dict[Token, Held], ask: Ask) -> int:
        """Return how many of the units to be released have gone back, and forget those. Another's only if this process holds none that may be meant."""
        keys = [(ask.name, ask.actor)]
        if not any(one.kind == "semaphore" and one.name == ask.name for one in held.values()):
            keys += [key for key in self._units if key[0] == ask.name and key != keys[0]]
        left = ask.size
        for key in keys:
            gone = min(left, self._units[key])
            left -= gone
            self._units[key] -= gone
            if not self._units[key]:
                del self._units[key]
        return ask.size - left

    def used(self, ask: Ask) -> None:
        if ask.kind == "queue" or (ask.kind == "semaphore" and not ask.spec):
            self._used.add((ask.kind, ask.name))

    def signalled(self, ask: Ask) -> None:
        self._used.add((ask.kind, ask.name))

    def manager_changed(self) -> None:
        self._lost |= self._used
        self._used = set()

    def is_lost(self, kind: str, name: str) -> bool:
        """Say once that it was lost."""
        if (kind, name) not in self._lost:
            return False
        self._lost.discard((kind, name))
        return True

    def fails(self, ask: Ask) -> str:
        """Return the code of the error with which a question ends that was put to a manager that is gone; empty: it is put again. That says it once."""
        code = QUEUE_LOST.get(ask.op, "")
        return code if code and self.is_lost(ask.kind, ask.name) else ""
