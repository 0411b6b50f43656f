"""A store's file that is damaged, or whose disk is full: how SQLite says it, and what a person is told.

SQLite has no checksums: what it can still read it takes as it is.
"""

import os
import sqlite3
from typing import Final

from unios.errors import DataLost

_IOERR_SHMSIZE: Final = 4874
"""sqlite3.SQLITE_IOERR_SHMSIZE: the WAL's index cannot grow."""


def is_damaged(error: sqlite3.Error) -> bool:
    """Return whether the file is not what was written."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def lost(path: str, why: object) -> DataLost:
    """Return what to raise; `why`: what SQLite found."""
    return DataLost(
        f"the store's file {path} on {os.uname().nodename} is damaged ({why}), and with it records of the system: move it and its -wal elsewhere, and "
        "with a backup `unios store restore FILE --yes` makes it anew; else remove UNIOS_HOME on every machine and begin anew"
    )


def is_full(error: sqlite3.Error) -> bool:
    """Return whether it is room that the file lacks."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL or error.sqlite_errorcode == _IOERR_SHMSIZE
