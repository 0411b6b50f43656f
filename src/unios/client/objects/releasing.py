"""Releasing: a holder lets go of another node's objects, each only after the holders of all others have heard what it refers to there since.

Data may refer to objects on a third node. Whoever kept the data lets go of those when nobody refers to the data any more, over a connection of his own: were
the data released before that node has heard that they are referred to from here, it would drop them. However long it does not answer, what depends on it waits.
"""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from unios.client.objects.tie import Gone, Tie
from unios.errors import UniosError
from unios.object_limits import OBJECT_SILENT_MS

_AGAIN_S: Final = 0.5


class Releases:
    """Those of one holder, whose lock guards what is noted here and is held by who calls `acquired` and `released`."""

    def __init__(self, lock: AbstractContextManager[object], tie: Callable[[str], Tie], is_wanted: Callable[[str, str], bool]) -> None:
        """`tie`: gives that to a node; `is_wanted`: whether an object of a node is referred to here again."""
        self._lock, self._tie, self._is_wanted = lock, tie, is_wanted
        self._unheard: dict[str, int] = {}
        """By node: how often it was told something that it has perhaps not heard yet."""
        self._waiting: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="unios-releases", daemon=True).start()

    def acquired(self, node: str) -> None:
        """A node is being told of references from here."""
        self._unheard[node] = self._unheard.get(node, 0) + 1

    def released(self, id_: str, node: str) -> None:
        """Let go of an object, as soon as that may be."""
        if self._unheard.keys() <= {node}:
            tie = self._tie(node)
            tie.post(partial(tie.drop, id_))
        else:
            self._waiting.put((id_, node))

    def _run(self) -> None:
        while True:
            id_, node = self._waiting.get()
            with self._lock:
                unheard = {one: (count, self._tie(one)) for one, count in self._unheard.items() if one != node}
            for one, (count, tie) in unheard.items():
                while not _has_heard(tie):
                    time.sleep(_AGAIN_S)
                with self._lock:
                    if self._unheard.get(one) == count:
                        del self._unheard[one]
            with self._lock:
                if not self._is_wanted(id_, node):
                    tie = self._tie(node)
                    tie.post(partial(tie.drop, id_))


def _has_heard(tie: Tie) -> bool:
    """Return whether the other side has heard all that was posted up to now, or has ended with all that it kept."""
    told = threading.Event()
    tie.post(told.set)
    try:
        if not told.wait(OBJECT_SILENT_MS / 1000):
            return False
        tie.call("lend", [], "")  # which is answered after what was said before, and changes nothing
    except Gone:
        return True
    except UniosError:
        return False
    return True
