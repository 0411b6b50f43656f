"""Plain tables and ages: as wide as needed, cut to the terminal, coloured only on one."""

import os
import time
from collections.abc import Iterable, Sequence

COLOURS = {
    "ready": 32,
    "running": 32,
    "pending": 33,
    "frozen": 36,
    "migrating": 36,
    "suspect": 33,
    "lost": 31,
    "failed": 31,
}


def is_terminal(descriptor: int = 1) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def width() -> int:
    """Return the terminal's columns, 0 if stdout is none."""
    if not is_terminal():
        return 0
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 80


def colourful() -> bool:
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, columns: int | None = None, colour: bool | None = None) -> str:
    """Return lines with aligned columns. `columns`: cut lines to that many characters, 0 for never; by default the terminal's."""
    columns = width() if columns is None else columns
    colour = colourful() if colour is None else colour
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [list(head), *cells]) for at in range(len(head))]
    lines = [_line(head, widths, columns)]
    for row in cells:
        line = _line(row, widths, columns)
        lines.append(_paint(line, row) if colour else line)
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int], columns: int) -> str:
    line = "  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip()
    return line[: columns - 1] + "…" if columns and len(line) > columns else line


def _paint(line: str, row: Sequence[str]) -> str:
    for cell in row:
        if cell in COLOURS:
            return line.replace(f" {cell}", f" \x1b[{COLOURS[cell]}m{cell}\x1b[0m", 1)
    return line


def plain(cell: object) -> str:
    """Return it as text on one line, with all that a terminal would obey and not show escaped: whoever wrote it may be another user."""
    text = str(cell)
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{_code(c):02x}" for c in text)


def _code(character: str) -> int:
    """Return its number; of what os.fsdecode made of a byte that is not UTF-8, that byte."""
    return ord(character) - 0xDC00 if "\udc80" <= character <= "\udcff" else ord(character)


def age(from_ms: int, to_ms: int = 0) -> str:
    """Return the time from one wall clock to another (0: now) in at most two units, "-" if it has not begun."""
    if not from_ms:
        return "-"
    seconds = max(0, (to_ms or time.time_ns() // 1_000_000) - from_ms) // 1000
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86_400}d{seconds % 86_400 // 3600:02d}h"


def moment(at_ms: int) -> str:
    """Return a wall clock as local time, to the millisecond."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at_ms // 1000))}.{at_ms % 1000:03d}"
