"""Draws `unios top`: from the model and a size to lines of text, each with a style. Pure; fullscreen.py puts them on a terminal.

Whatever the size and whatever processes call themselves, there are exactly `rows` lines and none is wider than `columns`.
"""

import unicodedata
from collections.abc import Sequence
from typing import Final, NamedTuple

from unios.counted import counted
from unios.shell.snapshots import NodeRow, ProcessRow, whole
from unios.shell.table import plain
from unios.shell.top_model import Model

_BARS: Final = " ▁▂▃▄▅▆▇█"
_BARS_ASCII: Final = " .:-=+*#@"
_STYLES: Final = {"lost": "red", "failed": "red", "suspect": "yellow", "pending": "yellow", "frozen": "cyan", "left": "dim"}
_KEYS: Final = "k kill  f freeze  t thaw  r renice  s sort  / find  Enter more  h help  q quit"
HELP: Final = (
    "unios top",
    "",
    "  up, down, i, j     choose a process; also PageUp, PageDown, Home, End",
    "  k                  send it a signal: asks which one; Enter alone: TERM",
    "  f, t               freeze it; thaw it",
    "  r                  renice it: asks for the nice value, -20 to 19",
    "  Enter              its record, why it is where it is, and its last lines",
    "  s                  sort by the next of cpu, mem, time, pid, node, user",
    "  /                  show only what contains ...; Escape: all again",
    "  q, Ctrl-C          quit; Ctrl-Z: stop, fg goes on",
    "",
    "BUSY, MEMORY and LOAD are the machine's, whatever runs there: nodes of one",
    "machine show the same. CPU is of one core: 200% are two cores. The bars are",
    "the last minute, the newest to the right.",
    "",
    "any of q, Escape, Enter: back",
)


class Line(NamedTuple):
    """`style`: "", bold, dim, reverse, red, yellow or cyan."""

    text: str
    style: str = ""


def cut(text: str, columns: int) -> str:
    """Return as much of a text as fits into so many cells; wide characters take two, combining ones none."""
    if text.isascii():
        return text[:columns]
    taken = 0
    for at, character in enumerate(text):
        taken += 2 if unicodedata.east_asian_width(character) in "WF" else 0 if unicodedata.combining(character) else 1
        if taken > columns:
            return text[:at]
    return text


def draw(model: Model, rows: int, columns: int, *, ascii_only: bool = False) -> list[Line]:
    """Return the screen."""
    if model.page == "help":
        lines = [Line(text, "bold" if at == 0 else "") for at, text in enumerate(HELP)]
    elif model.page == "details":
        lines = [Line(plain(text), "bold" if at == 0 else "") for at, text in enumerate(model.details)][model.scrolled :][: max(0, rows - 1)]
        lines += [Line("")] * (rows - 1 - len(lines)) + [Line("up, down: scroll   q, Escape, Enter: back", "dim")]
    else:
        lines = _list(model, rows, columns, ascii_only=ascii_only)
    lines = lines[:rows] + [Line("")] * (rows - len(lines))
    return [Line(cut(line.text, columns), line.style) for line in lines]


