"""Problems: what of the system needs a person, judged from what the system says of itself. Pure: asks nobody, reads no clock.

A problem is not a fact that merely is so (nodes share a machine), nor something that mends itself within seconds (a part that was replaced), nor
a program that ended badly: that is its user's affair, and shown without counting. Each says what it costs and what to type.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from unios.limits import FLAP_CALM_MS, FLAP_LOSSES, FLAP_WINDOW_MS
from unios.wire.operations import EventView, NodeInfo, NodeView, ProcessView, SystemView

DISK_FREE_MIN: Final = 1 << 30
DISK_SHARE_MIN: Final = 0.03
_NAMED_MAX: Final = 5
_NO_PLACE: Final = re.compile(
    r"no (other )?node that is ready|does not have|it is to be on|runs nothing as|is (lost|left|suspect): |has been stopped$|which is not ready"
)
"""In the reason of a pending process: no turn will come by itself. What merely waits for its turn, for others or for a release is no problem."""
_PARTS: Final = {
    "kernel": "the node cannot be asked anything and its lease ends",
    "placement": "nothing is placed through this node",
    "recovery": "this node takes part in no recovery",
    "store": "running processes freeze and nothing can be started",
}


class Problem(NamedTuple):
    """`since_ms`: wall clock, 0 if nobody knows. `type`: what to type or do."""

    what: str
    costs: str
    type: str
    since_ms: int = 0


class Facts(NamedTuple):
    """What was found. None: it was asked and did not answer in time."""

    view: SystemView
    infos: Mapping[str, NodeInfo | None]
    """Of the nodes that are ready."""
    processes: Sequence[ProcessView] | None
    """All records, ended ones too."""
    events: Sequence[EventView] | None
    why: str = ""
    """What was said when the processes were asked for, where that failed."""


def find(facts: Facts) -> list[Problem]:
    """Return the problems, the gravest first."""
    found = [*_store(facts), *_nodes(facts), *_parts(facts), *_disks(facts), *_waiting(facts)]
    return found + list(_other_warnings(facts.view, found))


def broken_off(names: Sequence[str]) -> list[Problem]:
    """Return the problem that an `up` was killed before it had started these nodes of this machine."""
    if not names:
        return []
    return [
        Problem(
            f"an `unios up` of this machine was killed before it had started {', '.join(names)}",
            "recorded as nodes of this machine, and not running",
            "unios up",
        )
    ]


def _store(facts: Facts) -> Iterator[Problem]:
    if facts.processes is not None:
        return
    said = f" (it is said: {facts.why})" if facts.why else ""
    if facts.view.engine != "sqlite":
        keepers = facts.view.keepers
        yield Problem(
            f"the store does not answer; {'more than half of its copies, on ' + ', '.join(keepers) + ',' if keepers else 'its etcd'} must be there for that",
            f"running processes are frozen when their nodes' leases end, and nothing can be started, changed or ended until it is back{said}",
            f"look whether the machines of {', '.join(keepers)} run and are reached; on each: `unios up`" if keepers else "look after that etcd",
            _last(facts, lambda event: event.kind == "loss" and event.text.split()[0] in keepers and " is lost" in event.text),
        )
        return
    homes = [node.name for node in facts.view.nodes if node.machine == facts.view.store_machine and node.state != "left"]
    where = f"machine {facts.view.store_machine[:12]}" + (f" ({', '.join(homes)})" if homes else "")
    yield Problem(
        f"the store does not answer; it lives on {where}",
        f"running processes are frozen when their nodes' leases end, and nothing can be started, changed or ended until it is back{said}",
        "look whether that machine runs and is reached; on it: `unios up`, and if it stays so the end of its store.log",
        _last(facts, lambda event: event.kind == "loss" and event.text.split()[0] in homes and " is lost" in event.text),
    )


def _nodes(facts: Facts) -> Iterator[Problem]:
    for node in facts.view.nodes:
        if node.state == "lost" and "was stopped" not in node.reason:
            told = f"{node.name} is lost"
            since = _last(facts, partial(_tells, told))
            yield Problem(
                f"{node.name} is lost",
                _costs_of(node, facts),
                f"look after its machine and type `unios up` there; if it never comes back: `unios leave --dead {node.name}`",
                since,
            )
        elif node.flaps and node.state in ("ready", "suspect"):
            yield Problem(
                f"{node.name} comes and goes: it was lost {FLAP_LOSSES} times within {FLAP_WINDOW_MS // 1000} s",
                f"what ran there runs again elsewhere, as its policies say; nothing new is placed on it until it has stayed for {FLAP_CALM_MS // 1000} s",
                f"`unios events --node-of {node.name}` tells when; on its machine see its network, its load and the end of nodes/{node.name}/log/kernel.log",
                _first_of_series(facts, f"{node.name} is lost"),
            )
        elif node.state == "suspect" and not node.settling:
            yield Problem(
                f"{node.name} is suspect",
                f"{node.reason}; what is asked of it waits, and nothing is moved until its lease ends",
                f"`unios doctor --node {node.name}`, and see the network between the machines",
            )
        elif node.state == "ready" and node.name in facts.infos:
            info = facts.infos[node.name]
            if info is None:
                yield Problem(
                    f"{node.name} does not answer",
                    "what is asked of it waits",
                    f"its supervisor replaces a hung kernel within a second; if it stays: `unios doctor --node {node.name}` on its machine",
                )
            elif info.lease_ms < 0 and facts.processes is not None:
                yield Problem(
                    f"{node.name} is cut off from the store", "its processes are frozen", "see the network between it and the store's machine"
                )


def _costs_of(node: NodeView, facts: Facts) -> str:
    kept = [one.pid for one in facts.processes or () if one.node == node.name and one.state in ("pending", "running", "frozen")]
    moved = "what ran there runs again elsewhere, as its policies say"
    return f"{moved}; {named(kept)} may still run there, out of sight" if kept else moved


def _parts(facts: Facts) -> Iterator[Problem]:
    for name, info in facts.infos.items():
        for part in info.services if info is not None else ():
            if part.state == "waiting":
                since = _first_of_series(facts, f"{part.name} of {name} was replaced")
                costs = _PARTS.get(part.name, "what it does is not done")
                look = f"on its machine: tail nodes/{name}/log/{part.name}.log in its UNIOS_HOME, then `unios doctor --node {name}`"
                yield Problem(f"{part.name} of {name} keeps dying", f"{costs} ({part.reason})", look, since)


def _disks(facts: Facts) -> Iterator[Problem]:
    machines: dict[str, list[str]] = {}
    figures: dict[str, tuple[int, int]] = {}
    by_name = {node.name: node.machine for node in facts.view.nodes}
    for name, info in facts.infos.items():
        if info is not None and info.disk_bytes and info.disk_free_bytes < min(DISK_FREE_MIN, DISK_SHARE_MIN * info.disk_bytes):
            machine = by_name.get(name, name)
            machines.setdefault(machine, []).append(name)
            figures[machine] = (info.disk_free_bytes, info.disk_bytes)
    for machine, names in machines.items():
        free, whole = figures[machine]
        yield Problem(
            f"the disk of {', '.join(names)} is nearly full: {free >> 20} MiB of {whole >> 20} are free",
            "when it is full programs wait with their output, and nothing is started or recorded there",
            "make room on that machine where its UNIOS_HOME is; `unios doctor` there shows how much is left",
        )


def _waiting(facts: Facts) -> Iterator[Problem]:
    by_reason: dict[str, list[ProcessView]] = {}
    for process in facts.processes or ():
        if process.state == "pending" and not process.queueing.held and _NO_PLACE.search(process.reason):
            by_reason.setdefault(process.reason, []).append(process)
    for reason, waiting in by_reason.items():
        pids = [process.pid for process in waiting]
        verb = "wait" if len(pids) > 1 else "waits"
        yield Problem(
            f"{named(pids)} {verb} for a place: {reason}",
            "it is started as soon as a node can take it, and not before" if len(pids) == 1 else "they are started as soon as a node can take them",
            f"bring such a node with `unios up` on its machine, or give up: `unios kill {pids[0]}`",
            min(process.created_ms for process in waiting),
        )


def _other_warnings(view: SystemView, found: list[Problem]) -> Iterator[Problem]:
    """What the kernel warns of and has not been said: the sentence says itself what to do."""
    facts = set(view.notes)
    for warning in view.warnings:
        if warning not in facts and not any(warning.startswith(problem.what) for problem in found):
            what, _colon, rest = warning.partition(": ")
            yield Problem(what, rest, "")


def named(pids: Sequence[int]) -> str:
    """Return pids as words: a few by name, the others by number."""
    few = ", ".join(map(str, pids[:_NAMED_MAX]))
    return few if len(pids) <= _NAMED_MAX else f"{few} and {len(pids) - _NAMED_MAX} more"


def _last(facts: Facts, fits: Callable[[EventView], bool]) -> int:
    return next((event.at_ms for event in reversed(facts.events or ()) if fits(event)), 0)


def _tells(start: str, event: EventView) -> bool:
    return event.text.startswith(start)


def _first_of_series(facts: Facts, start: str) -> int:
    """Return when the latest series of such events began: one is over when there was none for a minute."""
    since = 0
    for event in reversed(facts.events or ()):
        if event.text.startswith(start):
            if since and since - event.at_ms > 60_000:
                break
            since = event.at_ms
    return since


def ended_badly(processes: Sequence[ProcessView], *, since_ms: int) -> list[ProcessView]:
    """Return those that failed, were lost, or ended with another code than 0 and not by their user's wish, newest first."""
    bad = [
        one
        for one in processes
        if one.ended_ms >= since_ms
        and one.wanted != "stopped"
        and (one.state in ("failed", "lost") or (one.state == "exited" and one.exit_code != 0))
    ]
    return sorted(bad, key=lambda one: -one.ended_ms)
