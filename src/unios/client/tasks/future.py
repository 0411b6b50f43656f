"""Future: of a task. As the standard library's, but that a task which was given to a worker and has not begun there can still be cancelled."""

from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import Any, Protocol


class Keeper(Protocol):
    """Who sees to a task: the engine."""

    forked: bool
    """Whether this process was forked from the one that has the task."""

    def withdrawn(self, future: "TaskFuture") -> None:
        """Be told that it was cancelled."""

    def take_back(self, future: "TaskFuture") -> None:
        """Cancel it where it lies; return when that is decided."""

    def disowned(self, future: "TaskFuture") -> None:
        """Be told that it runs for nobody."""


class TaskFuture(Future[Any]):
    """Made by `Executor.submit` only."""

    def __init__(self) -> None:
        super().__init__()
        self._given = False
        """Whether it lies ahead at a worker, so that only the engine can take it back."""
        self._keeper: Keeper | None = None
        self.id = 0

    def bind(self, id_: int, keeper: Keeper) -> None:
        self.id, self._keeper = id_, keeper

    def result(self, timeout: float | None = None) -> Any:
        """As the standard library's. RuntimeError in a fork of the program for what had not ended before: it ends in the program."""
        self._check()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `result`, but for what is returned."""
        self._check()
        return super().exception(timeout)

    def _check(self) -> None:
        if self._keeper is not None and self._keeper.forked and self._state in (PENDING, RUNNING):
            raise RuntimeError("this future belongs to the program that this process was forked from: the task ends there")

    def cancel(self) -> bool:
        """Cancel the call if it has not begun; return whether it is cancelled, and then it never runs. A task that runs is told (`unios.cancelling`)."""
        with self._condition:
            if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
                return True
            if self._state == FINISHED:
                return False
            runs, given = self._state == RUNNING, self._given
            if not given and not runs:
                self._state = CANCELLED
                self._condition.notify_all()
        keeper = self._keeper
        if runs:
            if keeper is not None:
                keeper.disowned(self)
            return False
        if given:
            if keeper is not None:
                keeper.take_back(self)
            return self.cancelled()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        if keeper is not None:
            keeper.withdrawn(self)
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
