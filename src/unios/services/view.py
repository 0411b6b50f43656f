"""What a service sees of the system: mirrors of nodes, leases and processes, and the membership that follows from them."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from unios.client.aio import Kernel
from unios.core import membership as members
from unios.core.capacity import Books
from unios.core.flapping import Flapping
from unios.core.membership import Change, Membership
from unios.core.nodes import Alive, NodeRecord, alive_key, may_speak_for, node_key
from unios.core.processes import ProcessRecord
from unios.core.rules import PREFIX, Rule
from unios.store.client import StoreClient
from unios.store.mirror import Mirror

CALM_MS: Final = 50
"""Services are in no hurry to hear of processes: on a busy system each of them would be woken by each start and end."""


OnProcess = Callable[[int, ProcessRecord | None, ProcessRecord | None], None]
OnRule = Callable[[str, Rule | None, Rule | None], None]


class View:
    """That of one service. `run` keeps it."""

    def __init__(
        self,
        kernel: Kernel,
        on_change: Callable[[Change], None] = lambda _change: None,
        *,
        on_process: OnProcess = lambda _pid, _before, _now: None,
        on_rule: OnRule = lambda _key, _before, _now: None,
        calm_ms: int = CALM_MS,
    ) -> None:
        self._me = kernel.folder.name
        self.store = StoreClient(lambda: kernel.connect("store"))
        self.membership = Membership(kernel.folder.name)
        self._on_change = on_change
        self.flapping = Flapping()
        self.nodes = Mirror(self.store, "/nodes/", NodeRecord, self._on_node)
        self.alive = Mirror(self.store, "/alive/", Alive, self._on_alive)
        self.books = Books()
        """What the nodes offer and what is set aside there."""
        self._on_process_too = on_process
        self.rules: Mirror[Rule] = Mirror(self.store, PREFIX, Rule, on_rule)  # type: ignore[arg-type]
        self.processes = Mirror(self.store, "/processes/", ProcessRecord, self._on_process, calm_ms=calm_ms)

    def _tell(self, event: members.Event) -> None:
        for change in self.membership.on(event):
            if isinstance(change, members.BecameLost):
                self.flapping.lost(change.name, _now_ms())
            elif isinstance(change, members.BecameLeft):
                self.flapping.forget(change.name)
            self._on_change(change)

    def _on_node(self, _key: str, before: NodeRecord | None, now: NodeRecord | None) -> None:
        record = now or before
        assert record is not None
        self.books.offer(record)
        self._tell(members.NodeChanged(record.name, record.incarnation if now else 0, now is None or now.state == "left"))

    def _on_alive(self, key: str, _before: Alive | None, now: Alive | None) -> None:
        self._tell(members.AliveChanged(key.removeprefix("/alive/"), now.incarnation if now else 0))

    def _on_process(self, _key: str, before: ProcessRecord | None, now: ProcessRecord | None) -> None:
        record = now or before
        assert record is not None
        pid = record.pid
        if now is not None:
            self.books.put(now)
        else:
            self.books.drop(pid)
        self._on_process_too(pid, before, now)

    def ready(self) -> list[str]:
        """Return the nodes that take processes."""
        return [name for name in self.membership.names("ready") if (record := self.nodes.values.get(node_key(name))) and not record.stopped]

    def is_steady(self, node: str) -> bool:
        """Return whether that node has not come and gone too often of late to be given something new."""
        return not self.flapping.is_unsteady(node, _now_ms())

    def lease_of(self, node: str) -> int:
        """Return the number of the node's lease as last seen, 0 if it has none."""
        alive = self.alive.values.get(alive_key(node))
        return alive.incarnation if alive else 0

    def survivors(self, user: str = "") -> list[str]:
        """Return the nodes whose services may act; with `user` for that user's processes."""
        return [name for name in self.membership.names("ready") if not user or self.speaks_for(name, user)]

    def speaks_for(self, node: str, user: str) -> bool:
        """Return whether that node may run and record processes of that user."""
        record = self.nodes.values.get(node_key(node))
        return record is not None and may_speak_for(record.users, user)

    def assigns(self) -> bool:
        """Return whether services of this node may give processes their nodes: it speaks for root, or it is in a system where nobody does (core/gate.py)."""
        speakers = [record.name for record in self.nodes.values.values() if record.state == "joined" and may_speak_for(record.users, "root")]
        return not speakers or self._me in speakers

    def tidier(self) -> str:
        """Return the node that keeps the records within their bounds: one that speaks for root, if any does, since it may delete what is everybody's."""
        return next(iter(self.survivors("root") or self.survivors()), "")

    def runner(self, user: str) -> str:
        """Return the node whose placement service runs the queue for that user: the first that may act for him, one that speaks for root if any does."""
        able = self.survivors(user)
        return next((name for name in able if self.speaks_for(name, "root")), able[0] if able else "")

    async def run(self) -> None:
        """Keep the mirrors; ends only by cancellation."""
        async with asyncio.TaskGroup() as group:
            for mirror in (self.nodes, self.alive, self.rules, self.processes):
                group.create_task(mirror.run())

    def is_complete(self) -> bool:
        """Return whether everything has been seen once."""
        return all(mirror.is_complete for mirror in (self.nodes, self.alive, self.rules, self.processes))

    async def wait_complete(self) -> None:
        """Wait until everything has been seen once."""
        for mirror in (self.nodes, self.alive, self.rules, self.processes):
            await mirror.wait_complete()


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
