"""Supervision: when a part of a node is started, and when one that does not beat is killed. Decides only; kernel/supervisor.py acts.

Source: the reincarnation server of MINIX 3 (Herder et al. 2006). Invariants:
- a part that runs is never started a second time;
- one that has not beaten for HUNG_MS is killed once, but not for time in which the supervisor itself did not run;
- the first death is answered at once; deaths in a row are answered ever more slowly, up to a bound;
- a part that had beaten for HEALTHY_MS before it died begins a new row: time in which it only started up, or hung, is no health.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from unios.limits import BEAT_MS, HEALTHY_MS, HUNG_MS, RESTART_DELAY_MS_FIRST, RESTART_DELAY_MS_MAX

STARTING_MS: Final = 5_000
"""How long a part may take to its first beat."""
PAUSE_MS: Final = 2 * BEAT_MS
"""A longer gap between two ticks means that the supervisor did not run; then every part gets its time again."""


class Tick(msgspec.Struct, frozen=True, tag="tick"):
    """It is `now_ms`; `beats` are the times of the last beats, 0 or absent for none. All of one clock."""

    now_ms: int
    beats: dict[str, int]


class Started(msgspec.Struct, frozen=True, tag="started"):
    """A part runs, just started or found running."""

    name: str
    pid: int
    now_ms: int


class Died(msgspec.Struct, frozen=True, tag="died"):
    """`code` is -1 if unknown, `signal` 0 if none."""

    name: str
    pid: int
    code: int
    signal: int
    now_ms: int


class Wanted(msgspec.Struct, frozen=True, tag="wanted"):
    """From now on this part shall run, or with `run` false need not. Idempotent."""

    name: str
    run: bool = True


class Start(msgspec.Struct, frozen=True, tag="start"):
    name: str


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """SIGKILL: what hangs does not hear anything else."""

    name: str
    pid: int
    why: str


Event = Tick | Started | Died | Wanted
Order = Start | Kill


class Part:
    """One part as the supervisor knows it."""

    __slots__ = ("beaten_ms", "beating_ms", "deaths", "due_ms", "killed", "name", "pid", "reason", "restarts", "since_ms")

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.since_ms = 0
        self.beating_ms = self.beaten_ms = 0
        """The first and the last beat seen of what runs now."""
        self.due_ms = 0
        self.deaths = 0
        self.restarts = 0
        self.killed = ""
        self.reason = ""

    @property
    def state(self) -> str:
        return "running" if self.pid else "waiting" if self.deaths > 1 else "starting"

    def describe(self) -> dict[str, object]:
        """Return what `status` shows."""
        return {"name": self.name, "pid": self.pid, "restarts": self.restarts, "state": self.state, "reason": self.reason}


class Supervision:
    """The parts of one node."""

    def __init__(self, names: Iterable[str]) -> None:
        self._parts = {name: Part(name) for name in names}
        self._looked_ms = 0
        self._grace_ms = 0

    @property
    def names(self) -> list[str]:
        return list(self._parts)

    def knows(self, name: str) -> bool:
        """Whether that part is to run."""
        return name in self._parts

    def status(self) -> list[Part]:
        return list(self._parts.values())

    def on(self, event: Event) -> list[Order]:
        """Take in an event, return what to do."""
        match event:
            case Tick(now_ms, beats):
                return self._look(now_ms, beats)
            case Started(name, pid, now_ms):
                part = self._parts.get(name)
                if part is not None:
                    part.pid, part.since_ms, part.killed = pid, now_ms, ""
                    part.beating_ms = part.beaten_ms = 0
                return []
            case Died():
                return self._died(event)
            case Wanted(name, run):
                if run:
                    self._parts.setdefault(name, Part(name))
                else:
                    self._parts.pop(name, None)
                return []

    def wait_ms(self, now_ms: int, beats: dict[str, int]) -> int:
        """Return when to look again: when the next part would be too long without a beat, and never later than in BEAT_MS."""
        wait_ms = BEAT_MS
        for part in self._parts.values():
            if part.pid and not part.killed:
                left_ms = max(beats.get(part.name, 0), part.since_ms, self._grace_ms) + HUNG_MS + 1 - now_ms
                if 0 < left_ms < wait_ms:
                    wait_ms = left_ms
        return wait_ms

    def _look(self, now_ms: int, beats: dict[str, int]) -> list[Order]:
        if now_ms - self._looked_ms > PAUSE_MS:
            self._grace_ms = now_ms
        self._looked_ms = now_ms
        orders: list[Order] = []
        for part in self._parts.values():
            if not part.pid:
                if now_ms >= part.due_ms:
                    part.due_ms = now_ms + STARTING_MS
                    orders.append(Start(part.name))
            elif not part.killed:
                beat_ms = beats.get(part.name, 0)
                if beat_ms >= part.since_ms and now_ms - beat_ms <= HUNG_MS:  # as nearly always: no step more for it
                    part.beating_ms, part.beaten_ms = part.beating_ms or beat_ms, beat_ms
                else:
                    orders.extend(self._hung(part, beat_ms, now_ms))
        return orders

    def _hung(self, part: Part, beat_ms: int, now_ms: int) -> list[Order]:
        has_beaten = beat_ms >= part.since_ms
        if has_beaten:
            part.beating_ms, part.beaten_ms = part.beating_ms or beat_ms, beat_ms
        silent_ms = now_ms - max(beat_ms, part.since_ms, self._grace_ms)
        if silent_ms <= (HUNG_MS if has_beaten else STARTING_MS):
            return []
        part.killed = f"it hung: no sign of life for {silent_ms} ms"
        return [Kill(part.name, part.pid, part.killed)]

    def _died(self, event: Died) -> list[Order]:
        part = self._parts.get(event.name)
        if part is None or part.pid != event.pid:
            return []
        part.deaths = 1 if part.beaten_ms - part.beating_ms >= HEALTHY_MS else part.deaths + 1
        part.restarts += 1
        part.pid = 0
        how = f"signal {event.signal}" if event.signal else f"exit code {event.code}" if event.code >= 0 else "an unknown cause"
        part.reason = part.killed or f"it died of {how}"
        delay_ms = 0 if part.deaths == 1 else min(RESTART_DELAY_MS_FIRST << (part.deaths - 2), RESTART_DELAY_MS_MAX)
        if delay_ms:
            part.due_ms = event.now_ms + delay_ms
            part.reason += f"; {part.deaths} times in a row, the next start is {delay_ms} ms later"
            return []
        part.due_ms = event.now_ms + STARTING_MS
        return [Start(part.name)]
