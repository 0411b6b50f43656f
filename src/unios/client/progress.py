"""Progress: one line about how far a loop over results has come: in a terminal on stderr, in a notebook as a bar, and anywhere else nothing.

What it says is made by pure functions from what is counted and a clock; they draw at most PROGRESS_PER_S times a second, whatever comes how fast.
"""

import contextlib
import html
import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sized
from typing import Final, Protocol, TextIO, TypeVar

from unios.errors import CallerError
from unios.limits import PROGRESS_PER_S

T = TypeVar("T")
_BAR_MAX: Final = 40
_BAR_MIN: Final = 4
_COLUMNS: Final = 80


class _Screen(Protocol):
    """Where progress is shown."""

    def draw(self, done: int, total: int | None, elapsed_s: float) -> None: ...

    def end(self, done: int, total: int | None, elapsed_s: float) -> None: ...


def progress(items: Iterable[T], total: int | None = None, *, what: str = "") -> Iterator[T]:
    """Yield what `items` yields, and show meanwhile how much of it has come: results of a map, futures as they complete, anything.

    `total`: how many will come, by default as many as `items` has, if it says; unknown without. `what`: a few words before the bar. Nothing is shown
    where nobody would see it: stderr is no terminal and there is no notebook. Raises CallerError if `total` is below 0.
    """
    if total is not None and total < 0:
        raise CallerError(f"there cannot be {total} items: total is 0 or more, or None where nobody knows")
    if total is None and isinstance(items, Sized):
        total = len(items)
    screen = _screen(_plain(what))
    return iter(items) if screen is None else _shown(items, total, screen)


def _shown(items: Iterable[T], total: int | None, screen: _Screen) -> Iterator[T]:
    began = drawn = time.monotonic()
    done = 0
    screen.draw(0, total, 0.0)
    try:
        for item in items:
            done += 1
            now = time.monotonic()
            if now - drawn >= 1 / PROGRESS_PER_S:
                drawn = now
                screen.draw(done, total, now - began)
            yield item
    finally:
        screen.end(done, total, time.monotonic() - began)


def _screen(what: str) -> _Screen | None:
    """Return where to show it, None for nowhere."""
    shell = _notebook()
    if shell is not None:
        return _Notebook(what)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed, replaced or none
        if os.isatty(sys.stderr.fileno()) and os.environ.get("TERM", "") != "dumb":
            return _Terminal(what, sys.stderr)
    return None


def _notebook() -> object | None:
    """Return the notebook that this runs in, None if it is none. Imports nothing: where there is one, IPython is there."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return shell if getattr(shell, "kernel", None) is not None else None


class _Terminal:
    def __init__(self, what: str, stream: TextIO) -> None:
        self._what, self._stream = what, stream

    def draw(self, done: int, total: int | None, elapsed_s: float) -> None:
        self._write("\r" + line(self._what, done, total, elapsed_s, columns=self._columns()) + "\x1b[K")

    def end(self, done: int, total: int | None, elapsed_s: float) -> None:
        self.draw(done, total, elapsed_s)
        self._write("\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone is no reason to lose results
            self._stream.write(text)
            self._stream.flush()

    def _columns(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(self._stream.fileno()).columns or _COLUMNS
        return _COLUMNS


class _Bar:
    """What a notebook shows: the browser the bar, and whatever has no HTML the line."""

    def __init__(self, what: str, done: int, total: int | None, elapsed_s: float) -> None:
        self._text = line(what, done, total, elapsed_s, columns=_COLUMNS)
        value = f'value="{min(done, total)}" max="{max(total, 1)}"' if total is not None else ""
        told = html.escape(" ".join(filter(None, (what, _told(done, total, elapsed_s)))))
        self._html = f"<progress {value}></progress> {told}"

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._html


class _Notebook:
    def __init__(self, what: str) -> None:
        self._what = what
        self._handle: object = None

    def draw(self, done: int, total: int | None, elapsed_s: float) -> None:
        bar = _Bar(self._what, done, total, elapsed_s)
        if self._handle is None:
            from importlib import import_module

            self._handle = import_module("IPython.display").display(bar, display_id=True)
        else:
            self._handle.update(bar)  # type: ignore[attr-defined]

    def end(self, done: int, total: int | None, elapsed_s: float) -> None:
        self.draw(done, total, elapsed_s)


def line(what: str, done: int, total: int | None, elapsed_s: float, *, columns: int) -> str:
    """Return the line, never wider than `columns` - 1: terminals differ in what they do with a full one."""
    told, room = _told(done, total, elapsed_s), columns - 1
    start = f"{what} " if what else ""
    if total is None or total == 0:
        return _cut(start + told, room)
    percent = f"{min(done, total) * 100 // total:3d}% "
    bar = min(_BAR_MAX, room - _width(start + percent + told) - 3)
    if bar < _BAR_MIN:
        return _cut(start + percent + told, room)
    full = min(done, total) * bar // total
    return f"{start}{percent}|{'#' * full}{' ' * (bar - full)}| {told}"


def _told(done: int, total: int | None, elapsed_s: float) -> str:
    """Return how much has come, since when, and about how long the rest takes at the pace so far."""
    count = f"{done}" if total is None else f"{done}/{total}"
    times = [_clock(elapsed_s)]
    if done and total is not None and done < total:
        times.append(f"{_clock(elapsed_s * (total - done) / done)} left")
    if done and elapsed_s > 0:
        times.append(_pace(done / elapsed_s))
    return f"{count} in {', '.join(times)}"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _pace(per_s: float) -> str:
    return f"{per_s:.0f}/s" if per_s >= 10 else f"{per_s:.1f}/s" if per_s >= 1 else f"{1 / per_s:.1f} s each"


def _plain(text: str) -> str:
    """Return what does not move a cursor."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _width(text: str) -> int:
    return sum(_columns_of(sign) for sign in text)


def _columns_of(sign: str) -> int:
    if unicodedata.combining(sign):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def _cut(text: str, columns: int) -> str:
    """Return as much of the text as fits."""
    width = 0
    for at, sign in enumerate(text):
        width += _columns_of(sign)
        if width > columns:
            return text[:at]
    return text
