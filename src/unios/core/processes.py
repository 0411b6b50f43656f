"""Processes: their records and their life cycle. Decides which transition is legal; never stores, starts or kills anything.

Invariants: a record's incarnation never falls; an ended record never lives again except by a restart, which raises the incarnation.
"""

from typing import Final, Literal

import msgspec

from unios.demands import CARRY, PLACING, QUEUEING, RESOURCES, USAGE, Carry, Placing, Queueing, Resources, Usage

State = Literal["pending", "running", "frozen", "migrating", "exited", "failed", "lost"]
Restart = Literal["never", "on-loss", "on-failure", "always"]
OnPartition = Literal["replace", "stop", "keep"]

LIVE: Final[frozenset[State]] = frozenset({"pending", "running", "frozen", "migrating"})
ENDED: Final[frozenset[State]] = frozenset({"exited", "failed", "lost"})

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    "pending": frozenset({"pending", "running", "failed", "lost", "exited"}),
    "running": frozenset({"frozen", "migrating", "exited", "failed", "lost", "pending"}),
    "frozen": frozenset({"running", "migrating", "exited", "failed", "lost", "pending"}),
    "migrating": frozenset({"running", "frozen", "exited", "failed", "lost", "pending"}),
    "exited": frozenset({"pending"}),
    "failed": frozenset({"pending"}),
    "lost": frozenset({"pending"}),
}
"""From a state to those it may become. To `pending` means: again, under the next incarnation."""


class ProcessSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to run; written once. argv, env and cwd are bytes since Linux does not promise text."""

    argv: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...] = ()
    cwd: bytes = b"/"
    user: str = ""
    umask: int = 0o022
    limits: dict[str, tuple[int, int]] = {}
    """resource name (as in `ulimit`, e.g. "nofile") -> (soft, hard); -1 means unlimited."""
    stdin: bool = False
    """Whether stdin is a stream of the system; else it is empty."""
    hold: bool = False
    """Whether a reader is about to come who must not lose any output: each incarnation waits for him for STREAM_HOLD_S."""
    restart: Restart = "on-loss"
    restarts_max: int = 10
    on_partition: OnPartition = "replace"
    node: str = ""
    """Pinned to this node; empty means anywhere."""
    resources: Resources = RESOURCES
    queueing: Queueing = QUEUEING
    placing: Placing = PLACING
    terminal: tuple[int, int] = (0, 0)
    """Rows and columns of the terminal that it runs in; 0 for none."""
    carry: Carry = CARRY


class ProcessRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the system knows of a process; small, changes by compare-and-set on its store record's `modified`."""

    pid: int
    incarnation: int
    state: State
    user: str
    argv: tuple[bytes, ...] = ()
    """Cut to ARGV_SHOWN_BYTES_MAX."""
    node: str = ""
    """Where it is assigned or runs (or last ran); empty while pending without a place."""
    exit_code: int | None = None
    """The program's own code, or 128 + n when signal n ended it; 126 and 127 as a shell's when it could not be started."""
    signal: int | None = None
    reason: str = ""
    """Why it is where it is, or why it ended: a sentence for a person."""
    restart: Restart = "on-loss"
    restarts_max: int = 10
    restarts: int = 0
    on_partition: OnPartition = "replace"
    pinned: str = ""
    wanted: Literal["running", "frozen", "stopped"] = "running"
    """What its user asked for last: a stopped one is never started again."""
    created_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    """Wall clock, ms since 1970, of the node that wrote it; for people only."""
    why: str = ""
    """Why it was given that node: a sentence for a person."""
    spec_pid: int = 0
    """The pid under which its specification is kept, if it shares that of another; 0: its own."""
    resources: Resources = RESOURCES
    queueing: Queueing = QUEUEING
    placing: Placing = PLACING
    usage: Usage = USAGE
    nice: int = 0
    """The nice value that its user gave it last; a new incarnation begins with it."""
    carried: bytes = b""
    """Names of the blocks of the manifest of what it took along, as in `carry`: a node keeps what a live process may need again."""
    results: bytes = b""
    """The same of what was collected when it ended."""
    refused: tuple[str, ...] = ()
    """While it waits: the nodes that have said that they cannot run it. `reason` has their words."""


def process_key(pid: int) -> str:
    return f"/processes/{pid:010d}"


def spec_key_of(record: ProcessRecord) -> str:
    """Return where its specification is."""
    return spec_key(record.spec_pid or record.pid)


def spec_key(pid: int) -> str:
    return f"/specs/{pid:010d}"


def may_become(now: State, then: State) -> bool:
    return then in TRANSITIONS[now]
