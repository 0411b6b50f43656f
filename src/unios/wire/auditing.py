"""The audit log: what is asked for and told."""

import msgspec


class ReadAudit(msgspec.Struct, frozen=True):
    """node.audit -> a stream of AuditView, the oldest first, then AuditVerdict. Privileged. `last`: only the newest so many; 0: all."""

    last: int = 0


class AuditView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry (core/audit.py)."""

    number: int
    at_ms: int
    node: str
    user: str
    act: str
    what: str
    outcome: str
    pid: int = 0
    via: str = ""
    times: int = 1


class AuditVerdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the log is whole. `fault`: what is wrong with it, "" if nothing is. `first`: from which number on it is kept."""

    fault: str
    first: int
    number: int


class NoteAudit(msgspec.Struct, frozen=True):
    """node.note -> Empty, between kernels: write that down for a node that may not write it itself. `said`: a Draft of core/audit.py, msgpack."""

    said: bytes
