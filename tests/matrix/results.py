"""How the cells ended, kept in results.json, and the page that is made of it: docs/matrix.md.

Of a cell that was played several times the page shows the worst end, and the longest times among those that ended so.
"""

import json
from pathlib import Path
from typing import Any, Final

from tests.matrix.cell import Outcome, every_cell, impossible
from tests.matrix.faults import FAULTS
from tests.matrix.targets import ENGINES, TARGETS

KEPT: Final = Path(__file__).with_name("results.json")
PAGE: Final = Path(__file__).resolve().parent.parent.parent / "docs" / "matrix.md"
_WORSE: Final = ("masked", "reported", "defect")

HEAD: Final = """# The fault matrix

Made by `python -m tests.matrix`, of what is kept in tests/matrix/results.json. Do not edit it.

On three pseudo-machines (namespaces and loop-mounted disks, on two cores) programs start processes and wait for them, call a server, map over an
executor, take turns at a lock and carry folders; then a fault comes, stays for its time, and goes. A cell is

- **masked T s**: nobody noticed anything but time; T is the longest that any one step took that met the fault, the time for which the fault stayed included;
- **reported T s**: somebody got an error that says what was lost or not done; T s after the fault had gone the system was whole and everything went on;
- **defect**: something hung, was wrong, did not become whole or left something behind;
- **-**: not possible here; the reason is at the end. **?**: not played yet.

In every cell that is not a defect: each acknowledged process ended once and rightly, or its record says why not; no call was done twice; every map was complete
and right; no token of a lock was given twice or accepted out of order; all nodes were ready again and `unios status` well; and there were as many processes,
mounts and control groups as before. A node that was lost several times gets nothing new for 30 s (docs/machines.md): where a fault does that, T holds it.

| to | type |
|---|---|
| go round all cells for an hour, in an order that is drawn | `python -m tests.matrix --minutes 60` |
| play some, once each | `python -m tests.matrix --cells 'etcd:partition:*'` |
| play those that never were | `python -m tests.matrix --new` |
| name them all | `python -m tests.matrix --list` |

It needs root. `./test` plays a few, others each day. To add a fault, a process of the system or a workload: a line in tests/matrix/faults.py, targets.py or
workloads.py.

## The faults

| fault | for | how |
|---|---|---|
{faults}

The programs run on the machine that suffers if one of its processes is hit, and on another one if the machine is. *First machine* is the one that founded the
system and, with the embedded store, has it.
"""


class Book:
    """What is kept while cells are played: each one as soon as it has ended, in the place of what an earlier run found."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        self._new: dict[str, dict[str, Any]] = {}

    def add(self, outcome: Outcome) -> None:
        self._new[outcome.name] = worst(self._new.get(outcome.name), outcome)
        self.write()

    def write(self) -> None:
        """Write the results and the page; what is no cell any more goes."""
        known = {Outcome(fault.name, target.name, engine, "").name for engine in ENGINES for fault, target in every_cell(engine)}
        kept = {**self.kept, **self._new}
        kept = {name: kept[name] for name in sorted(kept) if name in known}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        PAGE.write_text(page(kept))


def worst(before: dict[str, Any] | None, outcome: Outcome) -> dict[str, Any]:
    """Return what stands for a cell after one more time that it was played."""
    now: dict[str, Any] = {**outcome.fields(), "played": 1}
    if before is None:
        return now
    played = before["played"] + 1
    if before["end"] != now["end"]:
        return {**max(before, now, key=lambda one: _WORSE.index(one["end"])), "played": played}
    return {**now, "played": played, **{field: max(before[field], now[field]) for field in ("stall_s", "whole_s")}}


def page(kept: dict[str, dict[str, Any]]) -> str:
    text = [HEAD.format(faults="\n".join(f"| {fault.name} | {fault.hold_s} s | {fault.how} |" for fault in FAULTS))]
    for engine in ENGINES:
        targets = [target for target in TARGETS if engine in target.engines]
        text.append(f"## {'The embedded store (SQLite)' if engine == 'sqlite' else 'etcd, three members of its own'}\n")
        text.append("| | " + " | ".join(target.name for target in targets) + " |")
        text.append("|---" * (len(targets) + 1) + "|")
        for fault in FAULTS:
            cells = [shown(kept.get(Outcome(fault.name, target.name, engine, "").name), impossible(fault, target)) for target in targets]
            text.append(f"| {fault.name} | " + " | ".join(cells) + " |")
        text.append("")
    return "\n".join(text) + "\n" + reports(kept) + reasons()


def shown(outcome: dict[str, Any] | None, why_not: str) -> str:
    if why_not:
        return "-"
    if outcome is None:
        return "?"
    seconds = {"masked": outcome["stall_s"], "reported": outcome["whole_s"]}.get(outcome["end"])
    return outcome["end"] + (f" {seconds:.1f} s" if seconds is not None else "")


def reports(kept: dict[str, dict[str, Any]]) -> str:
    """Return what was said in the cells that are not masked."""
    lines = ["## What was reported\n"]
    lines += [f"- {name}: {sentence(one['said'])}" for name, one in sorted(kept.items()) if one["end"] in ("reported", "defect")]
    return "\n".join(lines) + "\n\n"


def sentence(said: str) -> str:
    """Return the first of what was said, short."""
    first = " ".join(said.split("; ")[0].split())
    return first if len(first) <= 200 else first[:197] + "..."


def reasons() -> str:
    """Return why some cells are not possible here, each reason once."""
    found: dict[str, list[str]] = {}
    for fault, target in ((fault, target) for fault in FAULTS for target in TARGETS):
        if why := impossible(fault, target):
            found.setdefault(f"{fault.name}: {why}", []).append(target.name)
    return "## Not possible here\n\n" + "\n".join(f"- {why}: {', '.join(names)}" for why, names in found.items()) + "\n"
