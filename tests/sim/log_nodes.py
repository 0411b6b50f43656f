"""Nodes and the store in the simulation of logs: who keeps, and where the record is. Both crash, pause and are cut off."""

from collections.abc import Callable
from typing import Any

from tests.sim.log_disk import Disk
from tests.sim.log_ledger import LogLedger
from tests.sim.world import World
from unios.core.log_replica import Answer, Commit, Order, Refused, Replica
from unios.core.logs import LogRecord

Reply = Callable[[Any], None]


class LogNode:
    """A kernel, as far as it keeps the log. A request is a name and its arguments, answered over the network."""

    def __init__(self, world: World, name: str, ledger: LogLedger) -> None:
        self.world, self.name, self.ledger = world, name, ledger
        self.disk = Disk(world.rng)
        self.life = 0
        self.slow = 1.0
        self.replica: Replica | None = self.disk.start()

    def crash(self) -> None:
        self.world.say(f"{self.name}: crashes")
        self.life += 1
        self.replica = None
        self.disk.crash()

    def boot(self) -> None:
        if self.replica is None:
            self.replica = self.disk.start()
            self.world.say(f"{self.name}: is back, fence {self.replica.fence}, {[tuple(kept) for kept in self.replica.spans()]}")

    def lose_disk(self) -> None:
        """All that it had is gone, and it goes on with an empty disk."""
        self.crash()
        self.disk = Disk(self.world.rng)
        self.ledger.node_first.pop(self.name, None)
        self.boot()

    def request(self, source: str, what: str, arguments: dict[str, Any], reply: Reply) -> None:
        """Ask it over the network."""
        self.world.send(source, self.name, lambda: self._arrived(source, what, arguments, reply))

    def _arrived(self, source: str, what: str, arguments: dict[str, Any], reply: Reply) -> None:
        if self.replica is None:
            return
        token: Reply = lambda result: self.world.send(self.name, source, lambda: reply(result))  # noqa: E731
        if what == "trim":
            self._do(self.replica.trim(lambda result: self._trimmed(result, token), **arguments))
        elif what == "read":
            token(self._read(**arguments))
        elif what == "confirm":
            self.replica.confirm(**arguments)
        else:
            self._do(getattr(self.replica, what)(token, **arguments))

    def _trimmed(self, result: Any, token: Reply) -> None:
        if not isinstance(result, Refused):
            self.ledger.node_first[self.name] = result
        token(result)

    def _read(self, number: int, of: int, offset: int, closed: int) -> Any:
        assert self.replica is not None
        upto = self.replica.readable(number=number, of=of, offset=offset, closed=closed)
        if isinstance(upto, Refused):
            return upto
        if offset >= upto:
            return []
        found = self.disk.read(number, offset, upto)
        if found is None:
            return Refused("failed", 0, "damaged")
        shown = list(found)
        for at, _entry in shown:
            self.ledger.shown(self.name, at)
        return shown

    def _do(self, orders: list[Order]) -> None:
        for order in orders:
            if isinstance(order, Answer):
                if order.token is not None:
                    order.token(order.result)  # type: ignore[operator]
            else:
                self._commit(order)

    def _commit(self, commit: Commit) -> None:
        life = self.life
        self.disk.write(commit)

        def synced() -> None:
            if life == self.life and self.replica is not None:
                self.disk.sync(commit)
                self._do(self.replica.synced())

        self.world.after(self.slow * self.world.rng.expovariate(1 / 2.0), synced)


class LogStore:
    """The record and its version: linearizable, durable, sometimes away. Its answers get lost like others."""

    def __init__(self, world: World, ledger: LogLedger, record: LogRecord) -> None:
        self.world, self.ledger = world, ledger
        self.record, self.version = record, 1
        self.up = True

    def read(self, source: str, reply: Reply) -> None:
        self.world.send(source, "store", lambda: self._answer(source, reply, (self.record, self.version)))

    def change(self, source: str, record: LogRecord, version: int, reply: Reply) -> None:
        """Put it if the version is that; answered with the version that it got, or None."""

        def arrived() -> None:
            if not self.up:
                return
            done = version == self.version
            if done:
                self.ledger.changed(self.record, record)
                self.record, self.version = record, version + 1
                self.world.say(f"store: {source} has put {record.epoch}, first {record.first}, {record.spans[-2:]}")
            self._answer(source, reply, self.version if done else None)

        self.world.send(source, "store", arrived)

    def _answer(self, source: str, reply: Reply, result: Any) -> None:
        if self.up:
            self.world.send("store", source, lambda: reply(result))
