"""Releasing: a holder lets go of another node's objects, each only after the holders of all others have heard what it refers to there since.

Data may refer to objects on a third node. Whoever kept the data lets go of those when nobody refers to the data any more, over a connection of his own: were
the data released before that node has heard that they are referred to from here, it would drop them. So what depends on it waits for it, and nothing else does:
each node is asked by a thread of its own. A node that does not answer for OBJECT_AWAY_FAR_MS is waited for no longer: after so long it would have forgotten
what a holder had said whose link to it broke, too. What it keeps may be lost by that, and whoever reads it is told (DataLost).
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from unios.client.objects.tie import Gone, Tie
from unios.errors import UniosError
from unios.object_limits import OBJECT_AWAY_FAR_MS, OBJECT_SILENT_MS, OBJECTS_MAX

_AGAIN_S: Final = 0.5
Object = tuple[str, str]
"""(id, the node that keeps it)"""


class Waiting:
    """Decides which objects may be let go of. What was told to a node is numbered, and heard in that order. Does nothing else."""

    def __init__(self, waiting_max: int = OBJECTS_MAX) -> None:
        self._max = waiting_max
        self._told: dict[str, int] = {}
        """By node, how often it was told of references; those that have heard all are not there."""
        self._last = 0
        self._needs: dict[Object, dict[str, int]] = {}
        """What waits, the oldest first: what has to be heard before it, by node."""

    def told(self, node: str) -> None:
        """A node is being told of references."""
        self._last += 1
        self._told[node] = self._last

    def released(self, released: Object) -> list[Object]:
        """An object is not referred to any more: return what may be let go of now, itself or nothing, or the one that has waited longest if too many do."""
        needs = {node: number for node, number in self._told.items() if node != released[1]}
        if not needs:
            return [released]
        self._needs.pop(released, None)
        self._needs[released] = needs
        if len(self._needs) <= self._max:
            return []
        oldest = next(iter(self._needs))
        del self._needs[oldest]
        return [oldest]

    def asks(self) -> Mapping[str, int]:
        """Return which nodes are to be asked whether they have heard, and what was told to each last."""
        return {node: self._told[node] for needs in self._needs.values() for node in needs if node in self._told}

    def heard(self, node: str, upto: int) -> list[Object]:
        """A node has heard all up to that number, or is waited for no longer; return what may be let go of now."""
        if self._told.get(node, 0) <= upto:
            self._told.pop(node, None)
        free = []
        for waits, needs in list(self._needs.items()):
            if needs.get(node, upto + 1) <= upto:
                del needs[node]
                if not needs:
                    del self._needs[waits]
                    free.append(waits)
        return free


class Releases:
    """Those of one holder, whose lock guards what is noted here and is held by who calls `acquired` and `released`."""

    def __init__(self, lock: AbstractContextManager[object], tie: Callable[[str], Tie], is_wanted: Callable[[str, str], bool]) -> None:
        """`tie`: gives that to a node; `is_wanted`: whether an object of a node is referred to here again."""
        self._lock, self._tie, self._is_wanted = lock, tie, is_wanted
        self._waiting = Waiting()
        self._asked: set[str] = set()
        """Nodes that a thread asks now."""

    def acquired(self, node: str) -> None:
        """A node is being told of references from here."""
        self._waiting.told(node)

    def released(self, id_: str, node: str) -> None:
        """Let go of an object, as soon as that may be."""
        for object_ in self._waiting.released((id_, node)):
            self._drop(*object_)
        for one in self._waiting.asks().keys() - self._asked:
            thread = threading.Thread(target=self._ask, args=(one,), name=f"unios-releases-{one}", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads: it is tried again with the next that waits
                self._asked.add(one)
                thread.start()
                continue
            self._asked.discard(one)

    def _drop(self, id_: str, node: str) -> None:
        tie = self._tie(node)
        tie.post(partial(tie.drop, id_))

    def _ask(self, node: str) -> None:
        """Ask one node until nothing waits for it."""
        answered = time.monotonic()
        while True:
            with self._lock:
                told = self._waiting.asks().get(node)
                if told is None:
                    self._asked.discard(node)
                    return
                tie = self._tie(node)
            has_heard, now = _has_heard(tie), time.monotonic()
            if has_heard or now - answered >= OBJECT_AWAY_FAR_MS / 1000:
                if not has_heard:
                    print(
                        f"objects: node {node} has not answered for {now - answered:.0f} s, and is waited for no longer: objects that only data "
                        f"referred to which are let go of now may be lost there",
                        file=sys.stderr,
                        flush=True,
                    )
                answered = now
                with self._lock:
                    for object_ in self._waiting.heard(node, told):
                        if not self._is_wanted(*object_):
                            self._drop(*object_)
            else:
                time.sleep(_AGAIN_S)


def _has_heard(tie: Tie) -> bool:
    """Return whether the other side has heard all that was posted up to now, or has ended with all that it kept; False after OBJECT_SILENT_MS at the latest."""
    until = time.monotonic() + OBJECT_SILENT_MS / 1000
    told = threading.Event()
    tie.post(told.set)
    try:
        if not told.wait(OBJECT_SILENT_MS / 1000):
            return False
        tie.call("lend", [], "", deadline=until)  # which is answered after what was said before, and changes nothing
    except Gone:
        return True
    except (UniosError, TimeoutError):
        return False
    return True
