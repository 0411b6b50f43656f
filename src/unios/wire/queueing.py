"""What may be asked of the placement service beside `submit`: many at once, who waits, and the rules. Data types only; docs/kernel.md is their manual."""

import msgspec

from unios.wire.operations import Program


class Element(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of many. `argv`: its own, empty: the program's. `index`: its place in the array."""

    argv: tuple[bytes, ...] = ()
    index: int = 0


class SubmitMany(msgspec.Struct, frozen=True, omit_defaults=True):
    """placement: submit_many -> SubmittedMany. All of them or none, at most SUBMIT_BATCH_MAX; they queue. Idempotent by `request` like submit.

    `array`: -1 makes the first element the first of a new array, a pid adds to that one's, 0: they are no array.
    """

    program: Program
    elements: tuple[Element, ...]
    request: str
    array: int = 0


class SubmittedMany(msgspec.Struct, frozen=True):
    """The records are durable. `pids` in the order of the elements; `reason`: why the last one waits."""

    pids: tuple[int, ...]
    reason: str = ""


class Alter(msgspec.Struct, frozen=True, omit_defaults=True):
    """placement: hold, release, cancel -> Empty. Of a process that waits, or with the pid of an array's first element of all that wait of it."""

    pid: int


class Waiting(msgspec.Struct, frozen=True, omit_defaults=True):
    """placement: queue -> tuple[Waiting, ...] in the order in which they go. `begins_ms`: about when, as wall clock; 0: nobody can tell."""

    pid: int
    user: str
    argv: tuple[bytes, ...]
    priority: int
    created_ms: int
    reason: str
    begins_ms: int = 0
    array: int = 0
    index: int = 0


class AskRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """placement: policy (AskRules) -> PolicyView, quotas (AskRules) -> tuple[QuotaView, ...]: what is laid down now, linearizable; Unavailable if the store does
    not say. `stale`: as the asked node knows it, with its age."""

    stale: bool = False


class PolicyView(msgspec.Struct, frozen=True, omit_defaults=True):
    """placement: policy -> PolicyView, set_policy (name) -> PolicyView (privileged)."""

    name: str
    known: tuple[str, ...] = ()
    replaced: str = ""
    """Why the default stands in for it."""
    stale_ms: int = 0
    """Of one that may be stale: how old it may be; 0: the asked node heard from the store a moment ago."""


class QuotaView(msgspec.Struct, frozen=True, omit_defaults=True):
    """placement: quotas -> tuple[QuotaView, ...], set_quota (QuotaView) -> Empty (privileged). Bounds of 0 are none; all 0 removes it."""

    user: str
    cpu_milli: int = 0
    memory_bytes: int = 0
    processes: int = 0
    cpu_milli_used: int = 0
    memory_bytes_used: int = 0
    processes_used: int = 0
    """What is set aside is as the asked node knows it, also where the bounds are the latest."""
    stale_ms: int = 0
