"""Flapping: nodes that are lost again and again. Decides only: whether a node is steady enough for new work, and whether its next loss is still news.

A node that was lost FLAP_LOSSES times within FLAP_WINDOW_MS is unsteady until it has not been lost for FLAP_CALM_MS. Nothing about safety is decided here:
each loss is a loss, and claims are made as ever; but what was moved away is not put there again at once, only to be moved once more.

Who has seen nothing of it, as a kernel that has just begun, goes by the record of the node, in which each registration after a loss leaves its time.
"""

from collections import deque

from unios.core.nodes import NodeRecord
from unios.limits import CLOCK_OFFSET_MS_MAX, FLAP_CALM_MS, FLAP_LOSSES, FLAP_WINDOW_MS


def returns(known: NodeRecord | None, now_ms: int) -> tuple[int, ...]:
    """Return the returns of a node that registers anew, this one included unless it is its first time or it was stopped in order."""
    if known is None:
        return ()
    return known.returns_ms if known.stopped else (*known.returns_ms, now_ms)[-FLAP_LOSSES:]


def comes_and_goes(record: NodeRecord, now_ms: int) -> bool:
    """Return whether the record of a node says that it flaps. `now_ms`: any wall clock; one that is far from the node's sees nothing."""
    times = record.returns_ms
    if len(times) < FLAP_LOSSES or not 0 <= times[-1] - times[0] <= FLAP_WINDOW_MS:
        return False
    return -CLOCK_OFFSET_MS_MAX <= now_ms - times[-1] <= FLAP_CALM_MS


class Flapping:
    """The nodes of a system as one observer saw them lost. Times in ms of a clock that nobody sets."""

    def __init__(self) -> None:
        self._losses: dict[str, deque[int]] = {}
        self._told: set[str] = set()

    def lost(self, node: str, now_ms: int) -> None:
        """It was lost, or registered anew: once more."""
        self._losses.setdefault(node, deque(maxlen=FLAP_LOSSES)).append(now_ms)

    def forget(self, node: str) -> None:
        """It left."""
        self._losses.pop(node, None)
        self._told.discard(node)

    def is_unsteady(self, node: str, now_ms: int) -> bool:
        """Return whether nothing new should be placed on it for now."""
        losses = self._losses.get(node)
        if losses is None or len(losses) < FLAP_LOSSES or losses[-1] - losses[0] > FLAP_WINDOW_MS or now_ms - losses[-1] > FLAP_CALM_MS:
            self._told.discard(node)
            return False
        return True

    def news(self, node: str, now_ms: int, plain: str) -> str:
        """Return what to tell of this loss: `plain` while it is one of few, once that it comes and goes, then "" until it is steady again."""
        if not self.is_unsteady(node, now_ms):
            return plain
        if node in self._told:
            return ""
        self._told.add(node)
        return (
            f"{node} comes and goes ({FLAP_LOSSES} losses within {FLAP_WINDOW_MS // 1000} s): nothing new is placed on it until it has stayed for "
            f"{FLAP_CALM_MS // 1000} s, and of further losses nothing is said until then"
        )
