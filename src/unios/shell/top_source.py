"""Where `unios top` looks: the processes, the nodes and the links through one kernel, and of each node what it uses. One request per node and second.

Whoever does not answer within TOP_PATIENCE_MS is shown without; what the system as a whole does not answer is shown as it was, and said.
Belongs to one thread.
"""

import contextlib
import time
from typing import Any

from unios.client import queue
from unios.client.channel import Asked, unpack
from unios.client.connection import Connection
from unios.errors import Unavailable, UniosError
from unios.limits import TOP_PATIENCE_MS
from unios.shell.ps import command_line, waits, with_reasons
from unios.shell.snapshots import NodeRow, ProcessRow, Rates, Snapshot
from unios.wire.operations import Empty, LinkView, ListProcesses, NodeUsage, NodeView, ProcessUsage, ProcessView

REASONS_EVERY_S = 3.0
"""So long the reasons of those that wait are kept: to work them out costs the placement service more than anything else that is asked here."""


class Source:
    """Looks again and again. A broken connection is made anew at the next look."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rates = Rates()
        self._before: dict[str, NodeUsage] = {}
        self._nodes: tuple[NodeView, ...] = ()
        self._processes: tuple[ProcessView, ...] = ()
        self._links: tuple[LinkView, ...] = ()
        self._reasons: dict[int, str] = {}
        self._reasons_at = float("-inf")

    def take(self) -> Snapshot:
        """Return how it stands now. Never raises for a system that does not answer: that is shown as it was."""
        try:
            return self.look()
        except UniosError as error:
            self._connection.close()
            return self._snapshot(time.monotonic(), {}, str(error))

    def look(self) -> Snapshot:
        """Return how it stands now. Raises what the kernel says, and Unavailable if it says nothing."""
        until = time.monotonic() + TOP_PATIENCE_MS / 1000
        trouble = self._ask(until)
        usage = self._usage(until + TOP_PATIENCE_MS / 1000)
        return self._snapshot(time.monotonic(), usage, trouble)

    def _ask(self, until: float) -> str:
        asked = {
            "the nodes": self._connection.begin("node.list", Empty()),
            "the links": self._connection.begin("node.links", Empty()),
            "the processes (the store is away)": self._connection.begin("processes.list", ListProcesses()),
        }
        types: tuple[Any, ...] = (tuple[NodeView, ...], tuple[LinkView, ...], tuple[ProcessView, ...])
        silent = []
        found: list[Any] = [self._nodes, self._links, self._processes]
        for at, (what, one) in enumerate(asked.items()):
            if one.wait(max(0.01, until - time.monotonic())):
                found[at] = _answer(one, types[at])
            else:
                one.close()
                silent.append(what)
        self._nodes, self._links, self._processes = found
        self._processes = with_reasons(self._processes, self._why())
        if len(silent) == len(asked):
            raise Unavailable("the kernel does not answer: looking for another")
        return f"no answer about {' and '.join(silent)}: what is shown of that is older" if silent else ""

    def _why(self) -> dict[int, str]:
        """Return why those wait that wait, as it was lately: their records have the reason of the moment at which they were written."""
        now = time.monotonic()
        if any(map(waits, self._processes)) and now - self._reasons_at > REASONS_EVERY_S:
            self._reasons, self._reasons_at = queue.reasons(self._connection), now
        return self._reasons

    def _usage(self, until: float) -> dict[str, NodeUsage]:
        asked = {node.name: self._connection.begin("node.usage", Empty(), node=node.name) for node in self._nodes if node.state == "ready"}
        usage = {}
        for name, one in asked.items():
            if one.wait(max(0.01, until - time.monotonic())):
                with contextlib.suppress(UniosError):  # an older node, or one that is just going
                    usage[name] = _answer(one, NodeUsage)
            else:
                one.close()
        return usage

    def _snapshot(self, now: float, usage: dict[str, NodeUsage], trouble: str) -> Snapshot:
        trees = {(tree.pid, tree.incarnation): tree for node in usage.values() for tree in node.processes}
        shares = self._rates.of({key: tree.cpu_ms for key, tree in trees.items()}, now)
        busy = {name: self._busy(one) for name, one in usage.items()}
        self._before = usage
        nodes = tuple(self._node(node, usage.get(node.name), busy.get(node.name)) for node in self._nodes if node.state != "left")
        rows = [_process(view, trees.get((view.pid, view.incarnation)), shares.get((view.pid, view.incarnation))) for view in self._processes]
        return Snapshot(now, nodes, tuple(rows), trouble)

    def _busy(self, usage: NodeUsage) -> float:
        """Return how busy the machine was since the last look, 0 to 1; at the first as the node says itself."""
        before = self._before.get(usage.node)
        if before is None or usage.at_ms <= before.at_ms or usage.cpu_busy_ms < before.cpu_busy_ms:
            return min(1.0, usage.cpu_percent / 100)
        return min(1.0, (usage.cpu_busy_ms - before.cpu_busy_ms) / ((usage.at_ms - before.at_ms) * max(1, usage.cores)))

    def _node(self, node: NodeView, usage: NodeUsage | None, busy: float | None) -> NodeRow:
        mine = [view for view in self._processes if view.node == node.name]
        link = next((link for link in self._links if link.node == node.name), None)
        shown = "here" if link is None else f"{link.rtt_ms:.1f} ms{f' via {link.via}' if link.via else ''}" if link.up else "broken"
        return NodeRow(
            node.name,
            node.state,
            node.cores,
            busy,
            usage.memory_used_bytes if usage else None,
            usage.memory_bytes if usage else node.memory_bytes,
            usage.load[0] if usage else None,
            sum(view.state == "running" for view in mine),
            sum(view.state == "pending" for view in mine),
            shown,
            node.reason,
        )


def _answer(asked: Asked, type_: Any) -> Any:
    body, _descriptors = asked.finish(timeout_s=TOP_PATIENCE_MS / 1000)
    return unpack(body, type_)


def _process(view: ProcessView, usage: ProcessUsage | None, share: float | None) -> ProcessRow:
    return ProcessRow(
        view.pid,
        view.user,
        view.state,
        view.node,
        command_line(view.argv),
        view.nice,
        share,
        usage.memory_bytes if usage else None,
        usage.cpu_ms if usage else None,
        view.reason,
    )
