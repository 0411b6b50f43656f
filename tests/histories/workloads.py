"""Workloads: what a client of each does, over and over. What it asks and hears goes into the history; judge.py says what that must be like."""

import os
import queue
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from tests.histories import bank
from tests.histories.doors import Store, Told, told
from unios.client import processes
from unios.client.connection import Connection
from unios.client.synchronisation.election import Election
from unios.client.synchronisation.exchange import Queue
from unios.client.synchronisation.lock import Lock
from unios.client.synchronisation.rwlock import RWLock, Side
from unios.errors import NotFound, Unavailable
from unios.store.model import Compare, Delete, Put, Range, RangeResult, Record
from unios.wire.operations import ProcessView, Program

TURN_S: Final = 5.0
"""Objects that grow are followed by new ones after so long."""
KEYS: Final = 2
"""Objects of a workload that are in use at a time."""
LAST_ITEMS_MAX: Final = 1_000
ROOT: Final = "/histories"
PROCESSES_MAX: Final = 200
"""That one client submits: records of ended ones are kept for 1,000."""

EFFECTS: Final = (
    'exec 2>/dev/null; for ((i = 0; i < $4; i++)); do printf "%d %d" $$ $UNIOS_INCARNATION >/dev/udp/$1/$2 || :; sleep 0.05; done; exit $3'
)
"""A program of bash that tells its pid and incarnation to somebody outside, over and over: host, port, exit code, how often."""


class Pen:
    """Writes what one client asks and hears. `write(number, workload, key, action, argument)` and `end`."""

    def ask(self, workload: str, key: str, action: str, argument: Any, work: Callable[[], Told]) -> Told:
        raise NotImplementedError


class Workload:
    """What one client does of one kind, by way of one node."""

    name = ""

    def __init__(self, home: Path, node: str, pen: Pen, rng: Random, witness: tuple[str, int] = ("", 0)) -> None:
        self.home, self.node, self.pen, self.rng, self.witness = home, node, pen, rng, witness
        self.made = 0
        self.life = rng.randrange(1, 1 << 31)

    def key(self) -> str:
        return f"{self.name}{self.rng.randrange(KEYS)}"

    def turning(self) -> str:
        """Return a key that is another one every TURN_S."""
        return f"{self.key()}-{int(time.monotonic() / TURN_S)}"

    def fresh(self) -> int:
        """Return what nobody else writes."""
        self.made += 1
        return self.life * 100_000 + self.made

    def ask(self, key: str, action: str, argument: Any, work: Callable[[], Any]) -> Told:
        return self.pen.ask(self.name, key, action, argument, lambda: told(work))

    def turn(self) -> None:
        """Ask for one thing, or a few."""
        raise NotImplementedError

    def last(self, keys: Iterable[str]) -> None:
        """Look at these objects once more, when all has healed."""


