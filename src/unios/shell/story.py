"""Story: what happened in the system as a person would tell it. Pure: events go in, lines with times come out.

The loss of a node and what became of its processes are one line; what repeats itself is told once, with how often. Nothing is left out: whatever
does not fit a group is a line of its own, and `--json` gives the events as they are.
"""

import re
from typing import Final, NamedTuple

from unios.limits import STORY_GROUPS_MAX
from unios.wire.operations import EventView

FOLD_MS: Final = 60_000
"""What says the same again after a longer pause begins a new line."""
LOSS_MS: Final = 30_000
"""What becomes of a lost node's processes is told with the loss if it comes within so long."""
_PROCESS: Final = re.compile(r"process (?P<pid>\d+)(?P<colon>:?) (?P<said>.*)", re.DOTALL)
_LOST: Final = re.compile(r"(\S+) is lost: (.*)")
_AGAIN: Final = re.compile(r"(\S+) was lost: incarnation \d+ (runs again on (\S+)|waits for a node)")
_GONE: Final = re.compile(r"(\S+) was lost and (.*)")
_BACK: Final = re.compile(r"(\S+) is back as incarnation \d+")
_RUNS: Final = re.compile(r"runs on (\S+) as incarnation \d+")
_PLURALS: Final = {"runs": "run", "was": "were", "waits": "wait", "has": "have", "is": "are"}
_NAMED_MAX: Final = 6


class Told(NamedTuple):
    """A line. `at_ms`: when it began."""

    at_ms: int
    text: str


class Group:
    """Events that are told together."""

    def __init__(self, event: EventView, key: tuple[str, ...]) -> None:
        self.key = key
        self.first_ms = self.last_ms = event.at_ms
        self.events = [event]
        self.pids: set[int] = {event.pid} if event.pid else set()

    def add(self, event: EventView) -> None:
        self.last_ms = max(self.last_ms, event.at_ms)
        self.events.append(event)
        if event.pid:
            self.pids.add(event.pid)

    def takes(self, event: EventView, key: tuple[str, ...]) -> bool:
        """Whether it says the same again, soon enough."""
        return key == self.key and event.at_ms - self.last_ms <= FOLD_MS

    def told(self) -> Told:
        """Return its line."""
        text = self.events[0].text
        match = _PROCESS.fullmatch(text)
        pids = list(dict.fromkeys(str(event.pid) for event in self.events))
        if match is None:
            return Told(self.first_ms, text + self._how_often())
        if len(pids) == 1:
            return Told(self.first_ms, f"{match['pid']}{match['colon']} {match['said']}{self._how_often()}")
        if match["colon"]:
            return Told(self.first_ms, f"{_list(pids)}: {match['said']}{self._span()}")
        verb, space, rest = match["said"].partition(" ")
        return Told(self.first_ms, f"{_list(pids)} {_PLURALS.get(verb, verb)}{space}{rest}{self._span()}")

    def _how_often(self) -> str:
        return f" ({len(self.events)} times{self._span(' in ')})" if len(self.events) > 1 else ""

    def _span(self, before: str = "") -> str:
        seconds = round((self.last_ms - self.first_ms) / 1000)
        shown = f"{seconds} s" if seconds < 120 else f"{round(seconds / 60)} min"
        if before:
            return f"{before}{shown}" if seconds else ""
        return f" (within {shown})" if seconds else ""


