"""Writers, readers and whoever repairs, in the simulation of logs: thin loops round the shipped deciders, as client/log.py has them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.sim.log_ledger import LogLedger
from tests.sim.log_nodes import LogNode, LogStore
from tests.sim.world import World
from unios.core import log_recovery, log_writer
from unios.core.log_recovery import Recovery
from unios.core.log_replica import Refused
from unios.core.log_writer import Acknowledge, Change, Create, Send, Stop, Tell, Writer
from unios.core.logs import Candidate, LogRecord, Span, find, plan_repairs, replaced, trimmed
from unios.errors import Compacted

Put = Callable[[int, list[bytes], Callable[[Any], None]], None]
PATIENCE_MS = 120.0
TRIES = 3


class Client:
    """Somebody on a machine of its own, who may be killed at any moment."""

    def __init__(self, world: World, name: str, nodes: Mapping[str, LogNode], store: LogStore, ledger: LogLedger) -> None:
        self.world, self.name, self.nodes, self.store, self.ledger = world, name, nodes, store, ledger
        self.alive = True

    def kill(self) -> None:
        self.world.say(f"{self.name}: is killed")
        self.alive = False

    def candidates(self) -> list[Candidate]:
        """Who is there, as far as the system has noticed."""
        return [Candidate(node.name, node.name) for node in self.nodes.values() if node.replica is not None]

    def _asking(self, ask: Callable[[Callable[[Any], None]], None], told: Callable[[Any], None], silent: Callable[[], None], tries: int) -> None:
        """Ask, again if nothing comes, and tell exactly once what came of it."""
        over = False

        def answered(result: Any) -> None:
            nonlocal over
            if not over and self.alive:
                over = True
                told(result)

        def look(left: int) -> None:
            nonlocal over
            if over or not self.alive:
                return
            if not left:
                over = True
                silent()
                return
            ask(answered)
            self.world.after(PATIENCE_MS, lambda: look(left - 1))

        look(tries)

    def ask(self, node: str, what: str, told: Callable[[Any], None], silent: Callable[[], None], tries: int = TRIES, **arguments: Any) -> None:
        self._asking(lambda reply: self.nodes[node].request(self.name, what, arguments, reply), told, silent, tries)

    def read_record(self, told: Callable[[LogRecord, int], None]) -> None:
        """Read it, however long that takes."""
        self._asking(lambda reply: self.store.read(self.name, reply), lambda found: told(*found), lambda: self.read_record(told), TRIES)

    def change(self, record: LogRecord, version: int, changed: Callable[[int], None], found: Callable[[LogRecord, int], None]) -> None:
        """Put it once; whatever comes but a yes is settled by reading."""

        def told(result: int | None) -> None:
            if result is None:
                self.read_record(found)
            else:
                changed(result)

        self._asking(lambda reply: self.store.change(self.name, record, version, reply), told, lambda: self.read_record(found), 1)

    def copy(self, sources: Sequence[str], span: Span, first: int, upto: int, put: Put, done: Callable[[str, int], None]) -> None:
        """Carry [first, upto) over piece by piece; `done` hears "", or who has failed: "target", "damage" or "away", and where."""
        if first >= upto:
            done("", first)
            return

        def other(why: str) -> None:
            if len(sources) > 1:
                self.copy(sources[1:], span, first, upto, put, done)
            else:
                done(why, first)

        def read(result: Any) -> None:
            if isinstance(result, Refused) or not result:
                other("damage")
            else:
                put(first, [entry for _at, entry in result], lambda end: wrote(end, first + len(result)))

        def wrote(end: Any, upto_now: int) -> None:
            if isinstance(end, Refused) or end is None or end < upto_now:
                done("target", first)
            else:
                self.copy(sources, span, upto_now, upto, put, done)

        self.ask(sources[0], "read", read, lambda: other("away"), number=span.number, of=span.epoch, offset=first, closed=upto)


class WriterSim(Client):
    """Takes the log over and appends until it is killed or another one takes over."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.recovery: Recovery | None = None
        self.writer: Writer | None = None
        self._count = 0
        self._handed: dict[int, tuple[bytes, int]] = {}
        """By offset, what is not acknowledged, and the newest recovery when it was handed in."""
        self._told = 0
        self.read_record(self._begin)

    def _begin(self, record: LogRecord, version: int) -> None:
        self.recovery = Recovery(record, version, self.name)
        self._recover(self.recovery.start())

    # recovery

    def _recover(self, orders: list[log_recovery.Order]) -> None:
        recovery = self.recovery
        assert recovery is not None
        for order in orders:
            self._recovery_order(recovery, order)
        if recovery.state == "done" and self.writer is None:
            self.world.say(f"{self.name}: has recovered epoch {recovery.record.epoch} up to {recovery.at}, held by {recovery.holders}")
            self.ledger.recovered = max(self.ledger.recovered, recovery.record.epoch)
            self.writer = Writer(recovery.record, recovery.version, at=recovery.at, holders=recovery.holders, nodes=self.candidates())
            self._told = recovery.at
            self._carry_out(self.writer.start())
            self._tick()

    def _recovery_order(self, recovery: Recovery, order: log_recovery.Order) -> None:
        if isinstance(order, Change):
            self.change(order.record, order.version, lambda v: self._recover(recovery.changed(v)), lambda r, v: self._recover(recovery.found(r, v)))
        elif isinstance(order, log_recovery.Seal):
            seal = order

            def sealed(result: Any) -> None:
                self._recover(recovery.refused(seal.replica, result) if isinstance(result, Refused) else recovery.sealed(seal.replica, result))

            away = lambda: self._recover(recovery.away(seal.replica))  # noqa: E731
            self.ask(order.replica, "seal", sealed, away, epoch=order.epoch, number=order.number, of=order.of)
            self.world.after(2 * PATIENCE_MS, lambda: self._recover(recovery.patience()) if self.alive else None)
        elif isinstance(order, log_recovery.Copy):
            self._copy_tail(recovery, order)
        else:
            self.kill()

    def _copy_tail(self, recovery: Recovery, order: log_recovery.Copy) -> None:
        def put(first: int, entries: list[bytes], told: Callable[[Any], None]) -> None:
            where = {"epoch": order.epoch, "number": order.span.number, "of": order.span.epoch, "first": first, "entries": entries}
            self.ask(order.target, "append", told, lambda: told(None), **where)

        def done(failed: str, at: int) -> None:
            match failed:
                case "":
                    self._recover(recovery.copied(order.target))
                case "target":
                    self._recover(recovery.not_copied(order.target))
                case "damage":
                    self._recover(recovery.source_ends(order.source, at))
                case _:
                    self._recover(recovery.source_away(order.source))

        self.copy((order.source,), order.span, order.first, order.upto, put, done)

    # writing

    def _tick(self) -> None:
        if self.alive and self.writer is not None:
            self._carry_out(self.writer.tick(self.candidates()))
            self.world.after(30, self._tick)

    def append(self, count: int) -> None:
        """Hand in some entries."""
        if not self.alive or self.writer is None or self.writer.state == "stopped":
            return
        entries = []
        for _ in range(count):
            self._count += 1
            entries.append(f"{self.name}.{self._count}".encode() * self.world.rng.choice((1, 1, 5)))
        for at, entry in enumerate(entries, self.writer.end):
            self._handed[at] = (entry, self.ledger.recovered)
        self._carry_out(self.writer.submit(entries))

    def trim(self) -> None:
        """Forget some of what is acknowledged."""
        if not self.alive or self.writer is None:
            return
        upto = self.world.rng.randrange(self.writer.confirmed + 1)

        def read(record: LogRecord, version: int) -> None:
            self.change(trimmed(record, upto), version, lambda _version: tell(), lambda _record, _version: None)

        def tell() -> None:
            for node in self.nodes:
                self.ask(node, "trim", lambda _result: None, lambda: None, upto=upto)

        self.read_record(read)

    def _carry_out(self, orders: list[log_writer.Order]) -> None:
        writer = self.writer
        assert writer is not None
        for order in orders:
            if isinstance(order, Change):
                self.change(
                    order.record, order.version, lambda v: self._carry_out(writer.changed(v)), lambda r, v: self._carry_out(writer.found(r, v))
                )
            elif isinstance(order, Acknowledge):
                for at in range(self._told, order.upto):
                    self.ledger.acknowledge(at, self._handed[at][0], writer.epoch, self._handed.pop(at)[1])
                self._told = order.upto
            elif isinstance(order, Stop):
                self.kill()
            elif isinstance(order, Tell):
                self.nodes[order.replica].request(
                    self.name, "confirm", {"number": order.number, "of": order.epoch, "confirmed": order.confirmed}, lambda _result: None
                )
            else:
                self._to_replica(writer, order)

    def _to_replica(self, writer: Writer, order: Create | Send) -> None:
        def told(result: Any) -> None:
            if isinstance(result, Refused):
                self._carry_out(writer.refused(order.replica, order.number, result))
            elif isinstance(order, Create):
                self._carry_out(writer.prepared(order.replica, order.number))
            else:
                self._carry_out(writer.answered(order.replica, order.number, result))

        lost = lambda: self._carry_out(writer.lost(order.replica, order.number))  # noqa: E731
        if isinstance(order, Create):
            self.ask(order.replica, "create", told, lost, epoch=order.epoch, number=order.number, first=order.first)
        else:
            where = {"epoch": order.epoch, "number": order.number, "of": order.epoch, "first": order.first}
            self.ask(order.replica, "append", told, lost, **where, entries=order.entries, confirmed=order.confirmed)


