"""What the probes came to, kept in results.json, and the page that is made of it: docs/availability.md."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.availability import predict
from tests.availability.predict import MACHINES, SCHEDULE, Phase
from tests.availability.prober import ANSWER_S, KINDS

KEPT: Final = Path(__file__).with_name("results.json")
PAGE: Final = Path(__file__).resolve().parent.parent.parent / "docs" / "availability.md"
SETTLED_S: Final = 3.0
"""After a fault has come: what a machine without a majority answers later than that it must not have answered. A request may have been under way."""


class Probe(NamedTuple):
    """One probe: who asked what, when, and when it was answered; s from the beginning of the schedule."""

    machine: str
    kind: str
    asked: float
    answered: float | None

    @property
    def is_answered(self) -> bool:
        """Whether in time."""
        return self.answered is not None and self.answered - self.asked <= ANSWER_S


class Course(NamedTuple):
    probes: list[Probe]


def write(course: Course) -> None:
    lines = ",\n".join(
        json.dumps([one.machine, one.kind, round(one.asked, 2), one.answered and round(one.answered, 2)])
        for one in sorted(course.probes, key=lambda probe: probe.asked)
    )
    KEPT.write_text(f"[\n{lines}\n]\n")
    PAGE.write_text(page(read()))


def read() -> Course:
    return Course([Probe(*fields) for fields in json.loads(KEPT.read_text())])


def within(probes: Iterable[Probe], phase: Phase) -> list[Probe]:
    return [one for one in probes if phase.begin_s <= one.asked < phase.end_s]


def expected(probes: Iterable[Probe]) -> list[Probe]:
    """Return those that the quorums predict to be answered."""
    found = []
    for phase in predict.phases(*predict.read()):
        found += [one for one in within(probes, phase) if predict.answered(one.machine, one.kind, phase.fault)]
    return found


def impossible(course: Course) -> list[str]:
    """Return the answers that nobody can have given: the store decided nothing there, and what was under way is over."""
    found = []
    for phase in predict.phases(*predict.read()):
        for one in within(course.probes, phase):
            late = one.asked > phase.begin_s + SETTLED_S
            if (
                phase.fault
                and late
                and one.kind != "call"
                and one.answered
                and one.answered < phase.end_s
                and not predict.decides(one.machine, phase.fault)
            ):
                found.append(f"{one.machine} was answered ({one.kind}) {one.asked:.1f} s after the beginning, and reached no majority")
    return found


HEAD: Final = """# Availability

Made by `python -m tests.availability`, of what is kept in tests/availability/results.json. Do not edit it.

Three pseudo-machines (namespaces, on two cores for all of them), a member of etcd on each. Each machine asks ten times a second, whatever became of the
questions before: five in the store (a write, a linearizable read), four calls of a process that is kept on the next machine, one run of a process. **Answered**
is what is answered rightly within {answer_s:.0f} s. A machine that is dead asks nothing; one that comes back asks from its first second on, while its node
starts. Of one that stands still all stands still but the program that asks. The faults are those of tests/availability/schedule.toml.

**Predicted**: a machine that reaches more than half of the members has all of its questions answered, but for calls of a process on a machine that does not:
that one is frozen. Nothing is predicted for noticing: what is missing to it is what the system needs to notice, elect and come back.

"""


def page(course: Course) -> str:
    """Return the page."""
    length_s, faults = predict.read()
    phases = predict.phases(length_s, faults)
    text = [
        HEAD.format(answer_s=ANSWER_S),
        "| from | for | state | asked | predicted | answered | of those predicted | longest without any answer that was predicted |\n",
    ]
    text.append("|--:|--:|---|--:|--:|--:|--:|---|\n")
    for phase in phases:
        probes = within(course.probes, phase)
        gap = max(((gap_of(probes, machine, phase), machine) for machine in MACHINES), default=(0.0, ""))
        lasting = f"{gap[0]:.1f} s ({gap[1]})" if gap[0] else "-"
        text.append(f"| {phase.begin_s:.0f} s | {phase.end_s - phase.begin_s:.0f} s | {phase.name} | {row(probes)} | {lasting} |\n")
    text.append(f"| | {length_s:.0f} s | **all** | {row(course.probes)} | |\n\n")
    text.append("By what was asked, over all of it:\n\n| kind | asked | predicted | answered | of those predicted |\n|---|--:|--:|--:|--:|\n")
    for kind in KINDS:
        probes = [one for one in course.probes if one.kind == kind]
        text.append(f"| {kind} | {row(probes)} |\n")
    text.append(
        "\nBy the machine that asked, while a fault lasted (answered / asked):\n\n| state | " + " | ".join(MACHINES) + " |\n|---|--:|--:|--:|\n"
    )
    for phase in phases:
        if phase.fault is not None:
            cells = [cell([one for one in within(course.probes, phase) if one.machine == machine]) for machine in MACHINES]
            text.append(f"| {phase.name} | {' | '.join(cells)} |\n")
    wrong = impossible(course)
    text.append(
        f"\nAnswers in the store, or of a run, to a machine that reached no majority, {SETTLED_S:.0f} s after that began: {len(wrong) or 'none'}.\n"
    )
    text.append(f"\n## The schedule\n\n```toml\n{SCHEDULE.read_text()}```\n")
    return "".join(text)


def row(probes: Sequence[Probe]) -> str:
    done, promised = answered(probes), expected(probes)
    return f"{len(probes)} | {share(len(promised), len(probes))} | {share(done, len(probes))} | {percent(answered(promised), len(promised))}"


def answered(probes: Iterable[Probe]) -> int:
    return sum(one.is_answered for one in probes)


def share(part: int, whole: int) -> str:
    return f"{part} ({percent(part, whole)})"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def cell(probes: Sequence[Probe]) -> str:
    return f"{answered(probes)} / {len(probes)}" if probes else "asks nothing"


def gap_of(probes: Sequence[Probe], machine: str, phase: Phase) -> float:
    """Return the longest time in which a machine asked what was predicted to be answered, and nothing was."""
    mine = sorted(one for one in probes if one.machine == machine and predict.answered(machine, one.kind, phase.fault))
    longest, since = 0.0, math.nan
    for one in sorted(mine, key=lambda probe: probe.asked):
        if one.is_answered:
            since = math.nan
            continue
        since = one.asked if math.isnan(since) else since
        longest = max(longest, one.asked - since + 0.1)
    return longest if longest > 0.15 else 0.0
