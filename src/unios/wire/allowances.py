"""Allowances: how much memory all that one stranger has sent may take of a program, over all his connections together. Each message has a bound of its own,
and so has each connection; neither says what many connections may take."""

from _thread import allocate_lock  # threading's, which a short command does without


class Allowance:
    """That of one user at one port, or at one kernel. Several threads may use it."""

    __slots__ = ("__weakref__", "_lock", "_max", "_within", "taken")

    def __init__(self, bytes_max: int, within: "Allowance | None" = None) -> None:
        """`within`: what several have together; what is taken of this one is taken of that as well."""
        self._max, self._within = bytes_max, within
        self._lock = allocate_lock()
        self.taken = 0

    def take(self, size: int) -> bool:
        """Take so many bytes; False, and nothing is taken, if there are not so many left."""
        with self._lock:
            if self.taken + size > self._max:
                return False
            if self._within is not None and not self._within.take(size):
                return False
            self.taken += size
            return True

    def give(self, size: int) -> None:
        """So many bytes that were taken are free again."""
        with self._lock:
            self.taken -= size
        if self._within is not None:
            self._within.give(size)
