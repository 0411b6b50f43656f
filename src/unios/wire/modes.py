"""Modes: what a program has switched on in a terminal by escape sequences, so that another terminal can be brought there, and brought back.

Knows the private modes (CSI ? n h, as alternate screen, hidden cursor, mouse, bracketed paste) and the keypad. It is no emulator: of what stands on the
screen it knows nothing. A sequence cut in two by a chunk's end is seen all the same; garbage is bounded and means nothing. Light: inits import it.
"""

import re
from typing import Final

_SEEN: Final = re.compile(rb"\x1b(?:\[\?([0-9;]{1,64})([hl])|([=>])|(c)|\[(!p))")
_CUT: Final = re.compile(rb"\x1b(?:\[(?:\?[0-9;]{0,64}|!)?)?\Z")
"""A sequence that may go on in the next chunk."""
_CUT_BYTES_MAX: Final = 68
MODES_MAX: Final = 64
"""So many are kept; more are no terminal's."""
SCREENS: Final = frozenset({47, 1047, 1049})
"""The alternate screen, by its three names."""
CURSOR: Final = 25
_ON: Final = frozenset({7, CURSOR})
"""Modes that a terminal begins with: wrapping and a visible cursor."""
_FOREIGN: Final = frozenset({3, 2026})
"""132 columns, which clears the screen, and synchronised output, which lasts for a moment: never repeated."""


class Modes:
    """Those that differ from a fresh terminal's. `text` and `undo` are what to send to a terminal to get there, and back."""

    def __init__(self, text: bytes = b"") -> None:
        self._changed: dict[int, bool] = {}
        self._keypad = False
        self._cut = b""
        self.see(text)

    def see(self, data: bytes) -> None:
        """Take notice of what the program has written next."""
        if not self._cut and b"\x1b" not in data:
            return
        data = self._cut + data
        for found in _SEEN.finditer(data):
            numbers, letter, keypad, reset, soft = found.groups()
            if reset or soft:
                self._reset(hard=bool(reset))
            elif keypad:
                self._keypad = keypad == b"="
            else:
                self._set(numbers, on=letter == b"h")
        cut = _CUT.search(data, max(0, len(data) - _CUT_BYTES_MAX))
        self._cut = cut.group() if cut else b""

    def _reset(self, *, hard: bool) -> None:
        self._keypad = False
        self._changed = {} if hard else {number: on for number, on in self._changed.items() if number in SCREENS}

    def _set(self, numbers: bytes, *, on: bool) -> None:
        for text in numbers.split(b";"):
            number = int(text[:6] or b"0")
            self._changed.pop(number, None)
            if on != (number in _ON) and number not in _FOREIGN and len(self._changed) < MODES_MAX:
                self._changed[number] = on

    @property
    def other_screen(self) -> bool:
        """Whether the alternate screen is shown."""
        return not SCREENS.isdisjoint(self._changed)

    def text(self) -> bytes:
        """Return what brings a fresh terminal into these modes."""
        return self._sequences(undo=False) + (b"\x1b=" if self._keypad else b"")

    def undo(self) -> bytes:
        """Return what brings a terminal from these modes to a fresh one's, colours included."""
        return (b"\x1b>" if self._keypad else b"") + self._sequences(undo=True) + b"\x1b[0m"

    def _sequences(self, *, undo: bool) -> bytes:
        changed = reversed(self._changed.items()) if undo else self._changed.items()
        return b"".join(b"\x1b[?%d%s" % (number, b"h" if on != undo else b"l") for number, on in changed)
