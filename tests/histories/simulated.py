"""Objects on virtual time whose clients' histories the checkers must judge rightly: right ones, and ones that are wrong in a planted way.

A client asks; after a random time the object does it; after another the client hears of it. Of some it never hears: then it was done, or will be, or not, and
who asked is somebody else from then on.
"""

import heapq
import itertools
from collections import deque
from random import Random
from typing import Any

from tests.histories.history import Asked, Began, Ended, Outcome

Done = tuple[Outcome, Any, str]


class Thing:
    """One object and what its clients do with it. `defect`: what is wrong with it; `rate`: how often that shows."""

    workload = ""
    defects: tuple[str, ...] = ()

    def __init__(self, rng: Random, defect: str = "", rate: float = 0.3) -> None:
        assert defect in ("", "twice", *self.defects)
        self.rng, self.defect, self.rate = rng, defect, rate
        self._count = 0

    def wrong(self, defect: str) -> bool:
        return self.defect == defect and self.rng.random() < self.rate

    def fresh(self) -> int:
        self._count += 1
        return self._count

    def ask(self, client: str) -> tuple[str, Any]:
        """Return what a client does next."""
        raise NotImplementedError

    def do(self, client: str, action: str, argument: Any) -> Done:
        """Do it; return how it ends."""
        raise NotImplementedError

    def unknown(self, client: str) -> None:
        """This client is no more."""


class Register(Thing):
    workload = "register"
    defects = ("stale read", "lost write", "swap that does not compare")

    def __init__(self, rng: Random, defect: str = "", rate: float = 0.3) -> None:
        super().__init__(rng, defect, rate)
        self.values: list[int | None] = [None]

    def ask(self, client: str) -> tuple[str, Any]:
        match self.rng.randrange(4):
            case 0:
                return "write", self.fresh()
            case 1:
                return "swap", [self.values[-1], self.fresh()]
        return "read", None

    def do(self, client: str, action: str, argument: Any) -> Done:
        now = self.values[-1]
        if action == "read":
            return "ok", self.rng.choice(self.values) if self.wrong("stale read") else now, ""
        if action == "swap":
            if argument[0] != now and not self.wrong("swap that does not compare"):
                return "ok", [False, now], ""
            self.values.append(argument[1])
            return "ok", [True, None], ""
        if not self.wrong("lost write"):
            self.values.append(argument)
        return "ok", None, ""


class Set(Thing):
    workload = "set"
    defects = ("lost element", "read of a part", "element that comes back")

    def __init__(self, rng: Random, defect: str = "", rate: float = 0.3) -> None:
        super().__init__(rng, defect, rate)
        self.elements: set[int] = set()
        self.removable: set[int] = set()
        self.gone: set[int] = set()

    def ask(self, client: str) -> tuple[str, Any]:
        match self.rng.randrange(5):
            case 0 if self.removable:
                return "remove", self.removable.pop()
            case 1 | 2:
                return "add", self.fresh()
        return "read", None

    def do(self, client: str, action: str, argument: Any) -> Done:
        if action == "add":
            if not self.wrong("lost element"):
                self.elements.add(argument)
                self.removable.add(argument)
        elif action == "remove":
            self.elements.discard(argument)
            self.gone.add(argument)
        else:
            found = sorted(self.elements)
            if self.wrong("read of a part"):
                found = found[1:]
            if self.wrong("element that comes back"):
                found += sorted(self.gone)[:1]
            return "ok", found, ""
        return "ok", None, ""


class Queue(Thing):
    workload = "queue"
    defects = ("lost item", "item twice", "item out of order", "loss that nobody is told")

    def __init__(self, rng: Random, defect: str = "", rate: float = 0.3, losses: float = 0.02) -> None:
        super().__init__(rng, defect, rate)
        self.items: deque[int] = deque()
        self.losses = losses
        self.life = 0
        self.used_in: dict[str, int] = {}

    def ask(self, client: str) -> tuple[str, Any]:
        return ("put", self.fresh()) if self.rng.random() < 0.5 else ("get", None)

    def do(self, client: str, action: str, argument: Any) -> Done:
        if self.rng.random() < self.losses or self.wrong("loss that nobody is told"):
            self.items.clear()
            self.life += self.defect != "loss that nobody is told"
        if self.used_in.setdefault(client, self.life) != self.life:
            self.used_in[client] = self.life
            return "fail", None, "lost"
        if action == "put":
            if not self.wrong("lost item"):
                self.items.append(argument)
            return "ok", None, ""
        if len(self.items) > 1 and self.wrong("item out of order"):
            self.items.rotate(-1)
        if not self.items:
            return "ok", None, ""
        if self.wrong("item twice"):
            return "ok", self.items[0], ""
        return "ok", self.items.popleft(), ""


