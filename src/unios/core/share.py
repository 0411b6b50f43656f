"""Fair share: how much of the machines each user had lately, so that who had least goes first. Decides only; times are given.

The use of a user at time t, in core-milliseconds, is

    sum over what he has run of  cores * duration * 2 ** -((t - end) / half-life)
  + sum over what he runs now of cores * (t - start)
  + what is set aside for him now, in cores, * SHARE_AHEAD_MS

Source: the exponential decay with a half-life is that of J. Kay and P. Lauder, A Fair Share Scheduler, CACM 31 (1988), and of Slurm's classic fair
share. The last term is of ours: it charges what has only just been given, so that one pass over the queue does not give all to one user. All users have
equal shares. Every observer counts by itself from the records that it sees, so nothing is written down: one that begins anew knows what the kept records
tell. The clocks are those of the nodes that wrote the records; durations below zero count as none.
"""

import math

from unios.core.processes import ENDED, LIVE, ProcessRecord
from unios.limits import SHARE_AHEAD_MS, SHARE_HALF_LIFE_MS


class Shares:
    """Those of a system, as one observer counts them."""

    def __init__(self) -> None:
        self._had: dict[str, tuple[float, int]] = {}
        """user -> (core-ms, the time to which they are decayed)"""
        self._runs: dict[str, tuple[int, int]] = {}
        """user -> (cores, cores * start) in thousandths, of what runs now"""

    def put(self, before: ProcessRecord | None, now: ProcessRecord | None) -> None:
        """A record has changed. `before` is what was put last, None the first time."""
        for record, sign in ((before, -1), (now, 1)):
            if record is not None and record.state in LIVE and record.state != "pending" and record.started_ms:
                cpu, starts = self._runs.get(record.user, (0, 0))
                milli = record.resources.cpu_milli
                self._runs[record.user] = (cpu + sign * milli, starts + sign * milli * record.started_ms)
        if now is not None and now.state in ENDED and now.started_ms and now.ended_ms and (before is None or before.state in LIVE):
            self.charge(now.user, now.resources.cpu_milli * max(0, now.ended_ms - now.started_ms) / 1_000, now.ended_ms)

    def charge(self, user: str, core_ms: float, at_ms: int) -> None:
        """He has used so much, until then."""
        had, then = self._had.get(user, (0.0, at_ms))
        if at_ms >= then:
            self._had[user] = (_decayed(had, at_ms - then) + core_ms, at_ms)
        else:
            self._had[user] = (had + _decayed(core_ms, then - at_ms), then)

    def use(self, user: str, now_ms: int, set_aside_milli: int) -> float:
        """Return the use as defined above, in core-ms."""
        had, then = self._had.get(user, (0.0, now_ms))
        cpu, starts = self._runs.get(user, (0, 0))
        return _decayed(had, now_ms - then) + max(0, cpu * now_ms - starts) / 1_000 + set_aside_milli * SHARE_AHEAD_MS / 1_000


def _decayed(amount: float, for_ms: int) -> float:
    return amount * math.exp2(-max(0, for_ms) / SHARE_HALF_LIFE_MS)
