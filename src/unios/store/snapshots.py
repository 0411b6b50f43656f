"""All records of an embedded store as they are at one moment, read beside the engine: SQLite keeps a reader's moment while others write."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Final
from urllib.parse import quote

from unios.errors import Unavailable
from unios.ids import Generation
from unios.store.model import Record, Revision
from unios.store.requests import Dumped
from unios.store.sqlite import record_bytes

PAGE_BYTES: Final = 1024 * 1024
AHEAD: Final = 3
"""So many pages are read before they are taken."""
PATIENCE_S: Final = 30.0
"""Who takes none for so long has gone: a reader's moment keeps the write-ahead log from being cut."""


def snapshot(path: str) -> Iterator[Dumped]:
    """Yield the records of a store's file, page by page; at least one page. Blocks. Raises sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)) as database:
        database.execute("BEGIN")
        meta = dict(database.execute("SELECT name, value FROM meta").fetchall())
        revision = Revision(Generation(meta["generation"]), int(meta["revision"]))
        page, size = list[Record](), 0
        for row in database.execute("SELECT key, value, created, modified, version, lease FROM records ORDER BY key"):
            page.append(Record(*row))
            size += record_bytes(page[-1])
            if size > PAGE_BYTES:
                yield Dumped(revision, tuple(page))
                page, size = [], 0
        yield Dumped(revision, tuple(page))


async def dump(path: str) -> AsyncIterator[Dumped]:
    """Yield the same in a loop, which goes on meanwhile. Raises Unavailable."""
    loop = asyncio.get_running_loop()
    pages: asyncio.Queue[Dumped | BaseException | None] = asyncio.Queue()
    ahead = threading.Semaphore(AHEAD)

    def tell(page: Dumped | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(pages.put_nowait, page)

    def read() -> None:
        try:
            for page in snapshot(path):
                if not ahead.acquire(timeout=PATIENCE_S):
                    return
                tell(page)
            tell(None)
        except BaseException as error:  # noqa: BLE001 it is raised in the loop
            tell(error)

    threading.Thread(target=read, name="dump", daemon=True).start()
    while (page := await pages.get()) is not None:
        if isinstance(page, BaseException):
            raise Unavailable(f"the store's file {path} cannot be read: {page}") from page
        yield page
        ahead.release()
