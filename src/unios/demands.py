"""Demands: what a process asks of the machines and has had of them, and what a node offers. Data only; every layer may import it (decision 0010).

`Resources` is what it needs while it runs, `Queueing` when its turn comes, `Placing` where it would rather be. They are part of the program that is
submitted, of its specification and of its record, so that whoever sees the record can decide without reading more.
"""

from typing import Final, Literal

import msgspec

CPU_MILLI_DEFAULT: Final = 1_000
PRIORITY_DEFAULT: Final = 16
PRIORITY_MAX: Final = 31

Condition = Literal["ok", "failed", "ended"]


class Resources(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is set aside for it on its node, and where the machine allows enforced."""

    cpu_milli: int = CPU_MILLI_DEFAULT
    """Thousandths of a core; 0: it takes what is left over and waits for nothing."""
    memory_bytes: int = 0
    """Set aside, and the most that it may use; 0: nothing is set aside and nothing is enforced."""
    devices: tuple[str, ...] = ()
    """Each "kind" or "kind:count" (gpu:2), or the path of one device (/dev/ttyUSB0)."""
    cpu_milli_max: int = 0
    """The most that it gets even if nobody else wants it, thousandths of a core; 0: no such cap. `cpu_milli` is its weight where cores are short."""
    tasks: int = 0
    """The most Linux processes and threads that it may have at a time; 0: the system's bound for a tree."""


class After(msgspec.Struct, frozen=True):
    """It waits until process `pid` has ended: well ("ok"), not well ("failed"), or however ("ended")."""

    pid: int
    condition: Condition


class Queueing(msgspec.Struct, frozen=True, omit_defaults=True):
    """When its turn comes."""

    priority: int = PRIORITY_DEFAULT
    """0 to PRIORITY_MAX; the higher goes first."""
    time_limit_ms: int = 0
    """It is ended when it has run for so long; 0: never."""
    after: tuple[After, ...] = ()
    held: bool = False
    """It waits until its user releases it."""
    array: int = 0
    """The pid of the first element of its array; 0: it belongs to none."""
    index: int = 0
    """Which element it is."""
    array_limit: int = 0
    """So many elements of its array at a time; 0: as many as fit."""


class Placing(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where it would rather be. A pinned node is `node` of the specification."""

    policy: str = ""
    """The placement policy, by name; empty: the system's."""
    forbidden: tuple[str, ...] = ()
    """Nodes on which it never runs."""
    near: tuple[str, ...] = ()
    """Labels, or pids as text, of processes that attract it."""
    apart: tuple[str, ...] = ()
    """Labels, or pids as text, of processes that repel it."""
    label: str = ""
    """What others call it in `near` and `apart`, and a person in `ps`; need not be unique."""


class Device(msgspec.Struct, frozen=True, omit_defaults=True):
    """A device of a node."""

    kind: str
    """gpu, serial, camera, ..."""
    path: str
    """Of its file in /dev."""
    name: str = ""
    """What it calls itself."""
    more: tuple[str, ...] = ()
    """Further files that it needs."""
    aliases: tuple[str, ...] = ()
    """Other paths that lead to it, such as those by its serial number, which stay the same wherever it is plugged in."""
    id: str = ""
    """What libraries call it, if that is not its path: the UUID of a GPU."""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it has used, all its ended incarnations together: the whole tree, daemons that it left behind included."""

    cpu_ms: int = 0
    memory_peak_bytes: int = 0
    """The most at one time, of one incarnation; 0: not known."""


class Carry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it takes along (decision 0019). `manifest`, `folders`: of what was carried; without them nothing was, and only `named` counts."""

    manifest: bytes = b""
    """The names of the blocks that the manifest consists of, 32 bytes each."""
    cwd: bytes = b""
    """Where in the working folder it starts, relative."""
    results: tuple[bytes, ...] = ()
    """Patterns of what is brought back."""
    every: bool = False
    """Whatever has changed or is new is brought back."""
    folders: tuple[tuple[bytes, bytes], ...] = ()
    """(name in the working folder, where it came from); the name is empty for the working folder itself."""
    named: tuple[bytes, ...] = ()
    """Files outside of those folders that its arguments name and that were there where it was submitted."""


RESOURCES: Final = Resources()
QUEUEING: Final = Queueing()
PLACING: Final = Placing()
USAGE: Final = Usage()
CARRY: Final = Carry()
