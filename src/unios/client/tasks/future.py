"""Future: of a task. As the standard library's, but that a task which was given to a worker and has not begun there can still be cancelled."""

from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, LOGGER, PENDING, RUNNING
from typing import Any, Protocol


class Keeper(Protocol):
    """Who sees to a task: the engine."""

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that has the task."""

    def withdrawn(self, future: "TaskFuture") -> None:
        """Be told that it was cancelled."""

    def take_back(self, future: "TaskFuture") -> None:
        """Cancel it where it lies; return when that is decided."""

    def disowned(self, future: "TaskFuture") -> None:
        """Be told that it runs for nobody."""

    def forgone(self, future: "TaskFuture") -> None:
        """Cancel it where it lies, or let it be; nobody waits to hear which."""


class TaskFuture(Future[Any]):
    """Made by `Executor.submit` only."""

    def __init__(self) -> None:
        super().__init__()
        self._given = False
        """Whether it lies ahead at a worker, so that only the engine can take it back."""
        self._stays = self._untold = False
        """Whether `cancel` has said that it goes on; whether it was cancelled and nobody was told yet."""
        self._keeper: Keeper | None = None
        self.id = 0

    def bind(self, id_: int, keeper: Keeper) -> None:
        self.id, self._keeper = id_, keeper

    def result(self, timeout: float | None = None) -> Any:
        """As the standard library's. RuntimeError in a fork of the program for what had not ended before: it ends in the program."""
        self._check()
        value = super().result(timeout)
        if self._exception is not None:  # one that counts as false, which the standard library (CPython before 3.14) takes for none
            raise self._exception
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `result`, but for what is returned."""
        self._check()
        return super().exception(timeout)

    def _check(self) -> None:
        if self._keeper is not None and self._keeper.forked and self._state in (PENDING, RUNNING):
            raise RuntimeError("this future belongs to the program that this process was forked from: the task ends there")

    def cancel(self) -> bool:
        """Cancel the call if it has not begun; return whether it is cancelled, and then it never runs. A task that runs is told (`unios.cancelling`).

        False as well if that is not decided within TASK_CANCEL_MS, since nobody answers who knows: then it goes on.
        """
        with self._condition:
            if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
                return True
            if self._state == FINISHED:
                return False
            runs, given = self._state == RUNNING, self._given
            self._stays = False
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
            with self._condition:
                self._stays = self._state not in (CANCELLED, CANCELLED_AND_NOTIFIED)
                return not self._stays
        self._invoke_callbacks()
        if keeper is not None:
            keeper.withdrawn(self)
        return True

    @property
    def lies_ahead(self) -> bool:
        """Whether it waits at a worker, so that it is not known here whether it has begun."""
        return self._given and not self.done() and not self.running()

    def forgo(self) -> None:
        """Cancel it without learning whether it was cancelled, and so without waiting."""
        if self._given and self._keeper is not None and not self.done():
            self._keeper.forgone(self)
        else:
            self.cancel()

    def _invoke_callbacks(self) -> None:
        """As the standard library's, but that one which raises SystemExit, or the like, ends nothing but itself: not the thread that sees to the executor."""
        for callback in self._done_callbacks:  # type: ignore[attr-defined]
            try:
                callback(self)
            except BaseException:  # noqa: BLE001
                LOGGER.exception("exception calling callback for %r", self)

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

    def may_go(self) -> bool:
        """Cancel it for good; False if `cancel` has said that it goes on."""
        with self._condition:
            if self._state == PENDING:
                if self._stays:
                    return False
                self._state, self._untold = CANCELLED, True
                self._condition.notify_all()
            return True

    def let_go(self) -> None:
        """It may be cancelled, whatever `cancel` has said."""
        self._stays = False

    def dropped(self) -> None:
        """It is cancelled for good: tell those who wait."""
        if self._untold:
            self._untold = False
            self._invoke_callbacks()
        if self._state == CANCELLED:
            self.set_running_or_notify_cancel()
