"""Conversation: one request with items both ways, of which the items that go out are what a person does here.

Reads and writes in one thread: what is typed waits while there is no credit for it, what comes is shown at once.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from unios.client import readiness
from unios.client.channel import Asked, Channel
from unios.wire.terminals import Typed


class Local(Protocol):
    """The person's side: a terminal, or whatever stands for one."""

    @property
    def left(self) -> bool:
        """Whether the person has gone."""

    def descriptors(self, *, typing: bool) -> list[int]:
        """Return what to wait for; without `typing` only what must never wait."""

    def typed(self, ready: list[int]) -> Iterable[Typed]:
        """Return what the person has done, now that these descriptors are ready, or none when time has passed."""

    def patience_s(self) -> float | None:
        """Return after how long `typed` wants to be asked in any case."""


def converse(
    channel: Channel, asked: Asked, local: Local, type_: Any, take: Callable[[Any], None], *, quiet_s: float, quiet: Callable[[], bool]
) -> bool:
    """Go on until the request has ended (True) or the person has left (False). Raises what ended the request.

    When nothing has come for `quiet_s`, `quiet` says whether to go on; if not, that counts as the request's end.
    """
    while True:
        while asked.ready:
            item = asked.next(type_)
            if item is None:
                return True
            take(item)
        if local.left:
            return False
        patience = local.patience_s()
        waiting = [channel.fileno(), *local.descriptors(typing=asked.room > 0)]
        ready, _writable = readiness.wait(waiting, timeout_s=min(patience, quiet_s) if patience is not None else quiet_s)
        if channel.fileno() in ready:
            channel.read_until(None, asked.op)
        for typed in local.typed(ready):
            asked.send(typed)
        if not ready and patience is None and not quiet():
            return True
