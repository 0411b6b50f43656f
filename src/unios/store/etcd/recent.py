"""The newest events of a system, as a gateway has heard them: for watchers that come back after a moment. Decides only.

Invariant: it has every event of its system after `floor` and up to `heard`.
"""

from collections import deque
from typing import Final

from unios.store.model import Event
from unios.store.sqlite import record_bytes

RECENT_EVENTS_MAX: Final = 5_000
RECENT_BYTES_MAX: Final = 4 * 1024 * 1024


class Recent:
    """Bounded: over a bound the oldest revisions go, and `floor` rises."""

    def __init__(self, at: int) -> None:
        self.floor = at
        self.heard = at
        self._events: deque[Event] = deque()
        self._bytes = 0

    def note(self, number: int, events: list[Event]) -> None:
        """Note a revision, whole."""
        self.heard = number
        self._events.extend(events)
        self._bytes += sum(record_bytes(event.record) for event in events)
        while self._events and (len(self._events) > RECENT_EVENTS_MAX or self._bytes > RECENT_BYTES_MAX):
            self.floor = self._events[0].number
            while self._events and self._events[0].number == self.floor:
                self._bytes -= record_bytes(self._events.popleft().record)

    def after(self, prefix: str, number: int) -> list[Event] | None:
        """Return the events of a prefix after a revision; None if it does not have them all."""
        if number < self.floor:
            return None
        return [event for event in self._events if event.number > number and event.record.key.startswith(prefix)]