class Lock(Thing):
    """Readers together or one writer; a holder may lose it and hears so."""

    workload = "rwlock"
    defects = ("two writers", "token again", "reader beside a writer", "loss that its holder is not told")

    def __init__(self, rng: Random, defect: str = "", rate: float = 0.3) -> None:
        super().__init__(rng, defect, rate)
        self.held: dict[str, tuple[str, int]] = {}
        self.mine: dict[str, int] = {}
        self.token = 0

    def ask(self, client: str) -> tuple[str, Any]:
        if client in self.mine:
            return ("check" if self.rng.random() < 0.5 else "release"), [1, self.mine[client]]
        return "acquire", self.rng.choice(["read", "write"])

    def do(self, client: str, action: str, argument: Any) -> Done:
        if self.held and self.rng.random() < (0.3 if self.defect == "loss that its holder is not told" else 0.05):
            self.held.pop(self.rng.choice(sorted(self.held)))
        if action == "acquire":
            return self._acquire(client, argument)
        held = self.held.get(client)
        if held is None and self.defect != "loss that its holder is not told":
            self.mine.pop(client, None)
            return "fail", None, "lost"
        if action == "release":
            self.mine.pop(client, None)
            self.held.pop(client, None)
        return "ok", None, ""

    def _acquire(self, client: str, kind: str) -> Done:
        writers = [kind for kind, _token in self.held.values() if kind == "write"]
        free = not self.held or (kind == "read" and not writers)
        if not free and not (kind == "read" and self.wrong("reader beside a writer")) and not (kind == "write" and self.wrong("two writers")):
            return "ok", None, ""
        if not self.wrong("token again"):
            self.token += 1
        self.held[client] = kind, self.token
        self.mine[client] = self.token
        return "ok", [1, self.token], ""

    def unknown(self, client: str) -> None:
        self.mine.pop(client, None)


class Lists(Thing):
    """Transactions that read some lists and append to some of them. Done at one moment, if nothing is wrong with it."""

    workload = "append"
    defects = ("lost append", "old lists", "reads at two moments", "said not to be done", "order of its own")
    keys = ("a", "b", "c")

    def __init__(self, rng: Random, defect: str = "", rate: float = 0.3) -> None:
        super().__init__(rng, defect, rate)
        self.past: list[dict[str, list[Any]]] = [{key: [] for key in self.keys}]

    def ask(self, client: str) -> tuple[str, Any]:
        keys = self.rng.sample(self.keys, self.rng.randrange(1, 3))
        return "do", {"reads": sorted({*keys, self.rng.choice(self.keys)}), "appends": {key: self.fresh() for key in keys if self.rng.random() < 0.6}}

    def do(self, client: str, action: str, argument: Any) -> Done:
        now = {key: list(items) for key, items in self.past[-1].items()}
        found = self.rng.choice(self.past[-4:]) if self.wrong("old lists") else now
        result = {key: list(found[key]) for key in argument["reads"]}
        if len(result) > 1 and self.wrong("reads at two moments"):
            key = self.rng.choice(sorted(result))
            result[key] = list(self.past[max(0, len(self.past) - 3)][key])
        for key, item in argument["appends"].items():
            if self.wrong("order of its own"):
                now[key].insert(max(0, len(now[key]) - 1), item)
            elif not self.wrong("lost append"):
                now[key].append(item)
        self.past.append(now)
        return ("fail" if self.wrong("said not to be done") else "ok"), result, ""


THINGS: tuple[type[Thing], ...] = (Register, Set, Queue, Lock, Lists)


def history(thing: Thing, rng: Random, *, clients: int = 4, count: int = 60, unknown: float = 0.08) -> list[Asked]:
    """Let the clients use it until they have asked so often; return what they asked and heard."""
    numbers = itertools.count()
    events: list[tuple[int, int, str, Any]] = [(rng.randrange(1, 50), next(numbers), "ask", f"c{number}") for number in range(clients)]
    heapq.heapify(events)
    begun: list[Began] = []
    ends: dict[int, Ended] = {}

    def at(when: int, kind: str, what: Any) -> None:
        heapq.heappush(events, (when, next(numbers), kind, what))

    while events:
        now, _number, kind, what = heapq.heappop(events)
        if kind == "ask" and len(begun) < count:
            action, argument = thing.ask(what)
            told = argument["appends"] if thing.workload == "append" else argument
            one = Began(what, len(begun), thing.workload, "x", action, told, now)
            begun.append(one)
            lost = rng.random() < unknown
            if not lost or rng.random() < 0.6:
                at(now + rng.randrange(1, 40 if not lost else 300), "do", (one, argument, lost))
                if lost and thing.defect == "twice":
                    at(now + rng.randrange(300, 600), "do", (one, argument, lost))
            if lost:
                thing.unknown(what)
                if rng.random() < 0.5:
                    ends[one.number] = Ended(what, one.number, "unknown", None, now + 60)
                at(now + 60, "ask", what + "'")
        elif kind == "do":
            one, argument, lost = what
            outcome, result, note = thing.do(one.client, one.action, argument)
            if lost:
                thing.unknown(one.client)
                continue
            end = now + rng.randrange(1, 40)
            ends[one.number] = Ended(one.client, one.number, outcome, result, end, note)
            at(end + rng.randrange(0, 20), "ask", one.client)
    return [Asked(one, ends.get(one.number)) for one in begun]
