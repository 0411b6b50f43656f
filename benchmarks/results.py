"""RESULTS.md: one section per benchmark, replaced on each run, the others left as they are."""

from pathlib import Path

from benchmarks.row import Report, markdown_table

FILE = Path(__file__).resolve().parent / "RESULTS.md"
ORDER = (
    "boot",
    "spawn",
    "failover",
    "streams",
    "terminal",
    "queue",
    "carry",
    "files",
    "calls",
    "tasks",
    "objects",
    "locks",
    "store",
    "logs",
    "scale",
    "control",
)
HEAD = """# Results

Written by `python -m benchmarks NAME [--peers]`; each run replaces its section. Do not edit.

*ratio* is the figure divided by the limit or by the peer's figure. **MISSED**: over its limit. *ahead*, *behind*: of a peer, no limit. *same run*: the
peer was measured beside ours on the same machine in the same run; *baseline*: it was measured earlier (see `shared/peers`), and says less.
n: samples. p50 and p99 are ranks, not interpolated. MB is 10^6 bytes. Small noisy machines: ratios matter, absolute figures do not.
"""


def write(report: Report, machine: str, file: Path = FILE) -> None:
    """Replace the section of this report. Atomic."""
    sections = _sections(file)
    notes = "".join(f"- {note}\n" for note in report.notes)
    sections[report.name] = f"## {report.name}\n\n{machine}\n\n{markdown_table(report.rows)}\n" + (f"\n{notes}" if notes else "")
    part = file.with_suffix(".part")
    part.write_text("\n".join([HEAD, *(_fenced(name, sections[name]) for name in ORDER if name in sections)]))
    part.replace(file)


def _fenced(name: str, text: str) -> str:
    return f"<!-- {name} -->\n{text}<!-- end of {name} -->\n"


def _sections(file: Path) -> dict[str, str]:
    """Return the sections that are there, by name, without their fences."""
    text = file.read_text() if file.exists() else ""
    found = {}
    for name in ORDER:
        _before, begins, rest = text.partition(f"<!-- {name} -->\n")
        body, ends, _after = rest.partition(f"<!-- end of {name} -->")
        if begins and ends:
            found[name] = body
    return found
