"""The embedded engine: etcd's model on one SQLite file. Synchronous and deterministic; one thread at a time; no clock.

`run` takes a batch of jobs and makes them durable with one commit and one sync (group commit); only then does it return. A job that is refused
leaves no trace; if the commit fails nothing of the batch has happened.

Tables: records (the present), history (every event, for watches, trimmed), leases, meta. WAL with synchronous=FULL; checkpoints are made here, so
that `syncs` counts every one.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from unios.durable import sync_folder
from unios.errors import CallerError, Compacted, DiskFull, NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.ids import Generation
from unios.limits import (
    FRAME_BYTES_MAX,
    HISTORY_BYTES_KEPT,
    HISTORY_REVISIONS_KEPT,
    LEASE_TTL_MS_MAX,
    LEASE_TTL_MS_MIN,
    LEASES_MAX,
    RANGE_RECORDS_MAX,
    WATCH_QUEUE_BYTES_MAX,
)
from unios.store import bounds, damage, left, wal
from unios.store.model import (
    Batch,
    Compare,
    Delete,
    Event,
    Operation,
    Put,
    Range,
    RangeResult,
    Record,
    Revision,
    Transaction,
    TransactionResult,
)

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leased ON records (lease) WHERE lease != 0;
CREATE TABLE IF NOT EXISTS history (
    number INTEGER NOT NULL, ordinal INTEGER NOT NULL, kind TEXT NOT NULL,
    key TEXT NOT NULL, value BLOB NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL,
    PRIMARY KEY (number, ordinal)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL);
"""
FORMAT: Final = 1
"""Of the file: one of another is refused. A change of SCHEMA or of what a column means takes a new number."""
CHECKPOINT_PAGES: Final = 1_000
COMMIT_PAGES: Final = 12
"""About so many pages a small commit writes."""
WAL_BYTES_KEPT: Final = 64 * 1024 * 1024
"""A WAL that has grown over this, while its disk was full say, is cut."""
TRIM_EVERY: Final = 256
RANGE_BYTES_MAX: Final = FRAME_BYTES_MAX - 1024 * 1024
"""A range answers about so much, and at least one record: what is more would fit into no message."""
LEASE_ID_MAX: Final = 2**63 - 1
RECORD_BYTES: Final = 64
"""What a record takes in a message beside its key and value; rounded up."""
_COLUMNS: Final = "key, value, created, modified, version, lease"
_IOERR_FSYNC: Final = 1034  # sqlite3.SQLITE_IOERR_FSYNC
_HISTORY_BYTES: Final = f"length(value) + length(CAST(key AS BLOB)) + {RECORD_BYTES}"
"""What `record_bytes` says."""
_END: Final = "\U0010ffff"


class Grant(NamedTuple):
    """Job: make a lease. Its outcome is the lease's id."""

    ttl_ms: int


class End(NamedTuple):
    """Job: end leases and delete what is attached to them, in one transaction; those that there are not are passed over."""

    leases: tuple[int, ...]


class Compact(NamedTuple):
    """Job: forget the history up to a revision."""

    revision: Revision


class Look(NamedTuple):
    """Job: the history of a prefix after a revision (None: none), as a Batch that ends at the present."""

    prefix: str
    after: Revision | None


class Restore(NamedTuple):
    """Job: make these changes, forget the history, and begin that generation."""

    operations: tuple[Put | Delete, ...]
    generation: Generation


Job = Transaction | Grant | End | Compact | Look | Restore
Result = TransactionResult | int | Batch | UniosError


class Outcome(NamedTuple):
    """What a job came to, and the events that it made, all of one revision."""

    result: Result
    events: tuple[Event, ...] = ()


