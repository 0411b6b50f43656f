"""Keys that detach: finds a sequence of keys in what is typed. Pure: the clock is the caller's.

A key that may begin the sequence is held back; what turns out not to be it goes on whole and in order.
"""

from typing import Final

from unios.shell.words import Misused

DEFAULT: Final = "ctrl-\\,ctrl-\\"


def parse(text: str) -> bytes:
    """Return the keys of a text such as `ctrl-p,ctrl-q` or `ctrl-a,d`; none for `none`. Raises Misused."""
    if text == "none":
        return b""
    return bytes(_key(part, text) for part in text.split(","))


def _key(part: str, text: str) -> int:
    if len(part) == 1 and part.isascii() and part.isprintable():
        return ord(part)
    if part.lower().startswith("ctrl-") and len(part) == 6 and "@" <= part[5].upper() <= "_":
        return ord(part[5].upper()) & 0x1F
    raise Misused(f"--detach-keys {text}: write keys with commas between them, each a character or ctrl-KEY, as in ctrl-p,ctrl-q; or none")


class DetachKeys:
    """The state of one keyboard."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0
        self.found = False

    @property
    def holding(self) -> bool:
        """Whether a key is held back that may begin the sequence."""
        return self._held > 0

    def feed(self, data: bytes) -> bytes:
        """Return what of the typed bytes goes to the program; after the sequence nothing does."""
        passed = bytearray()
        for byte in data:
            if self.found:
                break
            self._step(byte, passed)
        return bytes(passed)

    def _step(self, byte: int, passed: bytearray) -> None:
        if not self._keys:
            passed.append(byte)
            return
        typed = self._keys[: self._held] + bytes((byte,))
        keep = next(size for size in range(len(typed), -1, -1) if self._keys.startswith(typed[len(typed) - size :]))
        passed += typed[: len(typed) - keep]
        self._held = keep
        self.found = keep == len(self._keys)

    def release(self) -> bytes:
        """Return what was held back: it was meant for the program."""
        held, self._held = self._keys[: self._held], 0
        return held
