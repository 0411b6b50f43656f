"""Queue across nodes, as `queue` has it: items are any Python objects that pickle, between processes of one user.

What is in a queue is in the memory of the service: when that is lost the next use by each process that has used the queue says DataLost.
"""

import pickle
import queue
from typing import Any

from unios.client.connection import Connection
from unios.client.synchronisation import memory
from unios.client.synchronisation.named import Named, is_yes
from unios.wire.synchronising import NOWAIT, YES, Ask


class Queue(Named):
    """First in, first out; who waits is served in the order of coming. All who use one of a name say the same `maxsize`."""

    kind = "queue"

    def __init__(self, name: str, maxsize: int = 0, via: Connection | None = None) -> None:
        super().__init__(name, via)
        self.maxsize = max(maxsize, 0)

    def _more(self) -> tuple[Any, ...]:
        return (self.maxsize,)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item in; queue.Full if there is no room, or none within `timeout` s. OutcomeUnknown if the service is lost meanwhile and nobody knows
        whether the item is in."""
        flags, timeout_s = _patience(block, timeout)
        data = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        if not is_yes(self._ask("put", timeout_s=timeout_s, flags=flags, spec=self.maxsize, data=data)):
            raise queue.Full

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item out; queue.Empty if there is none, or none within `timeout` s."""
        flags, timeout_s = _patience(block, timeout)
        session = self.session
        answer = self._ask("get", timeout_s=timeout_s, flags=flags, spec=self.maxsize)
        try:
            if answer is not None and answer.outcome == YES:
                return pickle.loads(answer.data)
        except BaseException as error:
            if not isinstance(error, Exception) and answer is not None:  # interrupted; what does not unpickle would come back for ever
                session.put_back(Ask(0, "back", self.kind, self.name, memory.actor(), spec=self.maxsize, number=answer.value, data=answer.data))
            raise
        raise queue.Empty

    def put_nowait(self, item: Any) -> None:
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def task_done(self) -> None:
        """Say that an item that was got is dealt with. ValueError if there is none. What a process that dies, or loses its lease, has got counts as done:
        LeaseLost if it goes on and says so too."""
        self._asked("done", spec=self.maxsize)

    def join(self) -> None:
        """Wait until all that was put in is dealt with."""
        self._ask("join", spec=self.maxsize)

    def qsize(self) -> int:
        return self._asked("size", spec=self.maxsize).value

    def empty(self) -> bool:
        return self.qsize() == 0

    def full(self) -> bool:
        return 0 < self.maxsize <= self.qsize()


def _patience(block: bool, timeout: float | None) -> tuple[int, float | None]:
    if not block:
        return NOWAIT, None
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return (NOWAIT, None) if timeout == 0 else (0, timeout)