class Register(Workload):
    name = "register"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.store = Store(self.home, self.node)
        self.seen: dict[str, int | None] = {}

    def turn(self) -> None:
        key = self.turning()
        path = f"{ROOT}/{key}"
        match self.rng.randrange(4):
            case 0:
                value = self.fresh()
                self.ask(key, "write", value, lambda: self.store.transact((), [Put(path, b"%d" % value)]) and None)
            case 1:
                expected, value = self.seen.get(key), self.fresh()
                self.ask(key, "swap", [expected, value], lambda: self._swap(key, path, expected, value))
            case _:
                self.ask(key, "read", None, lambda: self._read(key, path))

    def last(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.ask(key, "read", None, lambda key=key: self._read(key, f"{ROOT}/{key}"))

    def _read(self, key: str, path: str) -> int | None:
        (found,) = self.store.read(path)
        self.seen[key] = int(found[path].value) if path in found else None
        return self.seen[key]

    def _swap(self, key: str, path: str, expected: int | None, value: int) -> list[Any]:
        compare = Compare(path, "version", "==", 0) if expected is None else Compare(path, "value", "==", b"%d" % expected)
        found = self.store.transact([compare], [Put(path, b"%d" % value)], [Range(path)])
        if found.succeeded:
            self.seen[key] = value
            return [True, None]
        (part,) = found.results
        assert isinstance(part, RangeResult)
        self.seen[key] = int(part.records[0].value) if part.records else None
        return [False, self.seen[key]]


class Set(Workload):
    """Elements are records below one path."""

    name = "set"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.store = Store(self.home, self.node)
        self.own: list[tuple[str, int]] = []

    def turn(self) -> None:
        key = self.turning()
        match self.rng.randrange(5):
            case 0 if self.own and self.own[0][0] == key:
                _key, element = self.own.pop(0)
                self.ask(key, "remove", element, lambda: self._remove(key, element))
            case 0 | 1:
                element = self.fresh()
                if self.ask(key, "add", element, lambda: self.store.transact((), [Put(f"{ROOT}/{key}/{element}", b"")]) and None)[0] == "ok":
                    self.own = [one for one in self.own if one[0] == key] + [(key, element)]
            case _:
                self.ask(key, "read", None, lambda: self._read(key))

    def last(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.ask(key, "read", None, lambda key=key: self._read(key))

    def _remove(self, key: str, element: int) -> None:
        self.store.transact((), [Delete(f"{ROOT}/{key}/{element}")])

    def _read(self, key: str) -> list[int]:
        (found,) = self.store.read(f"{ROOT}/{key}/", prefix=True)
        return sorted(int(path.rsplit("/", 1)[1]) for path in found)


class Lists(Workload):
    """Transactions over lists: what was read is compared when it is written, else nothing is done."""

    name = "append"
    lists = ("a", "b", "c")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.store = Store(self.home, self.node)

    def key(self) -> str:
        return self.name

    def turn(self) -> None:
        names = [f"{name}-{int(time.monotonic() / TURN_S)}" for name in self.rng.sample(self.lists, self.rng.randrange(1, 4))]
        appends = {name: self.fresh() for name in names if self.rng.random() < 0.5}
        self.ask(self.key(), "do", appends, lambda: self.do(names, lambda _items: appends))

    def last(self, keys: Iterable[str]) -> None:
        for name in keys:
            self.ask(self.key(), "do", {}, lambda name=name: self.do([name], lambda _items: {}))

    def do(self, names: Iterable[str], plan: Callable[[dict[str, list[Any]]], dict[str, Any]]) -> dict[str, list[Any]]:
        """Read the lists and append to them what `plan` makes of that, in one transaction; return what was read. Unavailable if one has changed meanwhile."""
        paths = {name: f"{ROOT}/{self.name}/{name}" for name in names}
        found = self.store.read(*paths.values())
        records: dict[str, Record | None] = {name: part.get(path) for (name, path), part in zip(paths.items(), found, strict=True)}
        items: dict[str, list[Any]] = {name: msgspec.json.decode(record.value) if record else [] for name, record in records.items()}
        appends = plan(items)
        if appends:
            values = {paths[name]: msgspec.json.encode([*items[name], item]) for name, item in appends.items()}
            if not self.store.put_if({paths[name]: record for name, record in records.items()}, values):
                raise Unavailable("another was first")
        return items


class Bank(Lists):
    """Two accounts of one bank, and a transfer that leaves none in debt."""

    name = "bank"
    accounts = ("a", "b", "c", "d")

    def key(self) -> str:
        return f"bank-{int(time.monotonic() / TURN_S)}"

    def turn(self) -> None:
        key = self.key()
        if self.rng.random() < 0.5:
            self.look(key)
            return
        source, target = self.rng.sample(self.accounts, 2)
        amount, number = self.rng.randrange(1, 6), self.fresh()
        appends = {f"{key}/{source}": [number, -amount], f"{key}/{target}": [number, amount]}

        def plan(items: dict[str, list[Any]]) -> dict[str, Any]:
            if bank.balance(items[f"{key}/{source}"]) < amount:
                raise Unavailable("there is not so much")
            return appends

        self.ask(key, "do", appends, lambda: self.do(appends, plan))

    def look(self, key: str) -> None:
        self.ask(key, "do", {}, lambda: self.do([f"{key}/{account}" for account in self.accounts], lambda _items: {}))

    def last(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.look(key)


class Locks(Workload):
    """Acquire, rely on it for a moment, release."""

    name = "lock"
    wait_s = 3.0

    def make(self, key: str) -> tuple[str, Lock | Side]:
        return "write", Lock(key, via=Connection(self.home, self.node))

    def turn(self) -> None:
        key = self.key()
        kind, lock = self.make(key)
        outcome, token, _note = self.ask(key, "acquire", kind, lambda: list(lock.token or ()) if lock.acquire(timeout=self.wait_s) else None)
        if outcome != "ok" or token is None:
            return
        for _ in range(self.rng.randrange(3)):
            time.sleep(self.rng.uniform(0, 0.05))
            if self.ask(key, "check", token, lambda: lock.check() and None)[2] == "lost":
                return
        self.ask(key, "release", token, lock.release)


class RWLocks(Locks):
    name = "rwlock"

    def make(self, key: str) -> tuple[str, Lock | Side]:
        lock = RWLock(key, via=Connection(self.home, self.node))
        return ("read", lock.read) if self.rng.random() < 0.6 else ("write", lock.write)


class Elections(Locks):
    name = "election"

    def make(self, key: str) -> tuple[str, Lock | Side]:
        return "write", Election(key, via=Connection(self.home, self.node))


class Queues(Workload):
    name = "queue"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.queues: dict[str, Queue] = {}

    def of(self, key: str) -> Queue:
        if key not in self.queues:
            self.queues[key] = Queue(key, via=Connection(self.home, self.node))
        return self.queues[key]

    def turn(self) -> None:
        key = self.turning()
        if self.rng.random() < 0.5:
            item = self.fresh()
            self.ask(key, "put", item, lambda: self.of(key).put(item))
        else:
            self.ask(key, "get", None, lambda: self._get(key))

    def last(self, keys: Iterable[str]) -> None:
        for key in keys:
            for _ in range(LAST_ITEMS_MAX):
                if self.ask(key, "get", None, lambda key=key: self._get(key))[1] is None:
                    break

    def _get(self, key: str) -> Any:
        try:
            return self.of(key).get(block=False)
        except queue.Empty:
            return None


class Table(Workload):
    """Processes that have effects, seen and killed while they run."""

    name = "table"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connection = Connection(self.home, self.node, role="history")
        self.own: list[int] = []

    def turn(self) -> None:
        if len(self.own) < PROCESSES_MAX and self.rng.random() < 0.15:
            self._submit()
        elif self.own and self.rng.random() < 0.05:
            pid = self.rng.choice(self.own[-3:])
            self.ask("table", "kill", pid, lambda: processes.signal(self.connection, pid, 15) and None)
        elif self.own and self.rng.random() < 0.7:
            pid = self.rng.choice(self.own[-4:])
            self.ask("table", "view", pid, lambda: self._view(pid))
        else:
            self.ask("table", "list", None, lambda: [_seen(one) for one in processes.list_processes(self.connection, ended=True)])

    def _submit(self) -> None:
        name, code = f"{self.node}-{self.life}-{len(self.own)}", self.rng.randrange(0, 100)
        host, port = self.witness
        words = ("bash", "-c", EFFECTS, name, host, str(port), str(code), str(self.rng.randrange(5, 80)))
        program = Program(tuple(word.encode() for word in words), env=((b"PATH", os.environb[b"PATH"]),), cwd=b"/")
        outcome, pid, _note = self.ask("table", "submit", [name, code], lambda: processes.submit(self.connection, program).pid)
        if outcome == "ok":
            self.own.append(pid)

    def _view(self, pid: int) -> list[Any]:
        try:
            return _seen(processes.view(self.connection, pid))
        except NotFound:
            return [pid, 0, "gone", None]

    def last(self, keys: Iterable[str]) -> None:
        """Wait for the ends of all, and list them."""
        for one in processes.list_processes(self.connection):
            processes.wait(self.connection, one.pid, timeout_s=30)
        self.pen.ask(
            self.name, "table", "list", None, lambda: ("ok", [_seen(one) for one in processes.list_processes(self.connection, ended=True)], "last")
        )


def _seen(one: ProcessView) -> list[Any]:
    return [one.pid, one.incarnation, one.state, one.exit_code]


ALL: Final[dict[str, type[Workload]]] = {one.name: one for one in (Register, Set, Lists, Bank, Locks, RWLocks, Elections, Queues, Table)}
