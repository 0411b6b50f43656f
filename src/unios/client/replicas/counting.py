"""Counting: how many messages the copies of an object have had, by what they were about."""

import threading
from collections import Counter

from unios.client.messages.server import caller


class Counted:
    """What one host has counted: where a message is answered it is counted, so each once."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._all: Counter[str] = Counter()
        self._between: Counter[str] = Counter()

    def add(self, kind: str, messages: int = 2) -> None:
        """Count the request that is being answered, and its answer."""
        far = caller().node != self._node
        with self._lock:
            self._all[kind] += messages
            if far:
                self._between[kind] += messages

    def read(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return (all, those of them between nodes), by kind."""
        with self._lock:
            return dict(self._all), dict(self._between)