class Loss(Group):
    """A node was lost, and what became of what ran there."""

    def __init__(self, event: EventView, name: str, why: str) -> None:
        super().__init__(event, ("loss", name))
        self.name, self._why = name, why
        self._where: dict[str, str] = {}
        """By pid: the node where it runs again; "" if it waits for one."""
        self._ended: dict[str, str] = {}
        """By pid: why it does not run again."""

    def takes(self, event: EventView, key: tuple[str, ...]) -> bool:
        """Whether it is a part of the same loss."""
        if event.at_ms - self.first_ms > LOSS_MS:
            return False
        if key == self.key:
            return True
        match = _PROCESS.fullmatch(event.text)
        if match is None:
            return False
        runs = _RUNS.fullmatch(match["said"])
        if runs is not None:
            return match[1] in self._where
        found = _AGAIN.fullmatch(match["said"]) or _GONE.fullmatch(match["said"])
        return found is not None and found[1] == self.name

    def ends(self, event: EventView) -> bool:
        """Whether it tells of what ran on the node since: no line from before the loss goes on with that."""
        return bool(event.pid) and re.search(rf"\bon {re.escape(self.name)}(?![\w-])", event.text) is not None

    def add(self, event: EventView) -> None:
        super().add(event)
        match = _PROCESS.fullmatch(event.text)
        if match is None:
            return
        pid, said = match[1], match["said"]
        runs, again, gone = _RUNS.fullmatch(said), _AGAIN.fullmatch(said), _GONE.fullmatch(said)
        if runs is not None:
            self._where[pid] = runs[1]
        elif again is not None:
            self._where[pid] = again[3] or ""
        elif gone is not None:
            self._ended[pid] = gone[2]

    def told(self) -> Told:
        """Return its line."""
        parts = [f"{self.name} was lost: {self._why}"]
        running = [f"{pid} on {node}" for pid, node in self._where.items() if node]
        waiting = [pid for pid, node in self._where.items() if not node]
        if running:
            what = "process of it runs" if len(running) == 1 else "processes of it run"
            parts.append(f"{len(running)} {what} again: {_list(running)}")
        if waiting:
            parts.append(f"{_list(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for a node")
        reasons: dict[str, list[str]] = {}
        for pid, why in self._ended.items():
            reasons.setdefault(why, []).append(pid)
        parts += [f"{_list(pids)} {'is' if len(pids) == 1 else 'are'} lost with it, since {why}" for why, pids in reasons.items()]
        return Told(self.first_ms, "; ".join(parts))


def _list(words: list[str]) -> str:
    shown = ", ".join(words[:_NAMED_MAX])
    return shown if len(words) <= _NAMED_MAX else f"{shown} and {len(words) - _NAMED_MAX} more"


class Story:
    """Takes events in order. At most STORY_GROUPS_MAX groups are open: over it the oldest is told as it stands."""

    def __init__(self) -> None:
        self._open: list[Group] = []

    def add(self, event: EventView) -> list[Told]:
        """Take an event; return what has to be told to make room."""
        match = _LOST.fullmatch(event.text) if event.kind == "loss" and not event.pid else None
        key = ("loss", match[1]) if match is not None else (event.kind, _sentence(event))
        group = self._group_of(event, key)
        if group is not None:
            group.add(event)
            return []
        self._open.append(Loss(event, match[1], match[2]) if match is not None else Group(event, key))
        return [self._open.pop(0).told()] if len(self._open) > STORY_GROUPS_MAX else []

    def _group_of(self, event: EventView, key: tuple[str, ...]) -> Group | None:
        """Return the latest group that takes it, None if it begins a line.

        Not one before the line in which its process came last, unless that one has told of this process: an end would be told before its start.
        Not one before the loss of the node that it tells of, and no loss from before that node's return.
        """
        later = False
        for group in reversed(self._open):
            if group.takes(event, key) and (not later or event.pid in group.pids):
                return group
            back = _BACK.fullmatch(group.events[0].text)
            if (isinstance(group, Loss) and group.ends(event)) or (back is not None and key == ("loss", back[1])):
                return None
            later = later or event.pid in group.pids
        return None

    def quiet(self, at_ms: int, quiet_ms: int) -> list[Told]:
        """Tell the oldest groups, as many as nothing was added to for so long."""
        told = []
        while self._open and at_ms - self._open[0].last_ms >= quiet_ms:
            told.append(self._open.pop(0).told())
        return told

    def rest(self) -> list[Told]:
        """Tell all that is open."""
        told = [group.told() for group in self._open]
        self._open.clear()
        return told


def _sentence(event: EventView) -> str:
    """Return what it says, without whom of the processes it says it of."""
    match = _PROCESS.fullmatch(event.text)
    return match["said"] if match is not None else event.text
