"""`unios events`: what happened in the system, oldest first, as a story; with --json or --each the events as they are."""

import contextlib
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from unios.client import audit
from unios.client.events import events as client
from unios.client.nodes import list_nodes
from unios.errors import DataLost, NodeUnknown, UniosError
from unios.limits import EVENTS_KEPT, STORY_QUIET_MS
from unios.shell.moments import moment_of
from unios.shell.session import Session
from unios.shell.signals import pid_of
from unios.shell.story import Story, Told
from unios.shell.table import moment, plain
from unios.shell.words import Given, Misused, Option, Word
from unios.wire.operations import EventView

KINDS: Final = (
    "node", "join", "loss", "recovery", "service", "start", "exit", "oom", "limit", "carry", "device", "policy", "quota", "store",
)  # fmt: skip
_FOLLOWED_MAX: Final = 256
"""Events that have come and are not told yet; over it the reading waits, and the kernel after it."""


class Wanted:
    """Which events were asked for."""

    def __init__(self, given: Given, now_ms: int) -> None:
        self._since_ms = moment_of(given.text("since"), now_ms) if given.text("since") else 0
        self._pids = frozenset(pid_of(text) for text in given.many("pid"))
        self._kinds = frozenset(map(_kind, given.many("kind")))
        name = given.text("node_of")
        self._name = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)") if name else None
        self._node = name

    @property
    def node(self) -> str:
        """The node that they are to be of; empty if of any."""
        return self._node

    @property
    def everything(self) -> bool:
        return not (self._since_ms or self._pids or self._kinds or self._name)

    def takes(self, event: EventView) -> bool:
        return (
            event.at_ms >= self._since_ms
            and (not self._pids or event.pid in self._pids)
            and (not self._kinds or event.kind in self._kinds)
            and (self._name is None or event.node == self._node or bool(self._name.search(event.text)))
        )


def _kind(text: str) -> str:
    if text not in KINDS:
        raise Misused(f"--kind {text}: there are {', '.join(KINDS)}")
    return text


