"""Row: one measured figure, what it is held against, and how it came out. And Report: the rows of one benchmark."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `value` and `reference` are in `unit`; `n` is the number of samples behind `value`.

    `reference` is named by `against`. With `at_most` the ratio value / reference has that limit; without it the reference is a peer's figure, or
    nothing is expected of the figure. `rate`: more is better (only peers' rows care).
    """

    what: str
    value: float
    unit: str
    n: int
    against: str = ""
    reference: float | None = None
    at_most: float | None = None
    rate: bool = False
    own: bool = False
    """Whether the limit is one that we set ourselves (docs/decisions/0036), beside the issue's."""

    @property
    def ratio(self) -> float | None:
        """Return value / reference; None where there is no reference or it is 0."""
        return self.value / self.reference if self.reference else None

    @property
    def verdict(self) -> str:
        """Return "ok" or "MISSED" of a limit, "ahead" or "behind" of a peer, "" where nothing is expected."""
        if self.ratio is None:
            return ""
        if self.at_most is not None:
            return "ok" if self.ratio <= self.at_most else "MISSED"
        return "ahead" if (self.ratio >= 1) == self.rate else "behind"

    def fields(self) -> dict[str, object]:
        """Return the row as one JSON object."""
        return {
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "n": self.n,
            "against": self.against,
            "reference": self.reference,
            "ratio": self.ratio,
            "at_most": self.at_most,
            "own": self.own,
            "verdict": self.verdict,
        }

    def cells(self) -> tuple[str, str, str, str, str]:
        """Return what, figure, limit or peer, ratio, verdict, as text."""
        against = self.against
        if self.reference is not None:
            against += f" {figure(self.reference, self.unit)}"
        if self.at_most not in (None, 1.0):
            against = f"{'own ' * self.own}limit {self.at_most:g} x {against}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return f"{self.what} (n={self.n})", figure(self.value, self.unit), against, ratio, self.verdict


@dataclass(slots=True)
class Report:
    """Rows of one benchmark, with `notes`: sentences on how to read them and on what could not be measured."""

    name: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    strict: bool = False
    """Whether a missed limit is a failure of the command that measured it."""

    @property
    def missed(self) -> list[Row]:
        """Return the rows over their limits."""
        return [row for row in self.rows if row.verdict == "MISSED"]


def limited(what: str, value: float, unit: str, n: int, limit: float) -> Row:
    """Return a row that is held against an absolute limit, in the same unit."""
    return Row(what, value, unit, n, "limit", limit, 1.0)


def figure(value: float, unit: str) -> str:
    """Return a figure with three significant digits and its unit."""
    text = f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
    return f"{text} {unit}".rstrip()


HEAD = ("what", "figure", "limit or peer", "ratio", "")


def text_table(rows: list[Row]) -> str:
    """Return the rows as aligned lines for a terminal."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown_table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|--:|---|--:|---|"]
    for row in rows:
        what, value, against, ratio, verdict = row.cells()
        lines.append(f"| {what} | {value} | {against} | {ratio} | {f'**{verdict}**' if verdict == 'MISSED' else verdict} |")
    return "\n".join(lines)
