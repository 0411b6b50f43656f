"""Withdrawals: who waits to hear whether a call is cancelled that may have begun, and until when. What was said then stands: `Call.may_go`."""

import threading
import time

from unios.client.tasks.calls import Call
from unios.limits import TASK_CANCEL_MS


class Withdrawals:
    """Those of one executor. `awaited` is called by any thread, the rest by the engine's, or when that has ended."""

    def __init__(self) -> None:
        self._awaited: dict[int, threading.Event] = {}
        self._asked: dict[int, tuple[Call, float]] = {}
        """Calls that tasks have submitted, and when the task is told that it was not to be had back."""

    def __bool__(self) -> bool:
        return bool(self._awaited or self._asked)

    def awaited(self, task: int) -> threading.Event:
        """Return what is set when it is decided."""
        return self._awaited.setdefault(task, threading.Event())

    def asked(self, task: int, call: Call) -> None:
        """The task that has submitted a call waits to be told."""
        call.stays = False
        self._asked[task] = call, time.monotonic() + TASK_CANCEL_MS / 1000

    def decided(self, task: int, *, cancelled: bool = False) -> None:
        """It is cancelled, which `Call.dropped` tells a task, or goes on."""
        awaited = self._awaited.pop(task, None)
        if awaited is not None:
            awaited.set()
        asked = self._asked.pop(task, None)
        if asked is not None and not cancelled:
            asked[0].goes_on()

    def expire(self) -> None:
        """Tell those who have waited long enough that theirs goes on."""
        now = time.monotonic()
        for task in [task for task, (_call, until) in self._asked.items() if until <= now]:
            self.decided(task)

    def end(self) -> None:
        """Nothing is decided any more."""
        for task in [*self._awaited, *self._asked]:
            self.decided(task)
