"""Cancelling: whether anybody still waits for what the task that runs here will return."""

from collections.abc import Callable

look: Callable[[], bool] | None = None
"""How a worker finds that out."""


def cancelling() -> bool:
    """Return whether `cancel` was called on the future of the task that runs in this process; False outside tasks.

    The future is not cancelled by that, since the task has begun: its outcome is what the task returns or raises now. Cheap enough to be asked in a loop.
    """
    return look is not None and look()
