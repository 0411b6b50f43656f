"""Event across nodes, as `threading` has it. It stays as it was set, also after all who used it have ended."""

from unios.client.synchronisation.named import Named, is_yes, patience
from unios.wire.synchronising import YES


class Event(Named):
    """A flag that many can wait for."""

    kind = "event"

    def set(self) -> None:
        """Let all go on who wait, and will wait until it is cleared. It is done when this returns."""
        self._asked("set")

    def clear(self) -> None:
        """From now on who waits waits."""
        self._asked("clear")

    def is_set(self) -> bool:
        return self._asked("is_set").outcome == YES

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; False at the timeout (s)."""
        if timeout is not None and timeout <= 0:
            return self.is_set()
        return is_yes(self._ask("wait", timeout_s=patience(True, timeout)[1]))
