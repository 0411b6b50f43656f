"""`unios status`: whether all is well, and if not, what to type. Exit code 0: all is well; 1: something needs a person.

What is asked is asked at once and waited for LOOK_S at most: a status that hangs with the system would be none.
"""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from unios.client import nodes as client
from unios.client.channel import Asked, unpack
from unios.client.connection import Connection
from unios.client.unfinished import unfinished
from unios.counted import counted
from unios.errors import UniosError
from unios.limits import STATUS_EVENTS, STATUS_LOOK_MS
from unios.shell.nodes import HEAD, describe, node_row
from unios.shell.problems import Facts, Problem, broken_off, ended_badly, find
from unios.shell.session import Session
from unios.shell.table import age, colourful, moment, plain, table
from unios.shell.words import Given, Word
from unios.wire.operations import Empty, EventView, ListProcesses, NodeInfo, ProcessView, SystemView, WatchEvents

_HOUR_MS: Final = 3_600_000
_BAD_MAX: Final = 3
_REASON_LENGTH: Final = 70
_NEEDS_SOMEBODY: Final = 1


def status(session: Session, given: Given) -> int:
    facts = look(session.connection)
    problems = find(facts) + broken_off(unfinished(session.home))
    now_ms = time.time_ns() // 1_000_000
    if session.json:
        session.print_json(_described(facts, problems))
    else:
        for line in report(facts, problems, now_ms, colour=colourful()):
            session.print_table(line)
    return _NEEDS_SOMEBODY if problems else 0


def look(connection: Connection) -> Facts:
    """Ask everything at once. Raises UniosError only if no kernel answers."""
    view = client.status(connection)
    until = time.monotonic() + STATUS_LOOK_MS / 1000
    ready = [node.name for node in view.nodes if node.state == "ready"]
    infos = {name: connection.begin("node.info", Empty(), node=name) for name in ready}
    processes = connection.begin("processes.list", ListProcesses(ended=True))
    events = connection.begin("node.events", WatchEvents(last=STATUS_EVENTS))
    answers = {name: _answer(asked, NodeInfo, until)[0] for name, asked in infos.items()}
    records, why = _answer(processes, tuple[ProcessView, ...], until)
    return Facts(view, answers, records, _all(events, until), why)


def _answer(asked: Asked, type_: Any, until: float) -> tuple[Any, str]:
    """Return the answer, None if there is none in time or a failure instead; and what that said."""
    if not asked.wait(max(0.01, until - time.monotonic())):
        asked.close()
        return None, ""
    try:
        return unpack(asked.finish(timeout_s=1.0)[0], type_), ""
    except UniosError as error:
        return None, str(error)


def _all(asked: Asked, until: float) -> list[EventView] | None:
    found = []
    try:
        while (event := asked.next(EventView, timeout_s=max(0.01, until - time.monotonic()))) is not None:
            found.append(event)
    except UniosError:
        return found or None
    finally:
        asked.close()
    return found


def _described(facts: Facts, problems: list[Problem]) -> dict[str, object]:
    fields: dict[str, object] = {name: getattr(facts.view, name) for name in facts.view.__struct_fields__}
    fields["nodes"] = [describe(node) for node in facts.view.nodes]
    return {**fields, "well": not problems, "problems": [problem._asdict() for problem in problems]}


def report(facts: Facts, problems: list[Problem], now_ms: int, *, colour: bool) -> Iterator[str]:
    """Yield what a person reads."""
    yield _verdict(facts.view, problems, colour=colour)
    for number, problem in enumerate(problems, 1):
        yield ""
        since = f", since {moment(problem.since_ms)[11:19]} ({age(problem.since_ms, now_ms)} ago)" if problem.since_ms else ""
        yield _painted(plain(f"{number:>2}. {problem.what}{since}"), 1, colour)
        if problem.costs:
            yield plain(f"    means: {problem.costs}")
        if problem.type:
            yield plain(f"    type:  {problem.type}")
    yield ""
    if facts.view.stale_ms:
        yield _painted(
            plain(f"stale: {facts.view.stale_ms / 1000:.1f} s: the store has not answered this node for so long; what follows is as it was then"),
            1,
            colour,
        )
    yield table(HEAD, [node_row(node) for node in facts.view.nodes if node.state != "left" or node.running])
    yield plain(f"processes: {_counts(facts)}")
    yield from map(plain, _bad(facts, now_ms))
    yield plain(f"store: {_where(facts.view)}; system {facts.view.system}, unios {facts.view.version}")
    for node in facts.view.nodes:
        if node.state == "suspect" and node.settling:
            yield _painted(plain(f"note: the link to {node.name} is being made"), 2, colour)
    for note in facts.view.notes:
        yield _painted(plain(f"note: {note}"), 2, colour)


def _where(view: SystemView) -> str:
    if view.keepers:
        return f"{view.engine} on {', '.join(view.keepers)}"
    return f"{view.engine} on machine {view.store_machine[:12]}" if view.engine == "sqlite" else f"{view.engine}, which is run elsewhere"


def _verdict(view: SystemView, problems: list[Problem], *, colour: bool) -> str:
    if problems:
        return _painted("1 thing needs you:" if len(problems) == 1 else f"{len(problems)} things need you:", 31, colour)
    there = [node for node in view.nodes if node.state == "ready"]
    return _painted(f"all is well: {counted(len(there), 'node')} ready", 32, colour)


def _painted(text: str, code: int, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def _counts(facts: Facts) -> str:
    if facts.processes is None:
        return ", ".join(f"{count} {state}" for state, count in sorted(facts.view.processes.items()) if count) or "none"
    states = Counter(one.state for one in facts.processes)
    parts = [f"{states['running']} running"]
    if states["pending"]:
        reason, count = Counter(one.reason for one in facts.processes if one.state == "pending").most_common(1)[0]
        most = f" ({'' if count == states['pending'] else f'{count} of them: '}{reason[:_REASON_LENGTH]})" if reason else ""
        parts.append(f"{states['pending']} waiting{most}")
    if states["frozen"]:
        parts.append(f"{states['frozen']} frozen")
    return ", ".join(parts)


def _bad(facts: Facts, now_ms: int) -> Iterator[str]:
    bad = ended_badly(facts.processes or (), since_ms=now_ms - _HOUR_MS)
    if not bad:
        return
    named = ", ".join(f"{one.pid} ({_how(one)})" for one in bad[:_BAD_MAX]) + (" ..." if len(bad) > _BAD_MAX else "")
    yield f"in the last hour {len(bad)} ended badly: {named}; `unios ps -a` and `unios logs {bad[0].pid}` say why"


def _how(process: ProcessView) -> str:
    if process.state == "exited":
        return f"signal {process.signal}" if process.signal else f"exit {process.exit_code}"
    return process.state


WORDS = {
    "status": Word(
        status,
        text="Say whether all is well, and if not: what is wrong, since when, what that means and what to type. "
        "Exit code 0: all is well; 1: something needs a person.",
    )
}
