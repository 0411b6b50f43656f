"""Tidying: which records of ended processes go, so that they stay within their bound. Decides only; the recovery service deletes.

What a waiting process depends on is kept, however old, since its record alone tells how it ended. A specification goes with the last record that has it.
"""

from collections import Counter
from collections.abc import Collection

from unios.core.dependencies import is_over
from unios.core.processes import ProcessRecord, process_key, spec_key
from unios.core.queue import waits


def surplus(records: Collection[ProcessRecord], kept: int) -> list[str]:
    """Return the keys to delete so that the newest `kept` ended processes stay, and those that somebody waits for."""
    named = {after.pid for record in records if waits(record) for after in record.queueing.after}
    ended = [record for record in records if is_over(record) and record.pid not in named and record.queueing.array not in named]
    ended.sort(key=lambda record: record.ended_ms)
    gone = ended[: max(0, len(ended) - kept)]
    left = Counter(record.spec_pid or record.pid for record in records)
    left.subtract(record.spec_pid or record.pid for record in gone)
    specs = {record.spec_pid or record.pid for record in gone}
    return [process_key(record.pid) for record in gone] + [spec_key(pid) for pid in sorted(specs) if not left[pid]]
