"""Future: of a task. As the standard library's, but that a task which was given to a worker and has not begun there can still be cancelled."""

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, PENDING
from typing import Any


class TaskFuture(Future[Any]):
    """Made by `Executor.submit` only."""

    def __init__(self) -> None:
        super().__init__()
        self._given = False
        """Whether it lies ahead at a worker, so that only the engine can take it back."""
        self._take_back: Callable[[TaskFuture], None] | None = None
        self._withdraw: Callable[[TaskFuture], None] | None = None
        self.id = 0

    def bind(self, id_: int, withdraw: "Callable[[TaskFuture], None]", take_back: "Callable[[TaskFuture], None]") -> None:
        """`withdraw`: told that it was cancelled. `take_back`: asked to cancel it, returns when that is decided."""
        self.id, self._withdraw, self._take_back = id_, withdraw, take_back

    def cancel(self) -> bool:
        """Cancel the call if it has not begun; return whether it is cancelled, and then it never runs."""
        with self._condition:
            if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
                return True
            if self._state != PENDING:
                return False
            given = self._given
            if not given:
                self._state = CANCELLED
                self._condition.notify_all()
        if given:
            if self._take_back is not None:
                self._take_back(self)
            return self.cancelled()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        if self._withdraw is not None:
            self._withdraw(self)
        return True

    # what follows is for the engine

    def lie_ahead(self) -> bool:
        """Note that it is given to a worker and has not begun; False if it is cancelled."""
        with self._condition:
            if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
                return False
            self._given = True
            return True

    def lie_here(self) -> None:
        """Note that it waits again."""
        self._given = False

    def dropped(self) -> None:
        """It is cancelled for good: tell those who wait."""
        with self._condition:
            told = self._state != PENDING
            if not told:
                self._state = CANCELLED
                self._condition.notify_all()
        if not told:
            self._invoke_callbacks()  # type: ignore[attr-defined]
        if self._state == CANCELLED:
            self.set_running_or_notify_cancel()
