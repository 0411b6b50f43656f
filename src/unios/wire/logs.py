"""What may be asked about logs: arguments and answers, as in operations.py. docs/kernel.md is their manual; `user`: whose log, others' need privilege."""

import msgspec

from unios.core.logs import LogRecord


class AppendLog(msgspec.Struct, frozen=True, omit_defaults=True):
    """logs.append -> LogAnswer, when it is on this node's disk. Idempotent.

    `epoch`: the asker's; 0, with `restores`: a copy of a span that the record says is closed. `creates`: the span is made, for a writer who will put it into
    the record. Without entries and without `creates`: `confirmed` is told, and nothing else.
    """

    name: str
    number: int
    first: int
    epoch: int = 0
    of: int = 0
    """The epoch of the span."""
    entries: tuple[bytes, ...] = ()
    confirmed: int = 0
    creates: bool = False
    restores: bool = False
    user: str = ""


class SealLog(msgspec.Struct, frozen=True, omit_defaults=True):
    """logs.seal -> LogAnswer: where that span ends here; nobody with an older epoch appends to the log here any more. Idempotent."""

    name: str
    number: int
    of: int
    epoch: int
    user: str = ""


class TrimLog(msgspec.Struct, frozen=True, omit_defaults=True):
    """logs.trim -> LogAnswer: what is before `upto` is not shown here again. Idempotent."""

    name: str
    upto: int
    user: str = ""


class LogAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`end`: where the span ends on this disk. Or why not: `refused`, `at` and `why` as in core/log_replica.py."""

    end: int = 0
    refused: str = ""
    at: int = 0
    why: str = ""


class ReadLog(msgspec.Struct, frozen=True, omit_defaults=True):
    """logs.read -> LogPart: entries of a span from `offset` on. `closed`: its end by the record, if it is closed. `wait_ms`: for so long something is waited for."""

    name: str
    number: int
    of: int
    offset: int
    closed: int = 0
    wait_ms: int = 0
    user: str = ""


class LogPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """Entries that follow each other, perhaps none. Or why not."""

    entries: tuple[bytes, ...] = ()
    refused: str = ""
    at: int = 0
    why: str = ""


class OfLogRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """logs.record -> LogRecordView. With a `record`: put it if `version` is what the store has (0: there is none)."""

    name: str
    record: LogRecord | None = None
    version: int = 0
    user: str = ""


class LogRecordView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the store has now. `changed`: what was asked has been done."""

    record: LogRecord | None = None
    version: int = 0
    changed: bool = False