def _list(model: Model, rows: int, columns: int, *, ascii_only: bool) -> list[Line]:
    head = [_summary(model, ascii_only=ascii_only), *_nodes(model, max(1, rows // 3), columns, ascii_only=ascii_only)]
    room = max(0, rows - len(head) - 2)
    return [*head, *_processes(model, room), _bottom(model)][-rows:]


def _summary(model: Model, *, ascii_only: bool) -> Line:
    nodes, processes = model.snapshot.nodes, model.snapshot.processes
    if not nodes:
        return Line("unios  nobody has answered yet", "bold")
    ready = sum(node.state == "ready" for node in nodes)
    states = {state: sum(row.state == state for row in processes) for state in ("running", "pending", "frozen")}
    counts = "  ".join(f"{count} {'waiting' if state == 'pending' else state}" for state, count in states.items() if count or state == "running")
    busy = whole(nodes)
    share = f"  busy {busy:4.0%} {bars(list(model.histories.get('', ())), 20, ascii_only=ascii_only)}" if busy is not None else ""
    return Line(f"unios  {ready} of {counted(len(nodes), 'node')} ready  {counts}{share}", "bold")


def bars(history: Sequence[float], wide: int, *, ascii_only: bool = False) -> str:
    """Return a history (0 to 1, newest last) of TOP_HISTORY samples at most as `wide` bars, each the mean of its share of a minute."""
    from unios.limits import TOP_HISTORY

    marks = _BARS_ASCII if ascii_only else _BARS
    each = TOP_HISTORY / wide
    text = ""
    for at in range(wide):
        last = len(history) - int((wide - 1 - at) * each)
        part = history[max(0, last - round(each)) : max(0, last)]
        share = sum(part) / len(part) if part else -1.0
        text += " " if share < 0 else marks[min(8, max(1, int(share * 8 + 0.999)))]
    return text


def _nodes(model: Model, room: int, columns: int, *, ascii_only: bool) -> list[Line]:
    nodes = model.snapshot.nodes
    wide = max([4, *(len(node.name) for node in nodes)])
    bar = 15 if columns >= 80 else 0
    lines = [Line(f"{'NODE':<{wide}} STATE   CORES  BUSY {'LAST MINUTE':<{bar}.{bar}}  MEMORY      LOAD  RUN WAIT LINK", "dim")]
    shown = list(nodes)
    if len(nodes) > room:
        shown = sorted(nodes, key=lambda node: (node.state == "ready", -(node.busy or 0.0)))[: max(0, room - 1)]
    for node in shown:
        lines.append(_node(model, node, wide, bar, ascii_only=ascii_only))
    if len(shown) < len(nodes):
        lines.append(Line(f"... and {len(nodes) - len(shown)} more: `unios nodes` lists them", "dim"))
    return lines


def _node(model: Model, node: NodeRow, wide: int, bar: int, *, ascii_only: bool) -> Line:
    busy = "-" if node.busy is None else f"{node.busy:.0%}"
    load = "-" if node.load is None else f"{node.load:.2f}"
    memory = "-" if node.memory_bytes is None else f"{size(node.memory_bytes)}/{size(node.memory_total)}"
    history = bars(list(model.histories.get(node.name, ())), bar, ascii_only=ascii_only) if bar else ""
    text = (
        f"{node.name:<{wide}} {node.state:<7} {node.cores or '-':>5} {busy:>5} {history}  {memory:<10} {load:>5} "
        f"{node.running:>4} {node.waiting:>4} {node.reason or node.link}"
    )
    return Line(plain(text), _STYLES.get(node.state, ""))


def size(number: int) -> str:
    """Return bytes in at most five characters, in units of 1024."""
    if number < 1024:
        return f"{number}B"
    amount, unit = number / 1024, 0
    while amount >= 999.5 and unit < 4:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f}{'KMGTP'[unit]}" if amount < 9.95 else f"{amount:.0f}{'KMGTP'[unit]}"


def clock(cpu_ms: int) -> str:
    """Return processor time as minutes:seconds.hundredths, or hours and more."""
    seconds = cpu_ms / 1000
    if seconds < 6_000:
        return f"{int(seconds // 60)}:{seconds % 60:05.2f}"
    return f"{int(seconds // 3600)}h{int(seconds % 3600 // 60):02d}m"


def _processes(model: Model, room: int) -> list[Line]:
    rows, chosen = model.rows(), model.chosen()
    user = min(12, max([4, *(len(row.user) for row in rows)]))
    node = max([4, *(len(row.node) for row in rows)])
    mark = {"cpu": "CPU%", "mem": "MEM", "time": "TIME", "pid": "PID", "node": "NODE", "user": "USER"}[model.sort]
    head = f"{'PID':>5} {'USER':<{user}} {'STATE':<7} {'NODE':<{node}} {'CPU%':>5} {'MEM':>5} {'TIME':>8} {'NI':>3} COMMAND"
    lines = [Line(head.replace(f"{mark} ", f"{mark}*", 1), "bold")]
    at = next((index for index, row in enumerate(rows) if chosen is not None and row.pid == chosen.pid), 0)
    first = max(0, min(at - room // 2, len(rows) - room))
    for row in rows[first : first + max(0, room)]:
        style = "reverse" if chosen is not None and row.pid == chosen.pid else _STYLES.get(row.state, "")
        lines.append(Line(process_line(row, user, node), style))
    if not rows and model.snapshot.nodes:
        lines.append(Line("no process" + (f" contains {model.filter!r}" if model.filter else " runs: try `unios run -d sleep 100`"), "dim"))
    return lines[: room + 1] + [Line("")] * (room + 1 - len(lines))


def process_line(row: ProcessRow, user: int, node: int) -> str:
    """Return the line of a process; `user` and `node` are the widths of those columns."""
    cpu = "-" if row.cpu is None else f"{100 * row.cpu:.0f}" if row.cpu >= 9.995 else f"{100 * row.cpu:.1f}"
    memory = "-" if row.memory_bytes is None else size(row.memory_bytes)
    time = "-" if row.cpu_ms is None else clock(row.cpu_ms)
    note = f"  ({row.reason})" if row.reason and row.state == "pending" else ""
    return plain(
        f"{row.pid:>5} {row.user[:user]:<{user}} {row.state[:7]:<7} {row.node or '-':<{node}} {cpu:>5} {memory:>5} {time:>8} {row.nice:>3} "
        f"{row.command}{note}"
    )


def _bottom(model: Model) -> Line:
    if model.question is not None:
        return Line(f"{model.question.prompt}{plain(model.question.typed)}_", "bold")
    if model.message:
        return Line(plain(model.message), "bold")
    if model.snapshot.trouble:
        return Line(plain(model.snapshot.trouble), "red")
    return Line(f"only {plain(model.filter)!r} (Escape: all)  {_KEYS}" if model.filter else _KEYS, "dim")
