"""Everything under a prefix, however many answers it takes."""

from unios.store.model import Record, Revision, Store


async def every(store: Store, prefix: str) -> tuple[list[Record], Revision]:
    """Return all records under `prefix` in key order, and the revision of the first answer: a watch from there misses nothing.

    What changes while the pages are read may be seen in its old or new state.
    """
    records: list[Record] = []
    first: Revision | None = None
    after = ""
    while True:
        result, revision = await store.range(prefix, prefix=True, after=after)
        first = first or revision
        records.extend(result.records)
        if not result.more:
            return records, first
        after = result.records[-1].key
