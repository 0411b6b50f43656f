"""The peers' baseline: figures measured earlier, cited where a peer does not run beside ours. Never mixed up with fresh ones."""

import contextlib
import re
from pathlib import Path

from benchmarks.row import Row

SOURCE = "baseline-2026-11-23"
LABEL = "baseline of 2026-11-23"


def figures(lab: Path) -> dict[tuple[str, str], float]:
    """Return (metric, peer) -> value of the tables of the baseline's Markdown, units as in the metric's name; {} if it is not there."""
    try:
        text = (lab / f"{SOURCE}.md").read_text()
    except OSError:
        return {}
    return _table(text, "launch") | _table(text, "calls") | _turned(_table(text, "fs"))


def _table(text: str, area: str) -> dict[tuple[str, str], float]:
    lines = [line for line in text.partition(f"\n## {area}\n")[2].partition("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    if len(cells) < 3:
        return {}
    metrics = [re.sub(r" \(.*\)$", "", name) for name in cells[0]]
    found = {}
    for row in cells[2:]:
        for metric, value in zip(metrics[1:], row[1:], strict=False):
            with contextlib.suppress(ValueError):  # empty, or "45 of 46"
                found[metric, row[0]] = float(value)
    return found


def _turned(found: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Return a table that has the peers side by side and the metrics below each other."""
    return {(re.sub(r" \(.*\)$", "", metric), peer): value for (peer, metric), value in found.items()}


def rows(lab: Path, ours: Row, metric: str, peers: tuple[str, ...], scale: float = 1.0) -> list[Row]:
    """Return `ours` held against each peer's baseline figure, times `scale` to get to our unit."""
    known = figures(lab)
    return [
        Row(ours.what, ours.value, ours.unit, ours.n, f"{peer}, {LABEL}:", known[metric, peer] * scale, rate=ours.rate)
        for peer in peers
        if (metric, peer) in known
    ]
