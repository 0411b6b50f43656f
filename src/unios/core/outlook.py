"""Outlook: for each that waits, why, and about when it begins. Decides only; asked for by people, so it may cost more than a look over the queue.

A reason is a sentence: "held", "waits for 301 to end well", "over quota: ...", "no node that is ready has a gpu", "waits for a core: 8 of 8 are set
aside; 12 before it"; if all nodes that are ready have refused it, what they said. The order is the one of now: the shares of users change while it is
worked off.
"""

from collections.abc import Iterable
from typing import NamedTuple

from unios.core import forecast
from unios.core.capacity import Books, devices_of
from unios.core.forecast import Lengths
from unios.core.nodes import may_speak_for
from unios.core.processes import ProcessRecord
from unios.core.queue import Kind, Queue, Rank, kind_of, mib
from unios.counted import cores, counted


class Wait(NamedTuple):
    """Of one process. `begins_ms` as wall clock, 0: nobody can tell."""

    record: ProcessRecord
    reason: str
    begins_ms: int = 0


def outlook(queue: Queue, books: Books, lengths: Lengths, ready: list[str], now_ms: int) -> list[Wait]:
    """Return all that wait: first those that wait for room, in the order in which they go, then the others by pid."""
    use: dict[str, float] = {}
    ranked: list[tuple[Rank, ProcessRecord, str]] = []
    others: list[Wait] = []
    known: dict[tuple[Kind, str], tuple[str, str]] = {}
    """Of those of one kind that were refused in the same words: what they wait for, and why no node can run them."""
    for record in queue.records():
        sort = (kind_of(record), record.reason if record.refused else "")
        if sort not in known:
            known[sort] = (shortage(books, queue.hopeful(ready, record), record), hopeless(queue, books, ready, record))
        short, nowhere_at_all = known[sort]
        why = held_back(queue, record) or nowhere_at_all
        if why:
            others.append(Wait(record, why))
            continue
        if record.user not in use:
            use[record.user] = queue.use_of(record.user, now_ms)
        ranked.append((queue.rank(record, now_ms, use[record.user]), record, short))
    ranked.sort(key=lambda one: one[0])
    begins = _begins(books, lengths, ready, [record for _rank, record, _short in ranked], now_ms)
    found = [Wait(record, f"{short}; {place} before it", begins.get(record.pid, 0)) for place, (_rank, record, short) in enumerate(ranked)]
    return found + sorted(others, key=lambda wait: wait.record.pid)


def blocked(queue: Queue, books: Books, ready: list[str], record: ProcessRecord) -> str:
    """Return why it would wait even if there were room; "" if it would not."""
    return held_back(queue, record) or hopeless(queue, books, ready, record)


def hopeless(queue: Queue, books: Books, ready: list[str], record: ProcessRecord) -> str:
    """Return why none of the nodes that are ready can run it, as far as is known; "" if one may."""
    if queue.hopeful(ready, record):
        return ""
    if queue.able(ready, record):  # but they have all refused it, and with it was written what they said
        return record.reason or f"{', '.join(record.refused)} cannot run it"
    return nowhere(books, ready, record)


def held_back(queue: Queue, record: ProcessRecord) -> str:
    """Return why it would wait whatever the nodes had to offer; "" if it would not."""
    fate = queue.dependencies.all_of(record)
    if record.queueing.held:
        return "held by its user; `unios release` lets it go on"
    if not fate.met:
        return fate.reason
    over = queue.over_quota(record)
    if over:
        return over
    if queue.over_array_limit(record):
        limit = record.queueing.array_limit
        return f"{counted(limit, 'element')} of its array {'runs' if limit == 1 else 'run'}, its limit"
    return ""


def nowhere(books: Books, ready: list[str], record: ProcessRecord) -> str:
    """Return why no node that is ready could ever run it."""
    user, pinned = record.user, record.pinned
    if pinned and pinned not in ready:
        return f"waits for node {pinned}, which is not ready"
    if any(books.may_run(name, record) for name in ready):
        return f"{pinned} does not have {needs(record)}" if pinned else f"no node that is ready has {needs(record)}"
    known = {name: node for name in ready if (node := books.node(name))}
    barred = [name for name in known if name in record.placing.forbidden and may_speak_for(known[name].users, user)]
    if pinned:
        return f"it is to be on {pinned} alone, and not on {pinned}" if pinned in barred else f"{pinned} runs nothing as {user}"
    if barred:
        return f"it may not be on {', '.join(barred)}, and no other node that is ready runs programs as {user}"
    return f"no node that is ready runs programs as {user}"


def shortage(books: Books, able: list[str], record: ProcessRecord) -> str:
    """Return what it waits for, of the nodes that could run it."""
    resources = record.resources
    if resources.cpu_milli:
        used = sum(books.set_aside(name).cpu_milli for name in able)
        total = sum(node.cores for name in able if (node := books.node(name)))
        what = "a core" if resources.cpu_milli == 1_000 else f"{cores(resources.cpu_milli)} on one node"
        return f"waits for {what}: {used / 1_000:g} of {total} are set aside"
    return f"waits for {needs(record)}"


def needs(record: ProcessRecord) -> str:
    """Return what a process asks for, as a phrase."""
    resources = record.resources
    parts = [f"{resources.cpu_milli / 1_000:g} {'core' if resources.cpu_milli == 1_000 else 'cores'}"] if resources.cpu_milli else []
    if resources.memory_bytes:
        parts.append(f"{mib(resources.memory_bytes)} of memory")
    parts += [f"a {name}" if count == 1 else f"{count} {name}s" for name, count in devices_of(resources)]
    return " and ".join(parts) or "room"


def _begins(books: Books, lengths: Lengths, ready: list[str], order: Iterable[ProcessRecord], now_ms: int) -> dict[int, int]:
    cores = sum(node.cores for name in ready if (node := books.node(name)))
    running = [
        (-(-held.resources.cpu_milli // 1_000), lengths.end_of(held, now_ms))
        for name in ready
        for _pid, held in books.held_on(name)
        if held.resources.cpu_milli
    ]
    waiting = ((record.pid, -(-record.resources.cpu_milli // 1_000), lengths.guess_ms(record)) for record in order)
    return forecast.begins(cores, running, waiting, now_ms)
