"""All that a store has, at one moment, for another engine to go on with: records, leases, and how far its revisions had come."""

import contextlib
import sqlite3
from typing import NamedTuple
from urllib.parse import quote

from unios.store.model import Record


class Everything(NamedTuple):
    """`leases`: number -> time to live in ms. `number`: no revision of the engine that goes on with this is at or below it."""

    number: int
    records: tuple[Record, ...]
    leases: dict[int, int]


def read(path: str) -> Everything:
    """Return what a store's file has. Blocks. Raises sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)) as database:
        database.execute("BEGIN")
        number = int(database.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()[0])
        leases = dict(database.execute("SELECT id, ttl_ms FROM leases").fetchall())
        rows = database.execute("SELECT key, value, created, modified, version, lease FROM records ORDER BY key").fetchall()
    return Everything(number, tuple(Record(*row) for row in rows), leases)
