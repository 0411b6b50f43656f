"""Bell: what one thread waits for and any thread rings, even one whose signal handler raises in the midst of it.

`threading.Event` is made of Python: a KeyboardInterrupt just after its condition was entered leaves it locked for ever, for all threads. What this is made of
is one call of C, which happens or does not.
"""

import queue


class Bell:
    """Rings until somebody has waited for it."""

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ring(self) -> None:
        """Let who waits go on, or who will wait next."""
        if self._rings.empty():
            self._rings.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it rings; False if it does not within `timeout_s` seconds. What has rung is over then."""
        try:
            self._rings.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return False
        return True
