"""What `unios top` shows and what its keys mean. Pure: snapshots and keys go in, orders come out; the loop in top.py carries them out.

It never asks anybody and never draws. Invariants: the selection follows its process, not its line; histories hold HISTORY_S samples at most.
"""

from collections import deque
from typing import Final, NamedTuple

from unios.limits import TOP_HISTORY
from unios.shell.renice import nice_of
from unios.shell.signals import number_of
from unios.shell.snapshots import ProcessRow, Snapshot, whole
from unios.shell.words import Misused

SORTS: Final = ("cpu", "mem", "time", "pid", "node", "user")
_PAGE: Final = 10
_TYPED_MAX: Final = 200


class Quit(NamedTuple):
    """Order: restore the terminal and end."""


class Act(NamedTuple):
    """Order: `verb` is signal (number), renice (number), freeze or thaw."""

    verb: str
    pid: int
    number: int = 0


class Look(NamedTuple):
    """Order: bring what is known of a process; `Model.tell_details` shows it."""

    pid: int


Order = Quit | Act | Look


class Question(NamedTuple):
    """A line that is being typed at the bottom. `about`: signal, renice or filter."""

    about: str
    pid: int
    prompt: str
    typed: str = ""


class Model:
    """The state of one view."""

    def __init__(self) -> None:
        self.snapshot = Snapshot(0.0)
        self.sort = SORTS[0]
        self.filter = ""
        self.selected = 0
        """A pid; 0: the first line."""
        self.question: Question | None = None
        self.page = "list"
        """list, help or details"""
        self.details: tuple[str, ...] = ()
        self.scrolled = 0
        """Lines of a page of help or details that are above the screen."""
        self.message = ""
        self.histories: dict[str, deque[float]] = {}
        """By node, and under "" for the whole; 0 to 1, newest last."""

    # snapshots

    def take(self, snapshot: Snapshot) -> None:
        """Show a newer moment."""
        rows = {row.pid for row in snapshot.processes}
        if self.selected and self.selected not in rows:
            self.selected = self._neighbour(rows)
        self.snapshot = snapshot
        for name in set(self.histories) - {node.name for node in snapshot.nodes} - {""}:
            del self.histories[name]
        for name, busy in [*((node.name, node.busy) for node in snapshot.nodes), ("", whole(snapshot.nodes))]:
            self.histories.setdefault(name, deque(maxlen=TOP_HISTORY)).append(busy or 0.0)

    def _neighbour(self, rows: set[int]) -> int:
        """Return the pid that stands where the one that is gone stood, as near as there is one."""
        before = [row.pid for row in self.rows()]
        at = before.index(self.selected) if self.selected in before else 0
        return next((pid for pid in [*before[at:], *reversed(before[:at])] if pid in rows), 0)

    def rows(self) -> list[ProcessRow]:
        """Return the processes that the filter lets through, in order."""
        needle = self.filter.lower()
        kept = [
            row for row in self.snapshot.processes if not needle or needle in f"{row.pid} {row.user} {row.state} {row.node} {row.command}".lower()
        ]
        keys = {
            "cpu": lambda row: (-(row.cpu or 0.0), -(row.cpu_ms or 0), row.pid),
            "mem": lambda row: (-(row.memory_bytes or 0), row.pid),
            "time": lambda row: (-(row.cpu_ms or 0), row.pid),
            "pid": lambda row: row.pid,
            "node": lambda row: (not row.node, len(row.node), row.node, row.pid),
            "user": lambda row: (row.user, row.pid),
        }
        return sorted(kept, key=keys[self.sort])

    def chosen(self) -> ProcessRow | None:
        """Return the selected process, the first if none is; None if there is none."""
        rows = self.rows()
        return next((row for row in rows if row.pid == self.selected), rows[0] if rows else None)

    # keys

    def key(self, key: str) -> Order | None:
        """Take a key: a character, or a name such as "up", "enter", "escape"."""
        self.message = ""
        if self.question is not None:
            return self._answer(self.question, key)
        if self.page != "list":
            return self._turn_page(key)
        return self._command(key)

    def _turn_page(self, key: str) -> Order | None:
        if key in ("q", "escape", "enter", "h", "?", "left"):
            self.page, self.scrolled = "list", 0
        else:
            self.scrolled = max(0, self.scrolled + {"down": 1, "j": 1, "up": -1, "pagedown": _PAGE, " ": _PAGE, "pageup": -_PAGE}.get(key, 0))
            self.scrolled = min(self.scrolled, max(0, len(self.details) - 1)) if self.page == "details" else 0
        return None

    def _command(self, key: str) -> Order | None:
        if key in ("q", "Q", "interrupt"):
            return Quit()
        moves = {"down": 1, "j": 1, "up": -1, "i": -1, "pagedown": _PAGE, "pageup": -_PAGE, "home": -1_000_000, "end": 1_000_000}
        if key in moves:
            self._move(moves[key])
        elif key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
            self.message = f"sorted by {self.sort}"
        elif key == "/":
            self.question = Question("filter", 0, "show only what contains: ", self.filter)
        elif key == "escape":
            self.filter = ""
        elif key in ("h", "?"):
            self.page = "help"
        elif key in ("k", "r", "f", "t", "enter"):
            return self._on_process(key)
        return None

    def _on_process(self, key: str) -> Order | None:
        row = self.chosen()
        if row is None:
            self.message = "there is no process to choose"
            return None
        self.selected = row.pid
        if key == "k":
            self.question = Question("signal", row.pid, f"signal to {row.pid} [TERM]: ")
        elif key == "r":
            self.question = Question("renice", row.pid, f"nice value of {row.pid}, now {row.nice}: ")
        elif key == "enter":
            self.page, self.details, self.scrolled = "details", (f"process {row.pid}: one moment ...",), 0
            return Look(row.pid)
        else:
            return Act("freeze" if key == "f" else "thaw", row.pid)
        return None

    def _move(self, by: int) -> None:
        pids = [row.pid for row in self.rows()]
        if pids:
            at = pids.index(self.selected) if self.selected in pids else 0
            self.selected = pids[min(max(0, at + by), len(pids) - 1)]

    def _answer(self, question: Question, key: str) -> Order | None:
        if key in ("escape", "interrupt"):
            self.question = None
            if question.about == "filter":
                self.filter = ""
        elif key == "backspace":
            self.question = question._replace(typed=question.typed[:-1])
        elif key == "enter":
            self.question = None
            return self._answered(question)
        elif len(key) == 1 and key.isprintable() and len(question.typed) < _TYPED_MAX:
            self.question = question._replace(typed=question.typed + key)
        if self.question is not None and question.about == "filter":
            self.filter = self.question.typed
        return None

    def _answered(self, question: Question) -> Order | None:
        typed = question.typed.strip()
        try:
            if question.about == "signal":
                return Act("signal", question.pid, number_of(typed or "TERM"))
            if question.about == "renice" and typed:
                return Act("renice", question.pid, nice_of(typed))
        except Misused as error:
            self.message = str(error)
        return None

    # what the loop tells

    def tell(self, message: str) -> None:
        """Show a sentence until the next key."""
        self.message = message

    def tell_details(self, pid: int, lines: tuple[str, ...]) -> None:
        """Show what is known of a process, if it is still being looked at."""
        if self.page == "details" and self.selected == pid:
            self.details = lines
