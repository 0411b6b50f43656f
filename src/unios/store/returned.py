"""A store's file that has the system's records again: they come back from another engine in one transaction, whose sync is the moment at which it is the store.

The row `returned` of its meta data says the how manieth move of the system that was (system.json counts them): it counts while that is the next one, and with the
file's format alone. A file that was left again (store/left.py) is no store, also if a power cut has taken the words away that say so.
"""

import contextlib
import os
import random
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from unios.durable import make_folders, sync_folder
from unios.errors import Unavailable
from unios.ids import Generation
from unios.store import damage, left, wal
from unios.store.everything import Everything
from unios.store.sqlite import FORMAT, SCHEMA

ROW: Final = "returned"


class NoRoom(Unavailable):
    """It was not decided."""


class Return:
    """One attempt: `prepare`, then `decide` or not, then `close`; each may be called in another thread than the one before."""

    def __init__(self, path: str, where: str, moves: int) -> None:
        """`where`: the engine that the file was left for, if it is there. `moves`: how many there have been before this one."""
        self._path, self._where, self._moves = path, where, moves
        self._database: sqlite3.Connection | None = None

    def prepare(self, found: Everything, generation: Generation) -> None:
        """Have all of it in a transaction that is still open. Blocks. Raises sqlite3.Error, OSError."""
        make_folders(os.path.dirname(self._path))
        wal.make_sure(self._path)
        self._database = database = sqlite3.connect(self._path, isolation_level=None, timeout=5.0, check_same_thread=False)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        self._make_no_store(database)
        sync_folder(os.path.dirname(self._path))  # the log is there by now: its name has to be on the disk before what is in it counts
        lease = database.execute("SELECT value FROM meta WHERE name = 'lease'").fetchone()[0]
        database.execute("BEGIN IMMEDIATE")
        for table in ("records", "history", "leases", "meta"):
            database.execute(f"DELETE FROM {table}")
        database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", map(msgspec.structs.astuple, found.records))
        database.executemany("INSERT INTO leases VALUES (?, ?)", found.leases.items())
        meta = {"format": FORMAT, "generation": generation, "revision": found.number, "compacted": found.number, "lease": lease, ROW: self._moves + 1}
        database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())

    def _make_no_store(self, database: sqlite3.Connection) -> None:
        """Have the tables, in a file that no version takes for a store."""
        tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        format_ = database.execute("SELECT value FROM meta WHERE name = 'format'").fetchone() if tables else None
        if format_ is not None and not str(format_[0]).startswith(left.LEFT):
            raise sqlite3.DatabaseError(f"{self._path} is a store that was never left: move it away if nobody needs what it has")
        database.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, SCHEMA.split(";")):
            database.execute(statement)
        database.execute("INSERT OR REPLACE INTO meta VALUES ('format', ?)", (left.LEFT + self._where,))
        database.execute(
            "INSERT OR IGNORE INTO meta VALUES ('lease', ?)", (random.SystemRandom().getrandbits(61),)
        )  # small ones are of a file of before
        database.execute("COMMIT")

    def decide(self) -> None:
        """From now on the file is the store. Blocks. Raises NoRoom: nothing has happened; sqlite3.Error: it may be or not, whoever opens it next finds out, and
        nobody may go on before that."""
        assert self._database is not None
        try:
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:  # that is said of a write before the one that counts
                raise
            self.close()
            if has_returned(Path(self._path), self._moves):
                raise
            raise NoRoom(f"the store stays where it is: {error}") from error

    def close(self) -> None:
        """Let go of the file; what was not decided has not happened. Blocks."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
            self._database.close()


def has_returned(path: Path, moves: int) -> bool:
    """Return whether that file is the store though the system may still be said to have another engine, after so many `moves`; if so it is on the disk. Blocks.
    Raises OSError if it may not be, Unavailable if nobody can say: the other engine must not go on then."""
    if not path.exists():
        return False
    failed: sqlite3.Error | None = None
    for mode in ("ro", "rw"):  # the second makes what of a log was left by a power cut readable
        try:
            with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True)) as database:
                meta = dict(database.execute("SELECT name, value FROM meta").fetchall())
                if found := meta.get("format") == FORMAT and meta.get(ROW) == moves + 1:
                    wal.make_sure(str(path))
                return found
        except sqlite3.Error as error:
            failed = error
    if (
        failed is None or failed.sqlite_errorcode == sqlite3.SQLITE_ERROR or (damage.is_damaged(failed) and not moves)
    ):  # not begun, or no file of ours
        return False
    raise Unavailable(
        f"the store's file {path} cannot be read, which may have the records of the system: {failed}. If the store has not been moved back into it since "
        "it was left, move the file away"
    ) from failed
