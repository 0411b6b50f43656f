"""Nearness: whether a task had better go to the data that it refers to, or the data come to it. Decides only."""

from collections.abc import Mapping

from unios.object_limits import NEARNESS_BYTES_MS, NEARNESS_GAIN_MS


def plan_node(
    bytes_at: Mapping[str, int], *, cost_ms: float = 0.0, wait_ms: Mapping[str, float] | None = None, bytes_ms: float = NEARNESS_BYTES_MS
) -> str:
    """Return the node where a task is done soonest, "" if it does not matter: then whoever is free takes it.

    `bytes_at`: for each node, how much is there of what the task refers to; one with 0 bytes is a node too. `cost_ms`: what the task costs where it does
    not wait. `wait_ms`: how long a task waits on a node before it begins. `bytes_ms`: what a link carries in a millisecond.
    A gain of less than NEARNESS_GAIN_MS, or of less than a twentieth of the task, is none: the work is spread rather than heaped.
    """
    if not bytes_at:
        return ""
    total = sum(bytes_at.values())
    waits = wait_ms or {}
    ends = {node: waits.get(node, 0.0) + (total - here) / bytes_ms + cost_ms for node, here in bytes_at.items()}
    best = min(sorted(ends), key=lambda node: ends[node])
    others = [end for node, end in ends.items() if node != best] or [waits.get("", 0.0) + total / bytes_ms + cost_ms]
    gain = min(others) - ends[best]
    return best if gain >= max(NEARNESS_GAIN_MS, cost_ms / 20) else ""
