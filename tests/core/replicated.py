"""A world of copies for the tests of replication: the shipped deciders on virtual time, with a network that loses, doubles and delays, and copies that are lost.

The object is a counter: `add` returns the new total, so a result says where in the order of all writes it is. What every run checks: a read returns at
least what anybody had been told before it was asked (linearizable, never stale); a write more than that, and no two the same; and once all is quiet the
total is the number of writes: nothing was lost and nothing done twice. Replaced processes may run on as *zombies* that do not know it; they are
frozen for readers, as the guard freezes them, and for nobody else.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Any

from unios.core.caching import Cache, Holders
from unios.core.outcomes import Found, Request
from unios.core.replication import Contents, Do, Follower, Install, Keep, Load, Message, filled
from unios.core.sequencing import Sequencer
from unios.core.strategies import STRATEGIES

LEASE_MS = 500


@dataclass(eq=False)
class Leader:
    world: "World"
    sequencer: Sequencer
    began_ms: float
    total: int | None = None
    holders: Holders | None = None
    is_zombie: bool = False
    is_dead: bool = False
    table_seen: tuple[int, dict[int, int]] | None = None
    waiting: tuple["Client", Request, int, bytes] | None = None

    def become(self, total: int) -> None:
        self.total = total
        self.sequencer.strategy = self.world.strategy
        self.holders = Holders(self.sequencer.epoch, LEASE_MS if self.world.strategy.reads == "caller" else 0, self.began_ms)

    def contents(self) -> Contents:
        return Contents(b"", b"%d" % (self.total or 0), self.sequencer.outcomes.keep())

    def hear(self, client: "Client", request: Request, dropped: int) -> None:
        """A write has come."""
        seq = self.sequencer
        if self.waiting is not None or seq.phase != "ready":
            return
        found = seq.find(request)
        if found is not Found.NEW:
            assert found is not Found.FORGOTTEN or client.number != request.number, "an outcome was forgotten"
            if isinstance(found, bytes):
                self.world.send(client.answered, request.number, int(found))
            return
        assert self.holders is not None and self.total is not None
        seq.begin()
        self.holders.begin(client.session, dropped)
        self.waiting = client, request, 0, b""
        if not self.world.waits_for_caches_first or self.holders.wait_ms(self.world.now_ms) <= 0:
            self._do()

    def _do(self) -> None:
        assert self.waiting is not None and self.total is not None
        client, request, _number, _outcome = self.waiting
        self.total += 1
        outcome = b"%d" % self.total
        state = outcome if self.world.strategy.ships_state else None
        self.waiting = client, request, self.sequencer.done(request, outcome, state), outcome

    def step(self) -> None:
        """Do what no cache holds up any more; answer what is committed."""
        if self.waiting is None or self.holders is None:
            return
        if self.sequencer.phase != "fenced" and not self.waiting[2] and self.holders.wait_ms(self.world.now_ms) <= 0:
            self._do()
        client, request, number, outcome = self.waiting
        if self.sequencer.phase == "fenced":
            self.waiting = None
        elif number and self.sequencer.committed >= number and self.holders.wait_ms(self.world.now_ms) <= 0:
            self.waiting = None
            self.world.send(client.answered, request.number, int(outcome))

    @property
    def may_read(self) -> bool:
        return not self.is_zombie and self.waiting is None and self.sequencer.phase == "ready"


@dataclass(eq=False)
class Copy:
    follower: Follower
    total: int = 0
    is_zombie: bool = False


@dataclass(eq=False)
class Client:
    """Asks one thing after the other; asks again for what is not answered."""

    world: "World"
    session: str
    number: int = 0
    wants: str = ""
    floor: int = 0
    ticket: int = 0
    cache: Cache = field(default_factory=lambda: Cache(LEASE_MS))
    cached: int = 0

    def begin(self, wants: str) -> None:
        self.wants, self.floor, self.ticket = wants, self.world.known, self.ticket + 1
        if wants == "add":
            self.number += 1
            self.world.writes += 1

    def ask(self) -> None:
        world = self.world
        leader = world.random.choice(world.leaders)
        if self.wants == "add":
            dropped = self.cache.write()
            world.send(leader.hear, self, Request(self.session, self.number, self.number, b"add"), dropped)
        elif world.strategy.reads == "caller":
            if self.cache.is_usable(world.now_ms):
                self.got(self.ticket, self.cached)
            else:
                world.send(self._fetch, leader, world.now_ms, self.ticket)
        elif world.strategy.reads == "nearest" and (rank := world.random.randrange(world.copies)):
            world.send(self._read_copy, rank, self.ticket)
        else:
            world.send(self._read, leader, self.ticket)

    def _read(self, leader: Leader, ticket: int) -> None:
        if leader.may_read:
            self.world.send(self.got, ticket, leader.total)

    def _read_copy(self, rank: int, ticket: int) -> None:
        for copy in self.world.running[rank]:
            if not copy.is_zombie and copy.follower.is_readable:
                self.world.send(self.got, ticket, copy.total)

    def _fetch(self, leader: Leader, asked_ms: float, ticket: int) -> None:
        if leader.may_read and leader.holders is not None:
            self.world.send(self._fetched, leader.holders.grant(self.session, self.world.now_ms), leader.total, asked_ms, ticket)

    def _fetched(self, number: int, total: int, asked_ms: float, ticket: int) -> None:
        if self.cache.got(number, asked_ms):
            self.cached = total
        self.got(ticket, total)

    def poll(self) -> None:
        """Hear what is to be dropped."""
        for leader in self.world.leaders:
            if not leader.is_dead and leader.holders is not None and (number := leader.holders.to_drop(self.session)):
                self.world.send(self._drop, leader, number)

    def _drop(self, leader: Leader, number: int) -> None:
        self.cache.drop(number)
        assert leader.holders is not None
        self.world.send(leader.holders.dropped, self.session, number)

    def got(self, ticket: int, total: int) -> None:
        if self.wants == "read" and ticket == self.ticket:
            assert total >= self.floor, f"a read returned {total}; {self.floor} had been seen before it was asked"
            self.world.known = max(self.world.known, total)
            self.wants = ""

    def answered(self, number: int, total: int) -> None:
        if self.wants == "add" and number == self.number:
            assert total > self.floor, f"a write returned {total}; {self.floor} had been seen before it was asked"
            assert total not in self.world.results, f"two writes returned {total}"
            self.world.results.add(total)
            self.world.known = max(self.world.known, total)
            self.wants = ""


class World:
    """`copies` of an object under a strategy; everything happens in an order that `seed` decides."""

    waits_for_caches_first = True
    """False: a protection is off."""

    def __init__(self, seed: int, strategy: str, copies: int, *, clients: int = 3) -> None:
        self.random = Random(seed)
        self.strategy, self.copies = STRATEGIES[strategy], copies
        self.now_ms = 0.0
        self.mail: list[tuple[Any, tuple[Any, ...]]] = []
        self.known = self.writes = self.losses = 0
        """The highest total that anybody was told; writes that were begun; copies that were lost."""
        self.results: set[int] = set()
        self.table = dict.fromkeys(range(copies), 1)
        self.running: dict[int, list[Copy]] = {rank: [Copy(Follower(1))] for rank in range(1, copies)}
        self.leaders = [Leader(self, Sequencer(1), 0.0)]
        self.clients = [Client(self, f"c{number}") for number in range(clients)]
        self.lossy = True
        self.settle(lambda: self.leader.sequencer.phase == "new")
        self.leader.become(0)
        self.leader.sequencer.create(self.strategy)
        self.settle(lambda: self.is_whole)

    @property
    def leader(self) -> Leader:
        """The newest."""
        return self.leaders[-1]

    @property
    def is_whole(self) -> bool:
        """Say whether every copy has everything, so that any one may be lost."""
        seq = self.leader.sequencer
        return (
            seq.phase == "ready"
            and not seq.wants_table
            and len(seq.members) == self.copies - 1
            and all(m.standing == "following" and m.incarnation == self.table[rank] for rank, m in seq.members.items())
        )

    def send(self, handler: Any, *arguments: Any) -> None:
        self.mail.append((handler, arguments))

    def settle(self, reached: Any) -> None:
        for _ in range(20_000):
            if reached():
                return
            self.step(new=False)
        raise AssertionError(f"it never settled: {self.leader.sequencer.phase} {self.leader.sequencer.members}")

    def run(self, steps: int, losses: int, *, together: int = 1) -> None:
        """So many steps with at most so many losses, of so many copies at a time; then all gets quiet, and everything must be there once."""
        for _ in range(steps):
            self.step(new=True)
            if losses and self.random.random() < 0.02 and self.is_whole:
                losses -= 1
                for rank in self.random.sample(range(self.copies), together):
                    self.lose(rank)
        self.lossy = False
        self.settle(lambda: not any(client.wants for client in self.clients) and self.is_whole)
        for client in self.clients:
            client.begin("read")
        self.settle(lambda: not any(client.wants for client in self.clients))
        assert self.known == self.writes == len(self.results), f"{self.writes} writes came to {self.known}"

    def step(self, *, new: bool) -> None:
        choice = self.random.random()
        self.now_ms += self.random.random() * 5
        if choice < 0.5 and self.mail:
            handler, arguments = self.mail.pop(self.random.randrange(min(len(self.mail), 8)))
            if not self.lossy or self.random.random() > 0.15:
                handler(*arguments)
            if self.lossy and self.random.random() < 0.1:
                self.mail.append((handler, arguments))
        elif choice < 0.75:
            self._courier(self.random.choice(self.leaders[-2:]))
        elif choice < 0.85:
            self._client(self.random.choice(self.clients), new=new)
        else:
            self._look(self.random.choice(self.leaders[-2:]))
        for leader in self.leaders:
            leader.step()
        del self.leaders[:-3]

    def _client(self, client: Client, *, new: bool) -> None:
        client.poll()
        if client.wants:
            client.ask()
        elif new:
            client.begin(self.random.choice(("add", "read")))

    def _courier(self, leader: Leader) -> None:
        if self.copies == 1:
            return
        rank = self.random.randrange(1, self.copies)
        message = leader.sequencer.to_send(rank)
        if message is None:
            return
        if isinstance(message, Install):
            message = filled(message, leader.contents())
        leader.sequencer.sent(rank, message)
        self.send(self._deliver, leader, rank, message)

    def _deliver(self, leader: Leader, rank: int, message: Message) -> None:
        for copy in self.running[rank]:
            if copy.follower.incarnation == message.to or copy is self.running[rank][-1]:
                before = copy.total
                order, reply = copy.follower.hear(message)
                if isinstance(order, Load):
                    copy.total = int(order.contents.state)
                elif isinstance(order, Keep):
                    copy.total = int(order.state)
                elif isinstance(order, Do):
                    copy.total = before + 1
                if getattr(reply, "contents", 0) is None and type(message).__name__ == "Pull":
                    kept = copy.follower.outcomes.keep()
                    reply = type(reply)(reply.incarnation, reply.epoch, reply.of_epoch, reply.seq, Contents(b"", b"%d" % copy.total, kept))  # type: ignore
                self.send(self._heard, leader, rank, reply)
                return

    def _heard(self, leader: Leader, rank: int, reply: Any) -> None:
        contents = leader.sequencer.heard(rank, reply)
        if contents is not None:
            leader.become(int(contents.state))

    def _look(self, leader: Leader) -> None:
        """Reading the table takes a while: what was read is heard of later."""
        if leader.table_seen is None:
            leader.table_seen = self.table[0], {rank: number for rank, number in self.table.items() if rank}
        else:
            leader.sequencer.table(*leader.table_seen)
            leader.table_seen = None

    def lose(self, rank: int) -> None:
        """The node of a copy is lost: its next incarnation begins elsewhere, empty. The old process may not know, and run on."""
        self.losses += 1
        self.table[rank] += 1
        runs_on = self.random.random() < 0.5
        if rank == 0:
            self.leader.is_zombie = True
            if not runs_on:
                self.leader.sequencer.phase, self.leader.is_dead = "fenced", True
            self.leaders.append(Leader(self, Sequencer(self.table[0]), self.now_ms))
        else:
            old = self.running[rank][-1]
            old.is_zombie = True
            self.running[rank] = ([old] if runs_on else []) + [Copy(Follower(self.table[rank]))]
            self.leader.sequencer.wants_table = True
