"""Screen: what a terminal of ours has been brought to by what was shown on it; how to bring it to a program's state from the past, and back to its own.

`replay` makes of the last output of a terminal what another terminal may be shown: without the questions that programs ask terminals, for whoever
attaches would answer them to a program that asked long ago.
"""

import re
from typing import Final

from unios.wire.modes import Modes

_QUESTIONS: Final = re.compile(
    rb"\x1b\[[>=?]?[0-9;]*c|\x1b\[\??[0-9;]*n|\x1b\[>[0-9;]*q|\x1b\[\?[0-9;]*\$p|\x1b\[\?u|\x1b\[[0-9;]*t|\x1b\[[0-9;]*x"
    rb"|\x1b\][0-9;]*;[^\x07\x1b]{0,64}\?(?:\x07|\x1b\\)|\x1bP[+$]q[^\x1b]{0,256}\x1b\\|\x05"
)
_OTHER: Final = re.compile(rb"\x1b\[\?(?:1049|1047|47)h.*?\x1b\[\?(?:1049|1047|47)l", re.DOTALL)
_ENTERED: Final = re.compile(rb"\x1b\[\?(?:1049|1047|47)h")
_LEFT: Final = re.compile(rb"\x1b\[\?(?:1049|1047|47)l")


class Screen:
    """What has been shown on one terminal."""

    def __init__(self) -> None:
        self._modes = Modes()

    @property
    def other(self) -> bool:
        """Whether the terminal's alternate screen is shown."""
        return self._modes.other_screen

    def modes(self) -> bytes:
        """Return what brings a fresh terminal to where this one is, but for what stands on it."""
        return self._modes.text()

    def show(self, data: bytes) -> bytes:
        """Take notice of what is shown; return it."""
        self._modes.see(data)
        return data

    def replay(self, past: bytes, modes: bytes, *, whole: bool) -> bytes:
        """Return what to show of `past`, the last output of a terminal whose modes are `modes`. `whole`: it is all that there ever was."""
        now = Modes(modes)
        now.see(past)
        past = _QUESTIONS.sub(b"", past)
        if now.other_screen:
            *_before, entered = [found.end() for found in _ENTERED.finditer(past)] or [0]
            shown = b"\x1b[?1049h\x1b[H\x1b[2J" + past[entered:]
        else:
            past = _OTHER.sub(b"", past)
            *_before, left = [found.end() for found in _LEFT.finditer(past)] or [0]
            if not whole and not left:
                left = past.find(b"\n") + 1  # in the middle of a sequence nothing would look right
            shown = past[left:]
        return self.show(shown + now.text())

    def undo(self) -> bytes:
        """Return what brings the terminal back; nothing left on, the cursor seen, on its own screen."""
        undone = self._modes.undo()
        self._modes = Modes()
        return undone
