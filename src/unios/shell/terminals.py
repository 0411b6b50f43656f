"""What a program in a terminal gets beside its arguments: the window's size and TERM."""

import contextlib
import os

import msgspec

from unios.wire.operations import Program

_SIZE = (24, 80)
_TERM = b"xterm-256color"


def size() -> tuple[int, int]:
    """Return rows and columns of this command's terminal, the usual ones if it has none."""
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            found = os.get_terminal_size(descriptor)
            if found.lines and found.columns:
                return found.lines, found.columns
    return _SIZE


def term() -> bytes:
    """Return what this command's terminal is."""
    return os.environb.get(b"TERM") or _TERM


def described(program: Program) -> Program:
    """Return the program with a terminal as this command's own."""
    env = dict(program.env)
    for name in (b"LINES", b"COLUMNS"):  # they would stay as they are when the window changes
        env.pop(name, None)
    env.setdefault(b"TERM", term())
    return msgspec.structs.replace(program, env=tuple(env.items()), stdin=False, terminal=size())
