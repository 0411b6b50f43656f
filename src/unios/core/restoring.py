"""Restoring: what has to change in the store so that it is again as a backup says. Decides only; kernel/store_operations.py has it done.

A backup says what the system knew once. What is true whatever the store says stays as it is: which nodes there are, and which of them were expelled; who
has a member of etcd; counters, of which no number may be given twice (pids, tokens of locks, incarnations of nodes); what happened (events), and who did it
(the audit log). Nothing that lived when the backup was made is started by it a second time: what came of it since is not known, unless the store that is
there knows.

Records that hang on a lease are neither in a backup nor touched here: they are of who is there now.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, TypeVar

import msgspec

from unios.core import claims
from unios.core.nodes import NodeRecord
from unios.core.processes import LIVE, ProcessRecord
from unios.core.quorum import CHANGES, LEAVING, PREFIX
from unios.errors import CallerError
from unios.undecodable import UNDECODABLE

T = TypeVar("T")
PROCESSES: Final = "/processes/"
NODES: Final = "/nodes/"
STAYS: Final = (NODES, PREFIX, LEAVING, CHANGES, "/next/", "/locks/", "/tokens/", "/audit/")
"""What the store that is there knows better than any backup."""
BOTH: Final = "/events/"
EPOCH: Final = "/locks/epoch"
LEAP: Final = 10_000
"""How far a counter is moved on where nobody knows any more how far it had come."""
PIDS_SAID: Final = 8


class Plan(NamedTuple):
    """`puts`: key -> value; `deletes`: keys. `lost`: processes that lived when the backup was made and of which nothing more is known."""

    puts: dict[str, bytes]
    deletes: tuple[str, ...]
    lost: tuple[int, ...]


def plan(backup: Mapping[str, bytes], present: Mapping[str, bytes], *, made: str, now_ms: int, is_lost: bool = False) -> Plan:
    """Return what is to be done. `made`: when the backup was, as people write it. `is_lost`: there is no store any more, so nothing is `present`.

    Raises CallerError while processes live, which the backup knows nothing of, or otherwise; or for a record that makes no sense.
    """
    living = sorted(
        record.pid for key, value in present.items() if key.startswith(PROCESSES) and (record := _read(key, value, ProcessRecord)).state in LIVE
    )
    if living:
        pids = ", ".join(map(str, living[:PIDS_SAID])) + (", ..." if len(living) > PIDS_SAID else "")
        raise CallerError(
            f"processes run or wait ({pids}), and the backup knows nothing of them, or not how they are: wait for them or end them, then restore again"
        )
    wanted, lost = dict(backup), list[int]()
    for key, value in backup.items():
        if key.startswith(PROCESSES) and (record := _read(key, value, ProcessRecord)).state in LIVE:
            if key in present:
                wanted[key] = present[key]
            else:
                lost.append(record.pid)
                wanted[key] = msgspec.msgpack.encode(_gone(record, made, now_ms))
    kept = {key: value for key, value in present.items() if key.startswith((*STAYS, BOTH))}
    if is_lost:
        wanted = dict(_moved_on(wanted))
    else:
        wanted = {key: value for key, value in wanted.items() if not key.startswith(STAYS)}
    wanted.update(kept)
    puts = {key: value for key, value in wanted.items() if present.get(key) != value}
    return Plan(puts, tuple(key for key in present if key not in wanted), tuple(sorted(lost)))


def _read(key: str, value: bytes, type_: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(value, type=type_)
    except UNDECODABLE as error:
        raise CallerError(f"the record {key[:80]} makes no sense to this version of unios ({error}): take another backup") from error


def _gone(record: ProcessRecord, made: str, now_ms: int) -> ProcessRecord:
    why = f"it ran or waited when the backup of {made} was made, to which the store was restored: what has become of it is not known"
    return msgspec.structs.replace(claims.lost(record, why, now_ms), reason=why)


def _moved_on(wanted: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the records of a backup for a store that has none: counters leap over all that may have been given since."""
    for key, value in wanted.items():
        if key.startswith(NODES):
            node = _read(key, value, NodeRecord)
            yield key, msgspec.msgpack.encode(msgspec.structs.replace(node, incarnation=node.incarnation + LEAP))
        elif key == EPOCH:
            fields = _read(key, value, dict[str, int | bool])
            yield key, msgspec.msgpack.encode({**fields, "epoch": fields.get("epoch", 0) + LEAP, "clean": False})
        elif not key.startswith((PREFIX, LEAVING, CHANGES)):
            yield key, value
