"""Interrupting: raise at the n-th of all points of a piece of work at which Python would let a signal's handler raise. No signal, no luck.

CPython looks for signals after each call, at the start of each function and at each jump back. What is raised there looks for its handler from the call on, so
a point whose next instruction lies in another one is left out: nothing can be raised there from here as it would be.
"""

import dis
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final

_LOOKS: Final = frozenset({"CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME"})


class Interrupted(Exception):
    """What is raised."""


class Interrupter:
    """Raises at the `n`-th point in files whose names end so."""

    def __init__(self, n: int, files: tuple[str, ...]) -> None:
        self._left, self._files = n, files
        self._points: dict[CodeType, frozenset[int]] = {}
        self.where = ""
        """Empty if the work has fewer points."""

    def run(self, work: Callable[[], object]) -> None:
        """Do it; Interrupted goes on, unless the work swallows it."""
        sys.settrace(self._called)
        try:
            work()
        finally:
            sys.settrace(None)

    def _called(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.endswith(self._files) or _is_finalizing(frame):
            return None
        if code not in self._points:
            self._points[code] = _points_of(code)
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode" and not self.where and frame.f_lasti in self._points[frame.f_code]:
            self._left -= 1
            if self._left < 0:
                self.where = f"{frame.f_code.co_qualname} line {frame.f_lineno} at {frame.f_lasti}"
                raise Interrupted(self.where)
        return self._opcode


def _is_finalizing(frame: FrameType | None) -> bool:
    """Return whether a finalizer does this, whenever the collector has come: what is raised there goes nowhere."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _points_of(code: CodeType) -> frozenset[int]:
    table = dis._parse_exception_table(code)  # type: ignore[attr-defined]

    def handlers(offset: int) -> list[int]:
        return [entry.target for entry in table if entry.start <= offset < entry.end]

    found = []
    before: Any = None
    for instruction in dis.get_instructions(code):
        if before is not None and before.opname in _LOOKS and handlers(before.offset) == handlers(instruction.offset):
            found.append(instruction.offset)
        before = instruction
    return frozenset(found)
