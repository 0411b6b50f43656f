"""One run of the simulation of calls: callers and a port whose conversations (wire/conversations.py) outlive connections, on virtual time; then calm.

Invariants: a request is done at most once, unless it may be done again; it ends exactly once; one that ends well was done; where nothing was forgotten all
end well. Each method under `STEPS` is something that a schedule can do, with its arguments.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tests.sim.schedule import Schedule, Steps
from tests.sim.watch_lines import Pipe
from tests.sim.world import World
from unios.wire.conversations import Again, Answering, Asked, Asking, Begun
from unios.wire.messages import Ack, Fault, Hello, Reply, Request
from unios.wire.values import Value

TROUBLE_MS: Final = 2_000.0
CALM_MS: Final = 3_000.0
VERSION: Final = (1, 1)
STEPS: Final = Steps()


def value(number: int) -> Value:
    return Value(msgspec.Raw(msgspec.msgpack.encode(number)), ())


def number_of(found: Value | None) -> int:
    return int(msgspec.msgpack.decode(found.body)) if found is not None else -1


class Connection:
    """From a caller to the port: in order, each message once or not at all."""

    def __init__(self, world: World, name: str, number: int) -> None:
        self.rng = random.Random(f"{world.seed} {name} {number}")
        self.name = name
        self.is_closed = False
        self.up = Pipe(world, self, name, "port")
        self.down = Pipe(world, self, "port", name)


class Port:
    """Whoever answers. An effect takes place when a request begins, its answer comes later."""

    def __init__(self, run: "CallsRun") -> None:
        self.run = run
        self.incarnation = 1
        self.up = True
        self._sessions: dict[str, tuple[Answering, set[Connection]]] = {}

    def crash(self) -> None:
        """It dies; a new incarnation knows nobody."""
        self.up = False
        self.incarnation += 1
        self.forget()

    def forget(self) -> None:
        """All sessions are forgotten and their connections end."""
        for answering, connections in self._sessions.values():
            answering.leave()
            for connection in connections:
                connection.is_closed = True
        self._sessions.clear()

    def greet(self, session: str, connection: Connection) -> Hello:
        known = session in self._sessions
        self._sessions.setdefault(session, (Answering("u"), set()))[1].add(connection)
        return Hello(*VERSION, "program", {"incarnation": str(self.incarnation), "session": "known" if known else "new"})

    def hear(self, session: str, connection: Connection, message: Any) -> None:
        if session not in self._sessions:
            return
        answering = self._sessions[session][0]
        if isinstance(message, Ack):
            answering.acked(message.id, message.ids, message.open)
            return
        begun = answering.begin(message)
        if isinstance(begun, Again) and begun.message is not None:
            self._say(connection, begun.message, begun.value)
        elif isinstance(begun, Begun):
            self.run.effect(number_of(Value(message.body)), message.op)
            self.run.world.after(self.run.world.rng.expovariate(1 / 20.0), lambda: self._end(session, answering, message, begun))

    def _end(self, session: str, answering: Answering, request: Request, begun: Begun) -> None:
        there = self._sessions.get(session)
        if there is None or there[0] is not answering or begun.cancelled:
            return
        answer = value(number_of(Value(request.body)) * 1_000)
        answering.end(begun, Reply(request.id, answer.body), None if request.oneway else answer, keep=not request.oneway)
        if not request.oneway:
            for connection in sorted(there[1], key=lambda each: each.rng.random()):
                self._say(connection, Reply(request.id, answer.body), answer)

    def _say(self, connection: Connection, message: Reply | Fault, found: Value | None) -> None:
        if not connection.is_closed:
            caller = self.run.callers[connection.name]
            connection.down.push(lambda: caller.hear(connection, message, found))


class Caller:
    """A program on a node."""

    def __init__(self, run: "CallsRun", name: str) -> None:
        self.run, self.name = run, name
        self.asking = Asking(name)
        self.connection: Connection | None = None
        self._connections = 0
        self.asked: dict[int, tuple[int, Asked]] = {}
        """By id: the number that it carries."""
        self.ended: Counter[int] = Counter()
        self._connect()

    def _connect(self) -> None:
        """Look now and then whether there is a connection, and make one."""
        world = self.run.world
        world.after(world.rng.uniform(5, 30), self._connect)
        if self.connection is not None and not self.connection.is_closed:
            return
        if not (self.run.port.up and world.passes(self.name, "port") and world.passes("port", self.name)):
            return
        self._connections += 1
        self.connection = Connection(world, self.name, self._connections)
        again, failed = self.asking.greeted(self.run.port.greet(self.name, self.connection))
        self._say(self.asking.waiting())
        for asked in failed:
            self.ended[asked.id] += 1
        for asked in again:
            self._send(asked)

    def _say(self, message: Any) -> None:
        connection = self.connection
        if connection is not None and not connection.is_closed:
            connection.up.push(lambda: self.run.port.hear(self.name, connection, message))

    def _send(self, asked: Asked) -> None:
        if self.connection is not None and not self.connection.is_closed:
            asked.sent = True
            self._say(asked.request(self.asking.ack, (), 0))

    def ask(self, op: str, number: int) -> None:
        if self.asking.is_full or (op == "oneway" and (self.connection is None or self.connection.is_closed)):
            return
        asked = self.asking.ask(op, value(number), again=op == "again", oneway=op == "oneway")
        self.asked[asked.id] = (number, asked)
        self._send(asked)
        if op == "oneway":
            self.asking.left(asked)

    def hear(self, connection: Connection, message: Reply | Fault, found: Value | None) -> None:
        if connection is not self.connection:
            return
        asked = self.asking.heard(message, found)
        if asked is not None and asked.ended:
            self.ended[asked.id] += 1
        if (ack := self.asking.acknowledgement()) is not None:
            self._say(ack)


class CallsRun:
    """A port and its callers on the nodes of a schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self.world = World(schedule.seed)
        self.done: Counter[int] = Counter()
        self.forgotten = False
        self._numbers = 0
        self.port = Port(self)
        self.callers: dict[str, Caller] = {}
        for number in range(1, schedule.setup["nodes"] + 1):
            self.callers[f"n{number}"] = Caller(self, f"n{number}")
        for step in schedule.steps:
            self.world.after(step.at_ms, lambda step=step: STEPS.do(self, step))  # type: ignore[misc]

    @property
    def count(self) -> int:
        """How many requests were done."""
        return len(self.done)

    def effect(self, number: int, op: str) -> None:
        """A request has its effect."""
        self.world.say(f"port: does {op} {number}")
        self.done[number] += 1
        if self.done[number] > 1 and op != "again":
            self.world.fail(f"the {op} {number} is done twice")

    def _every(self, rounds: int, apart_ms: float, work: Callable[[], None]) -> None:
        work()
        if rounds > 1:
            self.world.after(2 * apart_ms * self.world.rng.random(), lambda: self._every(rounds - 1, apart_ms, work))

    @STEPS
    def ask(self, node: str, rounds: int = 5, apart_ms: float = 10.0) -> None:
        """A program asks so many times: what may be done once, what may be done again, and what is not answered."""

        def work() -> None:
            self._numbers += 1
            self.callers[node].ask(self.world.rng.choice(("call", "call", "again", "oneway")), self._numbers)

        self._every(rounds, apart_ms, work)

    @STEPS
    def break_lines(self, node: str) -> None:
        """A caller's connection ends, with all that is on its way."""
        connection = self.callers[node].connection
        if connection is not None:
            self.world.say(f"{node}: its connection ends")
            connection.is_closed = True

    @STEPS
    def cut(self, node: str, lasts_ms: float = 200.0) -> None:
        """As a cut of the network, and the connection is given up in it."""
        self.world.cut_off([(node, "port")], lasts_ms)
        self.world.after(lasts_ms / 2, lambda: self.break_lines(node))

    @STEPS
    def crash_port(self, lasts_ms: float = 100.0) -> None:
        """Whoever answers dies, and another one takes his place."""
        if self.port.up:
            self.world.say("port: dies")
            self.forgotten = True
            self.port.crash()
            self.world.after(lasts_ms, lambda: setattr(self.port, "up", True))

    @STEPS
    def forget(self) -> None:
        """Whoever answers has been without the connection for too long."""
        self.world.say("port: forgets its sessions")
        self.forgotten = True
        self.port.forget()

    @STEPS
    def slow(self, slower: float = 10.0, lasts_ms: float = 200.0) -> None:
        self.world.trouble(0.0, slower, 0.0, lasts_ms)

    def go(self) -> None:
        """Run it. Raises Violation."""
        self.world.run_until(TROUBLE_MS)
        self.world.say("-- the trouble is over")
        self.world.heal()
        self.port.up = True
        self.world.run_until(TROUBLE_MS + CALM_MS)
        for caller in self.callers.values():
            for id_, (number, asked) in caller.asked.items():
                self._check(caller, id_, number, asked)

    def _check(self, caller: Caller, id_: int, number: int, asked: Asked) -> None:
        if asked.op == "oneway":
            return
        if caller.ended[id_] != 1:
            self.world.fail(f"the {asked.op} {number} of {caller.name} has ended {caller.ended[id_]} times")
        if asked.failure is None and (self.done[number] < 1 or number_of(asked.answer) != number * 1_000):
            self.world.fail(f"the {asked.op} {number} has ended well, was done {self.done[number]} times and answered {number_of(asked.answer)}")
        if asked.failure is not None and not self.forgotten:
            self.world.fail(f"the {asked.op} {number} has failed, and nobody has forgotten anything: {asked.failure}")
