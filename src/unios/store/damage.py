"""Damage of a store's file: how SQLite says it, and what a person is told. SQLite has no checksums: what it can still read it takes as it is."""

import os
import sqlite3

from unios.errors import DataLost


def is_damaged(error: sqlite3.Error) -> bool:
    """Return whether the file is not what was written."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def lost(path: str, why: object) -> DataLost:
    """Return what to raise; `why`: what SQLite found."""
    return DataLost(
        f"the store's file {path} on {os.uname().nodename} is damaged ({why}), and with it records of the system: move it and its -wal elsewhere, and "
        "with a backup `unios store restore FILE --yes` makes it anew; else remove UNIOS_HOME on every machine and begin anew"
    )
