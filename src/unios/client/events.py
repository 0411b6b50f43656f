"""What happened in the system, oldest first, each once."""

from collections import deque
from collections.abc import Iterator
from functools import partial

from unios.client.channel import Asked
from unios.client.connection import PASSING, Connection
from unios.limits import CLIENT_EVENTS_AGAIN
from unios.wire.operations import EventView, WatchEvents


def events(connection: Connection, *, follow: bool = False, last: int = 0) -> Iterator[EventView]:
    """Yield what happened, only the `last` of it if that is not 0; with `follow` go on, over the death of kernels."""
    seen: deque[EventView] = deque(maxlen=CLIENT_EVENTS_AGAIN)
    while True:
        asked = connection.persist(partial(_ask, connection, follow, CLIENT_EVENTS_AGAIN if seen else last))
        try:
            while (event := asked.next(EventView)) is not None:
                if event not in seen:
                    seen.append(event)
                    yield event
            return
        except PASSING:
            if not follow:
                raise
        finally:
            asked.close()


def _ask(connection: Connection, follow: bool, last: int) -> Asked:
    return connection.begin("node.events", WatchEvents(follow, last))
