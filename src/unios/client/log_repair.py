"""Looking after the copies of a log: closed spans of which too few replicas are left are copied to other nodes, whoever does it.

A closed span never changes, so nobody has to be kept away: a copy is made, and then the record is changed if the span is still in it. Done twice it does no harm.
"""

import asyncio
from typing import TYPE_CHECKING

from unios.core.log_replica import Refused
from unios.core.logs import LogRecord, Repair, Span, plan_repairs, replaced
from unios.errors import Compacted, DataLost, UniosError
from unios.wire.logs import AppendLog

if TYPE_CHECKING:
    from unios.client.log import LogCalls


async def repair(calls: "LogCalls") -> bool:
    """Make the copies that are wanting; return whether none is left to be made. Idempotent."""
    record = await calls.present()
    nodes = await calls.nodes(suspect=True)
    there = {node.node for node in nodes}
    asked = [(span, node) for span in record.spans for node in span.replicas if not span.is_open and span.end > record.first and node in there]
    whole = await asyncio.gather(*(_has_all(calls, span, node) for span, node in asked))
    bad = {(span.number, node) for (span, node), has in zip(asked, whole, strict=True) if not has}
    done = True
    for each in plan_repairs(record, nodes, bad):
        done = await _copy(calls, record, each) and done
    return done and all(any(node in there for node in span.replicas) for span in record.spans)


async def _has_all(calls: "LogCalls", span: Span, node: str) -> bool:
    """Ask a replica for the last entry that it should have. One that does not answer now is believed."""
    try:
        part = await calls.part(node, span, span.end - 1, closed=span.end)
    except DataLost:
        return False
    except UniosError:
        return True
    return bool(part.entries) or part.refused == "trimmed"


async def _copy(calls: "LogCalls", record: LogRecord, wanted: Repair) -> bool:
    span, at = wanted.span, max(wanted.span.first, record.first)
    while at < span.end:
        entries = await _read(calls, wanted, at)
        body = AppendLog(calls.name, span.number, at, of=span.epoch, entries=entries, restores=True, user=calls.user)
        end = await calls.replica(wanted.target, "logs.append", body) if entries else None
        at += len(entries)
        if end is None or isinstance(end, Refused) or end < at:
            return False
        at = min(end, span.end)  # what it had before need not be sent
    while True:
        view = await calls.record()
        if view.record is None:
            return True
        try:
            after = replaced(view.record, span, gone=wanted.gone, by=wanted.target)
        except Compacted:  # trimmed meanwhile
            return True
        if (await calls.change(after, view.version)).changed:
            return len(after.spans) == 0 or len(wanted.sources) + 1 >= after.copies


async def _read(calls: "LogCalls", wanted: Repair, at: int) -> tuple[bytes, ...]:
    """Read on from whichever source has it."""
    for source in wanted.sources:
        try:
            part = await calls.part(source, wanted.span, at, closed=wanted.span.end)
        except UniosError:
            continue
        if part.entries:
            return part.entries
    return ()
