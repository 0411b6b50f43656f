"""Later: what a session still has to say on a new connection of what its threads wait for, because it does not fit into the message that opens it again.

Only items that are to be put are large. Each is said when the service has room for it; or just before it is said to be wanted no more, since the service would
else hear of it after that.
"""

import time
from collections.abc import Container, Iterable
from typing import Final

from unios.client.synchronisation import asks
from unios.client.synchronisation.line import Line
from unios.client.synchronisation.pending import Pending
from unios.wire.synchronising import More, Waiting

OPEN_BYTES_MAX: Final = 1024 * 1024
"""Of items in the message that opens a session."""


class Later:
    """That of one session; under its mutex."""

    def __init__(self) -> None:
        self._left: dict[int, tuple[Pending, bool]] = {}
        """What, and whether it may have been asked on another connection."""

    def __bool__(self) -> bool:
        return bool(self._left)

    def __contains__(self, id_: int) -> bool:
        return id_ in self._left

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(self._left)

    def begin(self, asked: Iterable[Pending]) -> list[Pending]:
        """Return what is said at once of what waits; the rest is left."""
        self._left = {}
        at_once, room = [], OPEN_BYTES_MAX
        for pending in asked:
            if pending.ask.data and len(pending.ask.data) > room:
                self._left[pending.ask.id] = pending, pending.said
            else:
                at_once.append(pending)
                room -= len(pending.ask.data)
        return at_once

    def end(self) -> None:
        self._left = {}

    def say(self, line: Line, wanted: Container[int]) -> None:
        """Say as much as there is room for. `wanted`: the numbers of what is waited for still."""
        while self._left and line.has_room:
            self._say_one(line, next(iter(self._left)), wanted)

    def _say_one(self, line: Line, id_: int, wanted: Container[int]) -> None:
        pending, again = self._left.pop(id_)
        if pending.answer is None and id_ in wanted:
            pending.said = True
            line.say(More(Waiting(pending.ask, int((time.monotonic() - pending.asked_s) * 1000), again)))

    def say_withdrawn(self, line: Line, pending: Pending, wanted: Container[int], *, for_nobody: bool) -> None:
        """Say that it is wanted no more."""
        if pending.ask.id in self._left:
            self._say_one(line, pending.ask.id, wanted)
        line.say(asks.withdrawing(pending.ask, for_nobody=for_nobody))
