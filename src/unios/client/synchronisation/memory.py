"""Memory: what a session says of itself and remembers of what it used, beside what it holds."""

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from unios.client.synchronisation.pending import Pending
from unios.counted import counted
from unios.errors import DataLost, LeaseLost
from unios.wire.synchronising import YES, Answer, Ask, Held, Token

QUEUE_LOST: Final = {
    "put": "outcome-unknown",
    "get": "data-lost",
    "join": "data-lost",
    "done": "data-lost",
    "release": "outcome-unknown",
    "take": "data-lost",
}
ACTORS_MAX: Final = 1_024
"""Threads and tasks that are told apart by the items that they have got; over it they count together."""
NAME_MAX: Final = 80
"""Characters of the name of a thread or task that messages say."""
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


def with_units_left(held: dict[Token, Held], token: Token, units: int) -> dict[Token, Held]:
    """Return what is held after somebody else has given back units that were granted under a token."""
    return {key: msgspec.structs.replace(one, size=units) if key == token else one for key, one in held.items() if key != token or units > 0}


def units(held: dict[Token, Held]) -> int:
    """Return how many units of semaphores are held."""
    return sum(one.size for one in held.values() if one.kind == "semaphore")


def naming_none(ask: Ask, size: int) -> Ask:
    """Return a release of so many that names no unit; any other question as it is."""
    return msgspec.structs.replace(ask, size=size, number=0, text="") if ask.op == "release" else ask


def item_lost(queue: str) -> str:
    """Return what is said of an item that is said to be done with too late."""
    return f"an item of queue {queue} was not done with in time: the lease had ended, and it counts as done already"


def actor() -> str:
    """Return how this thread is called in messages."""
    found: str | None = getattr(_local, "actor", None)
    if found is None:
        found = _local.actor = f"{threading.current_thread().name[:NAME_MAX]}, thread {threading.get_native_id()}"
    return found


def who() -> int:
    """Return which task of a running loop, or else which thread this is; no two that live have the same."""
    asyncio = sys.modules.get("asyncio")  # a program that has not loaded it has no tasks
    task = asyncio.current_task() if asyncio is not None and asyncio._get_running_loop() is not None else None
    return -id(task) if task is not None else threading.get_ident()


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
        self._got: Counter[tuple[str, str, str]] = Counter()
        """Items of queues that were got and not said to be done with, by kind, name and actor."""
        self._lapsed: Counter[tuple[str, str, str]] = Counter()
        """Of units and items, what went back when a lease ended and whose takers have still to give it back."""

    @property
    def has_items(self) -> bool:
        """Whether items were got that are not said to be done with."""
        return bool(self._got)

    def lapsed(self, held: dict[Token, Held]) -> None:
        """A lease has ended with this held: the manager has taken the units back, and takes the items for done."""
        for one in held.values():
            if one.kind == "semaphore":
                self._lapsed[one.kind, one.name, one.actor] += one.size
        for key, count in self._got.items():
            self._lapsed[key if len(self._lapsed) < ACTORS_MAX else (*key[:2], "")] += count
        self._got.clear()

    def check(self, held: dict[Token, Held], ask: Ask) -> None:
        """Raise, once, DataLost if what a question is about was lost, LeaseLost if it gives back what has gone back already."""
        if self.is_lost(ask.kind, ask.name):
            raise DataLost(f"what {ask.kind} {ask.name} held was lost with the service that kept it")
        if self._lapsed and ask.op in ("release", "done"):
            holds = any(key[0] == ask.kind and key[1] == ask.name for key in self._got)
            holds = holds or any(one.kind == ask.kind and one.name == ask.name for one in held.values())
            size = _taken_from(self._lapsed, ask, others=not holds)
            if size and ask.op == "done":
                raise LeaseLost(item_lost(ask.name))
            if size:
                raise LeaseLost(
                    f"{counted(size, 'unit')} of semaphore {ask.name} {'was' if size == 1 else 'were'} lost: "
                    f"the lease had ended, and others may hold {'it' if size == 1 else 'them'}; nothing was given back"
                )

    def answered(self, ask: Ask) -> None:
        """An item was got, or is done with."""
        key = (ask.kind, ask.name, ask.actor)
        if ask.op == "get":
            self._got[key if len(self._got) < ACTORS_MAX else (ask.kind, ask.name, "")] += 1
        elif ask.op == "done":
            _taken_from(self._got, ask, others=True)

    def returned(self, ask: Ask, answer: Answer | None = None) -> None:
        """What was got, if it was, goes back."""
        if ask.op == "back" or (ask.op == "get" and answer is not None and answer.outcome == YES):
            _taken_from(self._got, ask, others=True)

    def without_done(self, ask: Ask) -> int:
        """Note that an item which is being said to be done with counts as done; return 0 then, else what the question asks for."""
        return ask.size - _taken_from(self._got, ask, others=True) if ask.op == "done" else ask.size

    def used(self, ask: Ask) -> None:
        if ask.kind == "queue" or (ask.kind == "semaphore" and not ask.spec):
            self._used.add((ask.kind, ask.name))

    def signalled(self, ask: Ask) -> None:
        self._used.add((ask.kind, ask.name))

    def manager_changed(self) -> None:
        self._lost |= self._used
        self._used = set()
        self._got.clear()

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


def _taken_from(counts: Counter[tuple[str, str, str]], ask: Ask, *, others: bool) -> int:
    """Count down what a question gives back, of its actor's first, then with `others` of anybody's; return how many there were."""
    keys = [(ask.kind, ask.name, ask.actor)]
    if others:
        keys += [key for key in counts if key[:2] == keys[0][:2] and key != keys[0]]
    left = ask.size
    for key in keys:
        gone = min(left, counts[key])
        left -= gone
        counts[key] -= gone
        if not counts[key]:
            del counts[key]
    return ask.size - left