class ReaderSim(Client):
    """Reads the log from its beginning, again and again after a trim has overtaken it; asks any replica."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.offset = 0
        self._record: tuple[LogRecord, int] | None = None
        """With what had been trimmed when it was asked for."""
        self._step()

    def _later(self) -> None:
        self.world.after(self.world.rng.uniform(2, 20), self._step)

    def _step(self) -> None:
        if self._record is None or self.world.rng.random() < 0.2:
            first = self.ledger.first

            def got(record: LogRecord, _version: int) -> None:
                self._record = (record, first)
                self._read()

            self.read_record(got)
        else:
            self._read()

    def _read(self) -> None:
        assert self._record is not None
        record, first = self._record
        try:
            span = find(record, self.offset)
        except Compacted:
            self.offset = record.first
            span = find(record, self.offset)
        if span is None:
            self._record = None
            self._later()
            return

        def told(result: Any) -> None:
            if isinstance(result, Refused):
                self._record = None
                if result.kind == "trimmed":
                    self.offset = max(self.offset, result.number)
            else:
                for at, entry in result:
                    self.ledger.seen(at, entry, self.name, first)
                    self.offset = at + 1
            self._later()

        node = self.world.rng.choice(span.replicas)
        self.ask(
            node, "read", told, self._later, tries=1, number=span.number, of=span.epoch, offset=self.offset, closed=0 if span.is_open else span.end
        )


class RepairSim(Client):
    """Looks now and then whether a closed span has too few replicas, and copies it."""

    def look(self) -> None:
        self.read_record(self._probe)

    def _probe(self, record: LogRecord, _version: int) -> None:
        """Ask each replica for the last entry that it should have."""
        bad: set[tuple[int, str]] = set()
        for span in record.spans:
            for node in span.replicas if not span.is_open and span.end > record.first else ():

                def told(result: Any, number: int = span.number, node: str = node) -> None:
                    if isinstance(result, Refused) or not result:
                        bad.add((number, node))

                self.ask(node, "read", told, lambda: None, number=span.number, of=span.epoch, offset=span.end - 1, closed=span.end)
        self.world.after(2 * TRIES * PATIENCE_MS, lambda: self._plan(record, bad))

    def _plan(self, record: LogRecord, bad: set[tuple[int, str]]) -> None:
        for repair in plan_repairs(record, self.candidates(), bad)[:1]:
            span = repair.span
            first = max(span.first, record.first)

            def put(at: int, entries: list[bytes], told: Callable[[Any], None], repair: Any = repair) -> None:
                where = {"number": repair.span.number, "of": repair.span.epoch, "first": at, "entries": entries}
                self.ask(repair.target, "restore", told, lambda: told(None), **where)

            def done(failed: str, _at: int, repair: Any = repair) -> None:
                if not failed:
                    self.read_record(lambda record, version: self._put(record, version, repair))

            self.copy(repair.sources, span, first, span.end, put, done)

    def _put(self, record: LogRecord, version: int, repair: Any) -> None:
        try:
            changed = replaced(record, repair.span, gone=repair.gone, by=repair.target)
        except Compacted:
            return
        self.world.say(f"{self.name}: {repair.target} has span {repair.span.number}")
        self.change(changed, version, lambda _version: None, lambda _record, _version: None)