class SqliteEngine:
    """One database."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        generation: Generation,
        *,
        history_kept: int = HISTORY_REVISIONS_KEPT,
        history_bytes_kept: int = HISTORY_BYTES_KEPT,
        durable: bool = True,
        check: bool = False,
    ) -> None:
        """Open or make it; `generation` counts only for a new one. Raises Unavailable if the file cannot be used, DataLost if it is damaged.

        `check`: for that all of it is looked at first, and not only what is read by and by. `durable` false, for what need not outlive a power cut: nothing
        is synced, and what was acknowledged still outlives a kill of the store.
        """
        self.path = os.fspath(path)
        self._durable = durable
        self.syncs = 0
        self.transactions = 0
        self._wal_bytes = 0
        """About how much the WAL has grown since the last checkpoint."""
        self._history_kept = history_kept
        self._history_bytes_kept = history_bytes_kept
        self._history_bytes = 0
        self._seen: dict[str, Record | None] = {}
        """What the present batch has looked up or written: a key that is compared is mostly written next."""
        on_disk = durable and self.path != ":memory:"
        try:
            if on_disk:
                self.syncs += wal.make_sure(self.path)
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5.0)
            self._set_up(generation)
            if check and (wrong := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise damage.lost(self.path, wrong)
            if on_disk:
                sync_folder(os.path.dirname(self.path))
                self.syncs += 1
        except sqlite3.Error as error:
            if damage.is_damaged(error):
                raise damage.lost(self.path, error) from error
            raise Unavailable(f"the store's file {self.path} cannot be used: {error}") from error
        except OSError as error:
            raise Unavailable(f"the store's file {self.path} cannot be used: {error.strerror}") from error

    def _set_up(self, generation: Generation) -> None:
        left.check(self._db, self.path, FORMAT)
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={'FULL' if self._durable else 'OFF'}",
            "wal_autocheckpoint=0",
            "foreign_keys=OFF",
            "cache_size=-4096",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(SCHEMA)
        meta = dict(self._db.execute("SELECT name, value FROM meta").fetchall())
        if not meta:
            meta = {"format": FORMAT, "generation": generation, "revision": 0, "compacted": 0, "lease": 0}
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            self._db.execute("COMMIT")
            self.syncs += 1
        self.generation = Generation(meta["generation"])
        self.number = int(meta["revision"])
        self.compacted = int(meta["compacted"])
        self._lease = int(meta["lease"])
        self._history_bytes = self._sum_history()

    @property
    def revision(self) -> Revision:
        return Revision(self.generation, self.number)

    def close(self) -> None:
        """Checkpoint and close; idempotent."""
        try:
            self._checkpoint("TRUNCATE")
        except sqlite3.Error:
            pass
        self._db.close()

    def checkpoint(self) -> None:
        """Bring all of it into the one file. Raises Unavailable if that cannot be."""
        try:
            if not self._checkpoint("TRUNCATE"):
                raise Unavailable(f"the store cannot write its file: {self.path} is being read")
        except sqlite3.Error as error:
            raise Unavailable(f"the store cannot write its file: {error}") from error

    def leave(self, where: str) -> None:
        """The records are `where` from now on, and this file is no store any more. Raises sqlite3.Error: it may have been done."""
        left.leave(self._db, where)

    def leases(self) -> dict[int, int]:
        """Return the time to live in ms of every lease."""
        return dict(self._db.execute("SELECT id, ttl_ms FROM leases").fetchall())

    def keys(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM records").fetchone()[0])

    def bytes(self) -> int:
        """Return the size of the database without its WAL."""
        pages, size = (int(self._db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size"))
        return pages * size

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Do the jobs in order and return what each came to, after one commit for all of them. Raises Unavailable: nothing was done."""
        before = (self.number, self.compacted, self._lease)
        generation, history_bytes = self.generation, self._history_bytes
        self._seen.clear()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            outcomes = [self._one(job) for job in jobs]
            changed = before != (self.number, self.compacted, self._lease)
            if changed:
                self._save(before)
                self._db.execute("COMMIT")
                self.syncs += 1
            else:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            self.number, self.compacted, self._lease = before
            self.generation, self._history_bytes = generation, history_bytes
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if error.sqlite_errorcode == _IOERR_FSYNC:
                raise OutcomeUnknown(f"the disk of the store failed to sync: {error}") from error
            if damage.is_damaged(error):
                raise damage.lost(self.path, error) from error
            if damage.is_full(error):
                raise DiskFull(
                    f"the disk of the store is full: {self.path} on {os.uname().nodename} cannot be written ({error}); make room on that disk"
                ) from error
            raise Unavailable(f"the store cannot write its file: {error}") from error
        if changed:
            self._maybe_checkpoint(max(0, self._history_bytes - history_bytes))
        return outcomes

    def _save(self, before: tuple[int, int, int]) -> None:
        trimmed = self.number - self._history_kept
        if before[0] // TRIM_EVERY != self.number // TRIM_EVERY and trimmed > self.compacted:
            self._compact(trimmed)
        if self._history_bytes > self._history_bytes_kept:
            self._compact(self._fitting())
        now = (self.number, self.compacted, self._lease)
        for name, old, value in zip(("revision", "compacted", "lease"), before, now, strict=True):
            if value != old:
                self._db.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))

    def _maybe_checkpoint(self, written: int) -> None:
        """`written`: bytes of records in the commit; each is in the WAL twice, as a record and as history, and each commit takes some pages."""
        self._wal_bytes += COMMIT_PAGES * 4096 + 2 * written
        if self._wal_bytes > CHECKPOINT_PAGES * 4096 and self.path != ":memory:":
            self._wal_bytes = 0
            try:
                self._checkpoint("TRUNCATE" if os.stat(f"{self.path}-wal").st_size > WAL_BYTES_KEPT else "RESTART")
            except (OSError, sqlite3.Error):
                pass  # what is committed is in the WAL; a later checkpoint moves it

    def _checkpoint(self, how: Literal["RESTART", "TRUNCATE"]) -> bool:
        """Move the WAL into the database; return whether no reader was in the way.

        RESTART leaves the file its size: a sync then writes data alone, and not each time how long the file is now.
        """
        busy, _frames, _moved = self._db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        self.syncs += 2
        return not busy

    def _one(self, job: Job) -> Outcome:
        try:
            match job:
                case Transaction():
                    return self._transact(job)
                case Grant(ttl_ms):
                    return self._grant(ttl_ms)
                case End(leases):
                    return self._end(leases)
                case Compact(revision):
                    return self._compact_to(revision)
                case Look(prefix, after):
                    return Outcome(self._history(prefix, after))
                case Restore(operations, generation):
                    return self._restore(operations, generation)
        except UniosError as refused:
            return Outcome(refused)

    # transactions

    def _transact(self, transaction: Transaction) -> Outcome:
        bounds.check(transaction)
        succeeded = all(self._holds(compare) for compare in transaction.compares)
        operations = transaction.then if succeeded else transaction.otherwise
        for operation in operations:
            if isinstance(operation, Put) and operation.lease and not self._has_lease(operation.lease):
                raise NotFound(f"lease {operation.lease} has ended")
        self.transactions += 1
        events: list[Event] = []
        results = tuple(self._do(operation, events) for operation in operations)
        self._note(events)
        return Outcome(TransactionResult(succeeded, self.revision, results), tuple(events))

    def _holds(self, compare: Compare) -> bool:
        record = self._get(compare.key)
        if compare.target == "value":
            if record is None:
                return compare.op == "!="
            return _compare(record.value, compare.op, compare.operand)
        return _compare(getattr(record, compare.target) if record else 0, compare.op, compare.operand)

    def _get(self, key: str) -> Record | None:
        if key in self._seen:
            return self._seen[key]
        row = self._db.execute(f"SELECT {_COLUMNS} FROM records WHERE key = ?", (key,)).fetchone()
        found = self._seen[key] = Record(*row) if row else None
        return found

    def _do(self, operation: Operation, events: list[Event]) -> RangeResult | int:
        match operation:
            case Put(key, value, lease):
                old = self._get(key)
                number = self.number + 1
                record = Record(key, value, old.created if old else number, number, old.version + 1 if old else 1, lease)
                self._db.execute(f"INSERT OR REPLACE INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", _row(record))
                self._seen[key] = record
                events.append(Event("put", number, record))
                return 0
            case Delete(key, prefix):
                found = list(self._select(key, prefix, "", -1))
                for record in found:
                    self._delete(record, events)
                return len(found)
            case Range(key, prefix, after, limit):
                return self._range(key, prefix, after, min(limit or RANGE_RECORDS_MAX, RANGE_RECORDS_MAX))

    def _range(self, key: str, prefix: bool, after: str, bound: int) -> RangeResult:
        found: list[Record] = []
        size = 0
        for record in self._select(key, prefix, after, bound + 1):
            size += record_bytes(record)
            if len(found) == bound or (found and size > RANGE_BYTES_MAX):
                return RangeResult(tuple(found), True)
            found.append(record)
        return RangeResult(tuple(found))

    def _select(self, key: str, prefix: bool, after: str, limit: int) -> Iterator[Record]:
        if not prefix:
            record = self._get(key)
            return iter([record] if record and (not after or key > after) else [])
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM records WHERE key >= ? AND key > ? AND key < ? ORDER BY key LIMIT ?",
            (key, after, key + _END, limit),
        )
        return (Record(*row) for row in rows)

    def _delete(self, record: Record, events: list[Event]) -> None:
        self._db.execute("DELETE FROM records WHERE key = ?", (record.key,))
        self._seen[record.key] = None
        events.append(Event("delete", self.number + 1, record))

    def _note(self, events: list[Event]) -> None:
        """Write the events of one revision into the history."""
        if not events:
            return
        self.number += 1
        self._history_bytes += sum(record_bytes(event.record) for event in events)
        self._db.executemany(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(self.number, ordinal, event.kind, *_row(event.record)) for ordinal, event in enumerate(events)],
        )

    def _restore(self, operations: Sequence[Put | Delete], generation: Generation) -> Outcome:
        for operation in operations:
            self._do(operation, [])
        self.number += 1
        self._compact(self.number)
        self.generation = generation
        self._db.execute("UPDATE meta SET value = ? WHERE name = 'generation'", (generation,))
        return Outcome(0)

    # leases

    def _has_lease(self, lease: int) -> bool:
        return 0 < lease <= LEASE_ID_MAX and self._db.execute("SELECT 1 FROM leases WHERE id = ?", (lease,)).fetchone() is not None

    def _grant(self, ttl_ms: int) -> Outcome:
        if not LEASE_TTL_MS_MIN <= ttl_ms <= LEASE_TTL_MS_MAX:
            raise CallerError(f"a lease of {ttl_ms} ms: allowed are {LEASE_TTL_MS_MIN} to {LEASE_TTL_MS_MAX} ms")
        if self._db.execute("SELECT count(*) FROM leases").fetchone()[0] >= LEASES_MAX:
            raise Unavailable(f"the store has {LEASES_MAX} leases, its limit")
        self._lease += 1
        self._db.execute("INSERT INTO leases VALUES (?, ?)", (self._lease, ttl_ms))
        return Outcome(self._lease)

    def _end(self, leases: tuple[int, ...]) -> Outcome:
        events: list[Event] = []
        ended = 0
        for lease in filter(self._has_lease, leases):
            for row in self._db.execute(f"SELECT {_COLUMNS} FROM records WHERE lease = ? ORDER BY key", (lease,)).fetchall():
                self._delete(Record(*row), events)
            ended += self._db.execute("DELETE FROM leases WHERE id = ?", (lease,)).rowcount
        self._note(events)
        if ended and not events:
            self._lease += 1  # the batch has something to commit
        return Outcome(ended, tuple(events))

    # history

    def _history(self, prefix: str, after: Revision | None) -> Batch:
        if after is None:
            return Batch(self.revision)
        if after.generation != self.generation:
            raise Compacted("the store has begun a new generation: read everything again")
        if after.number < self.compacted:
            raise Compacted(f"revision {after.number} is gone, the oldest is {self.compacted}: read everything again")
        if after.number > self.number:
            raise Compacted(f"revision {after.number} is not known here: read everything again")
        rows = self._db.execute(
            f"SELECT kind, number, {_COLUMNS} FROM history WHERE number > ? AND key >= ? AND key < ? ORDER BY number, ordinal",
            (after.number, prefix, prefix + _END),
        )
        events, size = [], 0
        for kind, number, *columns in rows:
            events.append(Event(kind, number, Record(*columns)))
            size += record_bytes(events[-1].record)
            if size > WATCH_QUEUE_BYTES_MAX:
                raise Compacted(f"more than {WATCH_QUEUE_BYTES_MAX} bytes were written after revision {after.number}: read everything again")
        return Batch(self.revision, tuple(events))

    def _compact_to(self, revision: Revision) -> Outcome:
        if revision.generation != self.generation or revision.number > self.number:
            raise Compacted("that revision is not of this store")
        if revision.number > self.compacted:
            self._compact(revision.number)
        return Outcome(0)

    def _compact(self, number: int) -> None:
        self._history_bytes -= self._sum_history(number)
        self._db.execute("DELETE FROM history WHERE number <= ?", (number,))
        self.compacted = number

    def _sum_history(self, number: int = -1) -> int:
        """Return how many bytes the history has up to a revision, all of it by default. Reads no value: SQLite knows their lengths."""
        where, values = (" WHERE number <= ?", (number,)) if number >= 0 else ("", ())
        found = self._db.execute(f"SELECT coalesce(sum({_HISTORY_BYTES}), 0) FROM history{where}", values).fetchone()
        return int(found[0])

    def _fitting(self) -> int:
        """Return the revision up to which history has to go, for three quarters of its bound to be left: not one more deletion with each commit."""
        left = self._history_bytes
        for number, size in self._db.execute(f"SELECT number, sum({_HISTORY_BYTES}) FROM history GROUP BY number ORDER BY number"):
            left -= size
            if left <= self._history_bytes_kept * 3 // 4:
                return int(number)
        return self.number


def record_bytes(record: Record) -> int:
    """Return about how many bytes a record takes in a message."""
    return len(record.value) + len(record.key.encode()) + RECORD_BYTES


def _row(record: Record) -> tuple[str, bytes, int, int, int, int]:
    return record.key, record.value, record.created, record.modified, record.version, record.lease


def _compare(left: int | bytes, op: str, right: int | bytes) -> bool:
    match op:
        case "==":
            return left == right
        case "!=":
            return left != right
        case "<":
            return bool(left < right)  # type: ignore[operator]
        case _:
            return bool(left > right)  # type: ignore[operator]
