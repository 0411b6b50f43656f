"""Rates: a token bucket: how long whoever asks has to wait so that over time no more than so much a second is asked. Decides only, and reads no clock.

Source: the token bucket as in ITU-T I.371 (generic cell rate algorithm, virtual scheduling): one number, the time at which the bucket would be full.
"""


class Bucket:
    """`rate`: so many a second over time; `burst`: so many at once after a rest; `wait_ms_max`: who would have to wait for longer is refused."""

    __slots__ = ("_burst_us", "_full_us", "_step_us", "_wait_us_max", "refused")

    def __init__(self, rate: int, burst: int, wait_ms_max: int) -> None:
        self._step_us = 1_000_000 // rate
        self._burst_us = burst * self._step_us  # so far ahead of now the bucket may be
        self._wait_us_max = wait_ms_max * 1_000
        self._full_us = 0
        self.refused = 0
        """How many were refused."""

    def is_ready(self, now_us: int) -> bool:
        """Return whether who asks now need not wait; nothing is taken."""
        return max(self._full_us, now_us) + self._step_us - now_us <= self._burst_us

    def ask(self, now_us: int) -> int | None:
        """Take one at `now_us` (monotonic, us); return for how many us whoever asks has to wait, None if he is refused. What is refused takes nothing."""
        full_us = max(self._full_us, now_us) + self._step_us
        wait_us = max(0, full_us - now_us - self._burst_us)
        if wait_us > self._wait_us_max:
            self.refused += 1
            return None
        self._full_us = full_us
        return wait_us
