"""One cell of the matrix: let the workloads run, apply a fault to a target, take it back, and judge.

A cell ends **masked** (nobody noticed anything but time), **reported** (somebody got an error that says what was lost, or what was not done) or as a
**defect**: something hung, was wrong, did not become whole again or left something behind.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from tests.matrix.faults import FAULTS, Fault
from tests.matrix.targets import TARGETS, Target
from tests.matrix.workloads import REPORTED, Running, Step, process, start
from tests.matrix.world import FORKS, WHOLE_S, World, node

BEGINS_S: Final = 60
LEFT_S: Final = 30
SITS_S: Final = 30
PASSING: Final = (FORKS, "groups")


@dataclass(frozen=True)
class Outcome:
    """`end`: masked, reported or defect. `stall_s`: the longest that any step took that met the fault, `slowest`. `whole_s`: from when the fault was
    taken back (a crash: from when it came) until the system was whole and every workload had succeeded again. `said`: what was reported, or what is wrong."""

    fault: str
    target: str
    engine: str
    end: str
    stall_s: float = 0.0
    whole_s: float = 0.0
    slowest: str = ""
    said: str = ""

    @property
    def name(self) -> str:
        return name_of(self.fault, self.target, self.engine)

    def fields(self) -> dict[str, Any]:
        return asdict(self)


def name_of(fault: str, target: str, engine: str) -> str:
    return f"{engine}:{fault}:{target}"


def impossible(fault: Fault, target: Target) -> str:
    """Return why a fault cannot hit a target here, or nothing."""
    if why := fault.not_here or next((why for name, why in target.not_here.items() if fault.name.startswith(name)), ""):
        return why
    has = {"process": True, "network": target.whole or target.ports is not None, "disk": target.whole, "records": bool(target.records)}
    missing = {"network": "no network of its own", "disk": "shares the machine's disk", "records": "keeps no record"}
    return "" if has[fault.needs] else missing[fault.needs]


def every_cell(engine: str) -> list[tuple[Fault, Target]]:
    return [(fault, target) for target in TARGETS if engine in target.engines for fault in FAULTS]


def play(world: World, fault: Fault, target: Target) -> Outcome:
    """Play one cell that is possible. After a defect the world is not to be used again."""
    return _Cell(world, fault, target).play()


def changes(before: dict[str, int], now: dict[str, int]) -> list[str]:
    """Return what there is more of than before, and which parts there are fewer of. A zygote or a spare comes again when it is needed."""
    names = sorted(before.keys() | now.keys())
    counts = [(name, before.get(name, 0), now.get(name, 0)) for name in names]
    return [f"{name}: {had}, now {has}" for name, had, has in counts if has > had or (has < had and name not in PASSING)]


class Judgement:
    """What is wrong, and what was reported. `end` says which of the three a cell is."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.reports: list[str] = []
        self.lasting = False
        """It is said of this fault that a person must act: until then what waits, waits."""

    def steps(self, steps: list[Step]) -> None:
        for step in steps:
            if step.how == "late" and self.lasting:
                continue
            if step.how in REPORTED and step.text.strip():
                self.reports.append(f"{step.name}: {step.how}: {step.text}")
            elif step.how != "ok":
                self.wrong.append(f"{step.name}: {step.how}: {step.text}")

    @property
    def end(self) -> str:
        return "defect" if self.wrong else "reported" if self.reports else "masked"


class _Cell(Judgement):
    def __init__(self, world: World, fault: Fault, target: Target) -> None:
        super().__init__()
        self.world, self.fault, self.target = world, fault, target

    def play(self) -> Outcome:
        before = self.world.calm()
        self.world.told.clear()
        self.world.sitter = start(self.world, "sleep", "1000", on=node(self.target.machine(self.world)))
        running = Running(self.world, self.world.observer if self.target.whole else self.world.victim)
        if silent := running.wait_for_all(0, BEGINS_S):
            self.wrong.append(f"before any fault these do not go on: {silent}")
        began, healed, whole = self._break(running)
        hung = running.stop()
        self.wrong += [f"{name} hangs" for name in hung if not self.lasting]
        self.reports += self.world.told
        if not self.lasting:
            self._judge_sitter()
        steps = running.steps()
        self.steps([step for step in steps if step.ended > began or step.how == "alien"])
        if not self.wrong and not self.lasting:
            self._judge_leftovers(before)
        met = [step for step in steps if step.ended > began and step.began < healed + 1]
        return self._outcome(max(met, key=lambda step: step.ended - step.began, default=None), whole - healed)

    def _break(self, running: Running) -> tuple[float, float, float]:
        """Return when the fault came, when it went, and when all was whole again."""
        began = time.monotonic()
        undo = self.fault.apply(self.world, self.target)
        healed = began
        if self.fault.stays or self.target.whole:
            time.sleep(self.fault.hold_s)
            healed = time.monotonic()
        undo()
        deadline = time.monotonic() + WHOLE_S
        word = self.target.beyond.get(self.fault.name, "")
        while (why := self.world.ailing()) and time.monotonic() < deadline:
            if word and (said := self.world.says(self.target.machine(self.world), word)):
                self.reports.append(f"unios status: {said}")
                self.lasting = True
                return began, healed, time.monotonic()
            time.sleep(0.1)
        if not why:
            why = running.wait_for_all(healed, WHOLE_S)
        if why:
            self.wrong.append(f"not whole {WHOLE_S} s after the fault has gone: {why}")
        return began, healed, time.monotonic()

    def _judge_sitter(self) -> None:
        """The process that sat on the victim runs, or its record says why it does not."""
        deadline = time.monotonic() + SITS_S
        word = self.target.beyond.get(self.fault.name, "")
        while True:
            try:
                now = process(self.world, self.world.sitter)
                if now["state"] not in ("pending", "frozen") or time.monotonic() >= deadline:
                    break
            except AssertionError:
                if not word or time.monotonic() >= deadline:
                    raise
                if said := self.world.says(self.target.machine(self.world), word):
                    self.reports.append(f"unios status: {said}")  # it was found only now, by whoever read that part first
                    self.lasting = True
                    return
            time.sleep(0.1)
        if now["state"] == "running":
            self.world.observer.unios("kill", "-KILL", str(self.world.sitter), check=False)
        elif now["state"] in ("pending", "frozen") or not now["reason"]:
            self.wrong.append(f"the process that sat there is {now['state']}, and no word why: {now}")
        else:
            self.reports.append(f"the process that sat there {now['state']}: {now['reason']}")

    def _judge_leftovers(self, before: dict[str, int]) -> None:
        deadline = time.monotonic() + LEFT_S
        while (changed := changes(before, self.world.census())) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.wrong += [f"not as before: {text}" for text in changed]

    def _outcome(self, slowest: Step | None, whole_s: float) -> Outcome:
        said = list(dict.fromkeys(self.wrong or self.reports))
        text = "; ".join(said[:4]) + (f"; and {len(said) - 4} more" if len(said) > 4 else "")
        stall_s = slowest.ended - slowest.began if slowest else 0.0
        times = (round(stall_s, 1), round(max(whole_s, 0), 1))
        return Outcome(self.fault.name, self.target.name, self.world.engine, self.end, *times, slowest.name if slowest else "", text)
