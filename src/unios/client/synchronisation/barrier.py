"""Barrier across nodes, as `threading` has it: it breaks when one who waits gives up or dies, and when the service that keeps it is lost meanwhile."""

from collections.abc import Callable
from threading import BrokenBarrierError
from typing import Any

from unios.client.connection import Connection
from unios.client.synchronisation import memory
from unios.client.synchronisation.named import Named
from unios.wire.synchronising import ACTS, NO, TIMED, YES, Answer, Ask


class Barrier(Named):
    """Where `parties` wait for each other. All who use one of a name have to say the same number."""

    kind = "barrier"

    def __init__(
        self, name: str, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None, via: Connection | None = None
    ) -> None:
        """`action`: what the last to come does before all go on. `timeout`: of each wait that names none, in s."""
        if parties < 1:
            raise ValueError("parties must be > 0")
        super().__init__(name, via)
        self.parties = parties
        self._action = action
        self._timeout = timeout

    def _more(self) -> tuple[Any, ...]:
        return self.parties, self._action, self._timeout

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the others; return 0 to parties - 1, each to one. BrokenBarrierError if it is broken or breaks, as it does at the timeout."""
        timeout = self._timeout if timeout is None else timeout
        flags = (TIMED if timeout is not None else 0) | (ACTS if self._action is not None else 0)
        ask = Ask(0, "wait", self.kind, self.name, memory.actor(), 1, self.parties, flags)
        answer = self.session.call(ask, None if timeout is None else max(timeout, 0.0))
        if answer is None or answer.outcome == NO:
            raise BrokenBarrierError(f"barrier {self.name}: the service has not answered in time; it breaks, unless the others have gone on already")
        if answer.outcome != YES:
            raise BrokenBarrierError(f"barrier {self.name} is broken")
        if answer.text != "act":
            return answer.value
        try:  # no call up to here: all others wait for this one
            if self._action is not None:
                self._action()
            acted = self._look("acted")
        except BaseException:
            self.abort()
            raise
        if acted.outcome != YES:
            raise BrokenBarrierError(f"barrier {self.name} is broken")
        return answer.value

    def reset(self) -> None:
        """Make it whole and empty; who waits gets BrokenBarrierError."""
        self._look("reset")

    def abort(self) -> None:
        """Break it: who waits, and will wait, gets BrokenBarrierError until it is reset."""
        self._look("abort")

    def _look(self, op: str = "look") -> Answer:
        return self._asked(op, spec=self.parties)

    @property
    def n_waiting(self) -> int:
        return self._look().value

    @property
    def broken(self) -> bool:
        return self._look().outcome != YES
