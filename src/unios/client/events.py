"""What happened in the system, oldest first."""

from collections.abc import Iterator

from unios.client.connection import Connection
from unios.wire.operations import EventView, WatchEvents


def events(connection: Connection, *, follow: bool = False, last: int = 0) -> Iterator[EventView]:
    """Yield what happened, only the `last` of it if that is not 0; with `follow` go on for ever."""
    asked = connection.begin("node.events", WatchEvents(follow, last))
    try:
        while (event := asked.next(EventView)) is not None:
            yield event
    finally:
        asked.close()
