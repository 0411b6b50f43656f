"""The peers, run on this machine by the lab in ../shared/peers: each in a room of its own, from an environment of its own (PEERS_VENV).

`setup.sh` of the lab installs them; nothing of theirs is ever imported here. PEERS_LAB names the lab's folder if it is elsewhere.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks import baseline
from benchmarks.row import Report, Row
from benchmarks.samples import percentile

LAB = Path(os.environ.get("PEERS_LAB") or Path(__file__).resolve().parents[2] / "shared" / "peers")
ROOMS = Path(__file__).resolve().parent / "rooms"


class Figure(NamedTuple):
    """One line of the lab. `value` in `unit`; n samples."""

    peer: str
    metric: str
    value: float
    unit: str
    n: int


class Peers:
    """What the peers came to in this run. `wanted`: whether they shall run at all."""

    def __init__(self, wanted: bool) -> None:
        self.figures: list[Figure] = []
        self.failures: dict[str, str] = {}
        self.why_not = "" if wanted else "`--peers` was not given"
        if wanted and not (LAB / "lab.py").exists():
            self.why_not = "the peers' lab is not there"
        elif wanted and os.geteuid() != 0:
            self.why_not = "the peers' rooms need root"

    def run(self, script: Path, names: Sequence[str], limit_s: float = 900) -> None:
        """Run a script of the lab, or one of rooms/, for these peers; keep what it measured and why a peer could not run."""
        if self.why_not:
            return
        child = subprocess.Popen(
            [sys.executable, str(script), *names],
            env={**os.environ, "PYTHONPATH": str(LAB), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            said, _nothing = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            said = b""
            self.failures.update(dict.fromkeys(names, f"it took more than {limit_s:.0f} s"))
        finally:
            if child.poll() is None:  # the lab empties its rooms on SIGTERM
                child.send_signal(signal.SIGTERM)
                child.wait()
        for line in said.splitlines():
            if line.startswith(b"{"):  # Ray says this and that between the figures
                self._take(json.loads(line))

    def _take(self, line: dict[str, object]) -> None:
        if line["metric"] == "could_not_run":
            self.failures[str(line["peer"])] = " ".join(str(line["note"]).split())[-160:]
        else:
            self.figures.append(Figure(str(line["peer"]), str(line["metric"]), float(str(line["value"])), str(line["unit"]), int(str(line["n"]))))

    def rows(
        self, ours: Row, metric: str, names: tuple[str, ...], scale: float = 1.0, *, inverse: float = 0.0, at_most: float | None = None
    ) -> list[Row]:
        """Return `ours` against each peer: what it came to in this run (p50 of its figures), else its baseline, marked as such.

        `inverse`: theirs is a rate and ours a time; `inverse` divided by theirs is in our unit. `at_most`: the limit of the ratio.
        """
        found = []
        for name in names:
            values = [figure.value * scale for figure in self.figures if (figure.peer, figure.metric) == (name, metric)]
            if values:
                found.append(Row(ours.what, ours.value, ours.unit, ours.n, f"{name}, same run:", percentile(values, 50), rate=ours.rate))
            else:
                found.extend(baseline.rows(LAB, ours, metric, (name,), scale))
        if inverse:
            found = [replace(row, reference=inverse / row.reference) for row in found if row.reference]
        return [replace(row, at_most=at_most) for row in found]

    def tell(self, report: Report) -> None:
        """Add to the notes which peers did not run, and why."""
        if self.why_not:
            report.notes.append(f"The peers did not run ({self.why_not}); their figures are those of the {baseline.LABEL}, measured earlier.")
        for name, why in self.failures.items():
            text = why.replace(str(LAB), "<lab>").replace(str(Path(os.environ.get("PEERS_VENV") or "/nonexistent")), "<PEERS_VENV>")
            report.notes.append(f"{name} could not run: {text}. Where a figure of it is shown it is that of the {baseline.LABEL}.")