def _audit(session: Session, given: Given) -> int:
    """Who did what to the system's safety; ends with an error if the log is not what it was."""
    others = [name for name in ("follow", "pid", "kind", "node_of", "each") if given.values.get(name)]
    if others:
        raise Misused(f"--audit takes --last and --since, not --{others[0].replace('_', '-')}")
    since_ms = moment_of(given.text("since"), time.time_ns() // 1_000_000) if given.text("since") else 0
    entries, verdict = audit.read(session.connection, last=given.number("last"))
    shown = [entry for entry in entries if entry.at_ms >= since_ms]
    if session.json:
        found = [{name: getattr(entry, name) for name in entry.__struct_fields__} for entry in shown]
        session.print_json({"entries": found, "first": verdict.first, "number": verdict.number, "fault": verdict.fault})
    else:
        for entry in shown:
            who = f"{entry.user} (pid {entry.pid})" if entry.pid else entry.user
            where = f"{entry.node} from {entry.via}" if entry.via else entry.node
            often = f" ({entry.times} times)" if entry.times > 1 else ""
            session.print(f"{entry.number:>6} {moment(entry.at_ms)}  {where}: {who} {entry.act} {entry.outcome}{often}  {entry.what}".rstrip())
    if verdict.fault:
        raise DataLost(f"{verdict.fault}: whoever did that could write the store; compare it with what other nodes say (--node)")
    return 0


def events(session: Session, given: Given) -> int:
    if given.flag("audit"):
        return _audit(session, given)
    now_ms = time.time_ns() // 1_000_000
    wanted, following, last = Wanted(given, now_ms), given.flag("follow"), given.number("last")
    if "last" in given.values and not last:
        raise Misused("-n takes a number from 1 on")
    happened = _happened(session, wanted, following=following, last=last)
    if wanted.node and not following:
        happened = _known(session, happened, wanted.node)
    if session.json and not following:
        session.print_json([describe(event) for event in happened])
    elif session.json:
        for event in happened:
            session.print_json(describe(event))
    elif given.flag("each"):
        for event in happened:
            session.print(f"{moment(event.at_ms)}  {plain(event.node):<4} {plain(event.kind):<18} {event.text}")
    else:
        _tell(session, _followed(happened) if following else _told(happened))
    return 0


def _happened(session: Session, wanted: Wanted, *, following: bool, last: int) -> Iterator[EventView]:
    """Yield what was asked for; `last` counts what is wanted of the past."""
    if wanted.everything or not last:
        yield from (event for event in client(session.connection, follow=following, last=last) if wanted.takes(event))
        return
    past = list(client(session.connection))
    yield from deque((event for event in past if wanted.takes(event)), maxlen=min(last, EVENTS_KEPT))
    if following:  # told apart by what they are: the clocks of nodes differ, so the newest need not have the latest time
        known = frozenset(past)
        yield from (event for event in client(session.connection, follow=True) if wanted.takes(event) and event not in known)


def _known(session: Session, happened: Iterable[EventView], node: str) -> Iterator[EventView]:
    """Yield them all; if there is none, NodeUnknown unless there is such a node: of one that has left long ago there may be."""
    some = False
    for event in happened:
        some = True
        yield event
    if not some and node not in (view.name for view in list_nodes(session.connection)):
        raise NodeUnknown(f"there is no node {node}, and nothing that is kept of what happened tells of one: unios nodes lists them")


def _told(happened: Iterable[EventView]) -> Iterator[Told]:
    story = Story()
    for event in happened:
        yield from story.add(event)
    yield from story.rest()


def _followed(happened: Iterator[EventView]) -> Iterator[Told]:
    """Yield what has come to rest: nothing was added to it for STORY_QUIET_MS. Another thread reads, since reading waits."""
    come: queue.Queue[EventView | UniosError | None] = queue.Queue(_FOLLOWED_MAX)

    def read() -> None:
        failure: UniosError | None = None
        try:
            for event in happened:
                come.put(event)
        except UniosError as error:
            failure = error
        come.put(failure)

    threading.Thread(target=read, daemon=True).start()
    story, heard_s = Story(), time.monotonic()
    ahead_ms = 0
    while True:
        with contextlib.suppress(queue.Empty):
            event = come.get(timeout=STORY_QUIET_MS / 4_000)
            if not isinstance(event, EventView):
                yield from story.rest()
                if event is not None:
                    raise event
                return
            yield from story.add(event)
            heard_s, ahead_ms = time.monotonic(), max(ahead_ms, event.at_ms)
        # By this side's clock, but from the newest event on: the clocks of the nodes may be apart from it.
        yield from story.quiet(ahead_ms + int((time.monotonic() - heard_s) * 1000), STORY_QUIET_MS)


def _tell(session: Session, told: Iterable[Told]) -> None:
    day = time.strftime("%Y-%m-%d")
    for line in told:
        now = moment(line.at_ms)
        if now[:10] != day:
            day = now[:10]
            session.print(f"-- {day}")
        session.print(f"{now[11:19]} {line.text}")


def describe(event: EventView) -> dict[str, object]:
    """Return an event as JSON shows it."""
    return {name: getattr(event, name) for name in event.__struct_fields__}


WORDS = {
    "events": Word(
        events,
        Option("follow", "-f", "--follow", text="Go on with what happens from now on; in JSON, a line each."),
        Option("last", "-n", "--last", metavar="N", number=True, text="Only the last so many."),
        Option("since", "--since", metavar="TIME", text="Only from then on: 10m or 1h30m (ago), 14:30, 2026-11-24T14:30."),
        Option("pid", "--pid", metavar="PID", many=True, text="Only what concerns this process."),
        Option("node_of", "--node-of", metavar="NAME", text="Only what happened on this node or mentions it."),
        Option("kind", "--kind", metavar="KIND", many=True, text=f"Only events of this kind: {', '.join(KINDS)}."),
        Option("audit", "--audit", text="Who did what to the system's safety, or was not let do it; checked. For the privileged."),
        Option("each", "--each", text="Each event on a line of its own, with node and kind; nothing is put together."),
        text="Tell what happened in the system: nodes lost and what became of their processes, parts replaced, starts and ends. "
        "What belongs together is one line, and what repeats itself is told once with how often.",
    )
}
