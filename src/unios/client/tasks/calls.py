"""Calls: what is sent to a worker for a task, and who gets its outcome: the future of this process, or a task that submitted it."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from unios.client.tasks.future import TaskFuture
from unios.client.tasks.losses import WorkerLost
from unios.client.tasks.values import pack_failure, unpack, unpack_failure
from unios.core.task_orders import Loss
from unios.wire.parcels import Answer, Head, Part, Withdrawn, is_short, sizes_of

Owner = tuple[Callable[[Head, list[Part]], None], int]
"""How the task that submitted it is told, and the number that it is called by there."""


class Call:
    """One call. `function` is its hash, `body` its pickle, of which `own_bytes` belong to no other call; `parts` are the arguments, which refer to `refs`."""

    __slots__ = ("_running", "body", "function", "future", "many", "owner", "parent", "parts", "refs", "retries", "size", "stays", "worker")

    def __init__(
        self,
        future: TaskFuture | None,
        function: bytes,
        body: bytes,
        parts: Sequence[Part],
        many: bool,
        retries: int,
        owner: Owner | None = None,
        own_bytes: int = 0,
        refs: Sequence[Any] = (),
    ) -> None:
        self.future, self.function, self.body, self.parts, self.many, self.retries, self.owner = (
            future,
            function,
            body,
            list(parts),
            many,
            retries,
            owner,
        )
        self.parent = self.worker = 0
        """The task that submitted it, and the worker that ran that; 0 for none."""
        self.size = sum(map(len, parts)) + own_bytes
        self.refs = refs
        self._running = False
        self.stays = False
        """Whether the task that submitted it was told that it is not cancelled."""

    def begun(self) -> bool:
        """It begins now; False if it was cancelled."""
        if self.future is not None and not self._running:
            self._running = self.future.set_running_or_notify_cancel()
            return self._running
        return True

    def lies_ahead(self) -> bool:
        """It is given to a worker that is busy; False if it was cancelled."""
        return self.future is None or self._running or self.future.lie_ahead()

    def waits(self) -> None:
        """It is in the queue again."""
        if self.future is not None:
            self.future.lie_here()

    def may_go(self) -> bool:
        """It was cancelled, and has not begun; False if whoever cancelled it was told by now that it goes on."""
        return self.future.may_go() if self.future is not None else not self.stays

    def let_go(self) -> None:
        """It may be cancelled, whatever was told before."""
        self.stays = False
        if self.future is not None:
            self.future.let_go()

    def goes_on(self) -> None:
        """Tell the task that submitted it that it is not cancelled."""
        assert self.owner is not None
        self.stays = True
        self.owner[0](Withdrawn((), self.owner[1], False), [])

    def dropped(self) -> None:
        """It is cancelled, and never begins."""
        if self.future is not None:
            self.future.dropped()
        elif self.owner is not None:
            self.owner[0](Withdrawn((), self.owner[1], True), [])

    def heard(self, head: Answer, parts: list[Part]) -> None:
        """Its worker has answered."""
        if is_short(head, parts):
            self.failed(no_room("what came of the call, which was carried out", head))
        else:
            self.answered(head.failed, parts)

    def answered(self, failed: bool, parts: list[Part]) -> None:
        """Hand the outcome to whom it belongs."""
        if self.future is None:
            assert self.owner is not None
            self.owner[0](Answer(sizes_of(parts), self.owner[1], failed), parts)
            return
        self.begun()
        if failed:
            self.future.set_exception(unpack_failure(parts))
            return
        try:
            result = unpack(parts)
        except BaseException as error:  # noqa: BLE001  whatever unpickling raises is the outcome
            error.add_note("The task was carried out; its result could not be unpickled here.")
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def failed(self, error: BaseException) -> None:
        """It has ended without an answer."""
        if self.future is None:
            self.answered(True, pack_failure(error))
        elif self.begun():
            self.future.set_exception(error)

    def lost(self, loss: Loss) -> WorkerLost:
        """Return what it fails with."""
        if loss.text.startswith("was never begun"):
            return WorkerLost(f"the call {loss.text}", loss.why)
        hint = "" if self.retries else " (it is made again if the executor has `retries`)"
        return WorkerLost(f"the worker that had the call {loss.text}; the call may have been carried out, in part or wholly{hint}", loss.why)


def no_room(what: str, head: Head) -> MemoryError:
    """Return what is raised where a parcel has come short."""
    return MemoryError(f"there was no memory in process {os.getpid()} for {sum(head.sizes)} bytes: {what}")
