"""Dependencies: whether what a process waits for has come about. Decides only; it is told every record as it changes.

The pid of the first element of an array stands for the whole array. A process that its policy starts again has not ended. One whose record is gone has
ended, and nobody knows how: records that somebody waits for are kept (services/recovery.py), so that happens only to what was gone before.
"""

from typing import NamedTuple

from unios.core.claims import wants_restart
from unios.core.processes import ENDED, ProcessRecord
from unios.demands import After


class Fate(NamedTuple):
    """Of a dependency. Neither met nor impossible: it waits, as `reason` says."""

    met: bool
    impossible: bool
    reason: str


MET = Fate(True, False, "")
_WORDS = {"ok": "to end well", "failed": "to end with a failure", "ended": "to end"}


class _Tally:
    """Of one process or one array: how many are not over, and how many have ended badly."""

    __slots__ = ("bad", "live", "total")

    def __init__(self) -> None:
        self.live = self.bad = self.total = 0


def is_over(record: ProcessRecord) -> bool:
    return record.state in ENDED and not wants_restart(record)


def ended_well(record: ProcessRecord) -> bool:
    return record.state == "exited" and record.exit_code == 0


class Dependencies:
    """What one observer knows of how processes have ended."""

    def __init__(self) -> None:
        self._records: dict[int, ProcessRecord] = {}
        self._arrays: dict[tuple[int, str], _Tally] = {}
        """By the first pid and the user: nobody becomes an element of another's array."""

    def put(self, pid: int, now: ProcessRecord | None) -> int:
        """A record has changed, or is gone (None). Return the array that it belongs to, 0 for none."""
        before = self._records.get(pid)
        if now is None:
            self._records.pop(pid, None)
        else:
            self._records[pid] = now
        record = now or before
        array = record.queueing.array if record is not None else 0
        if array and record is not None:
            tally = self._arrays.setdefault((array, record.user), _Tally())
            for seen, sign in ((before, -1), (now, 1)):
                if seen is not None:
                    tally.total += sign
                    tally.live += sign * (not is_over(seen))
                    tally.bad += sign * (is_over(seen) and not ended_well(seen))
            if not tally.total:
                del self._arrays[array, record.user]
        return array

    def knows(self, pid: int, user: str) -> bool:
        """Return whether there is such a process, or an array of that user's that began with it."""
        return pid in self._records or (pid, user) in self._arrays

    def get(self, pid: int) -> ProcessRecord | None:
        return self._records.get(pid)

    def fate(self, after: After, user: str) -> Fate:
        """Return what has become of one condition of a process of that user."""
        record = self._records.get(after.pid)
        tally = self._arrays.get((after.pid, record.user if record is not None else user))
        if tally is None:
            if record is None:
                return (
                    MET
                    if after.condition == "ended"
                    else Fate(False, True, f"it waited for {after.pid}, of which nobody knows any more how it ended")
                )
            tally = _Tally()
            tally.live, tally.bad = int(not is_over(record)), int(is_over(record) and not ended_well(record))
        if after.condition == "ok" and tally.bad:
            return Fate(False, True, f"it waited for {after.pid} to end well, which it did not")
        if tally.live:
            return Fate(False, False, f"waits for {after.pid} {_WORDS[after.condition]}")
        if after.condition == "failed" and not tally.bad:
            return Fate(False, True, f"it waited for {after.pid} to end with a failure, and it ended well")
        return MET

    def all_of(self, waiting: ProcessRecord) -> Fate:
        """Return what has become of all conditions together: the first that is impossible, else the first that is not met."""
        fates = [self.fate(after, waiting.user) for after in waiting.queueing.after]
        return next((fate for fate in fates if fate.impossible), None) or next((fate for fate in fates if not fate.met), MET)
