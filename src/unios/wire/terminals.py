"""What may be asked of a kernel about terminals, sessions, forwarded connections and when output came: as wire/operations.py has it for all else."""

import msgspec


class AskTerminal(msgspec.Struct, frozen=True, omit_defaults=True):
    """processes.terminal -> TerminalView: set the window's size, make what is on the screen be drawn again, hang up; each only if it says so."""

    pid: int
    rows: int = 0
    columns: int = 0
    nudge: bool = False
    hang_up: bool = False


class TerminalView(msgspec.Struct, frozen=True, omit_defaults=True):
    """`rows` 0: the process has no terminal. `modes`: what brings another terminal into the modes of this one. `end`: where its output ends now."""

    rows: int = 0
    columns: int = 0
    modes: bytes = b""
    incarnation: int = 0
    out_end: int = 0
    err_end: int = 0


class Attach(msgspec.Struct, frozen=True, omit_defaults=True):
    """processes.attach, then items `Typed` -> stream of Chunk, as processes.follow gives them. The end of the items detaches and ends nothing.

    `hang_up`: if the asker vanishes without having said so, the terminal is hung up.
    """

    pid: int
    incarnation: int = 0
    out: int = 0
    err: int = 0
    hold: bool = False
    hang_up: bool = False


class Typed(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a person does at a terminal: bytes, a new size of the window, a signal, or the end of what is typed (sessions without a terminal only).

    `nudge`: the window of that size is to be drawn again.
    """

    data: bytes = b""
    rows: int = 0
    columns: int = 0
    signal: int = 0
    end: bool = False
    nudge: bool = False


class Execute(msgspec.Struct, frozen=True, omit_defaults=True):
    """processes.exec, then items `Typed` -> stream of Said. Without `argv` the user's shell. `rows` 0: pipes instead of a terminal."""

    pid: int
    argv: tuple[bytes, ...] = ()
    env: tuple[tuple[bytes, bytes], ...] = ()
    """On top of the process's own."""
    cwd: bytes = b""
    rows: int = 0
    columns: int = 0


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """Output of a session ("out", "err"), or at last, as "exit", its exit code."""

    stream: str
    data: bytes = b""
    exit_code: int = 0


class Reach(msgspec.Struct, frozen=True, omit_defaults=True):
    """processes.reach, then items of bytes -> stream of bytes: a TCP connection to a port of the process, on its own loopback. The first, empty one
    says that it is connected."""

    pid: int
    port: int


class AskOffsets(msgspec.Struct, frozen=True, omit_defaults=True):
    """processes.offsets -> Offsets: from where on the output came at `since_ms` or later: wall clock, ms since 1970; negative: so long ago."""

    pid: int
    since_ms: int


class Offsets(msgspec.Struct, frozen=True, omit_defaults=True):
    """`since` them, of that incarnation; up to a quarter of a second early."""

    incarnation: int
    out: int
    err: int
