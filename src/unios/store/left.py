"""A store's file that was left: the system's records are elsewhere for good, and nothing opens it as a store any more, older versions of unios included.

It is the file's format that says so, since every version looks at that before anything else. Written in one transaction with one sync, it is the moment at
which the other engine is the store.
"""

import contextlib
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

from unios.errors import Unavailable

LEFT: Final = "left for "


def check(database: sqlite3.Connection, path: str, format_: int) -> None:
    """Raise Unavailable if the file was left, or is another version's, before anything is made in it."""
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
        return
    found = database.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    if found is None or found[0] == format_:
        return
    if str(found[0]).startswith(LEFT):
        where = str(found[0]).removeprefix(LEFT)
        raise Unavailable(f"the store's file {path} was left: the records of the system are in {where} now, and what this file has is old")
    raise Unavailable(f"the store's file {path} has format {found[0]}, this unios reads {format_}: use the version that wrote it")


def leave(database: sqlite3.Connection, where: str) -> None:
    """Have it say that it was left, durably. Raises sqlite3.Error."""
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE meta SET value = ? WHERE name = 'format'", (LEFT + where,))
    database.execute("COMMIT")


def left_for(path: Path) -> str:
    """Return where the records are of the store that had this file; "" if it was not left, or is not there. Blocks."""
    if not path.exists():
        return ""
    for mode in ("ro", "rw"):  # the second makes what of a log was left by a power cut readable
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True)) as database:
            found = database.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
            text = str(found[0]) if found else ""
            return text.removeprefix(LEFT) if text.startswith(LEFT) else ""
    return ""  # damaged, or not begun: who opens it says what is wrong
