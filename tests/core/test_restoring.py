"""What a restore changes: the system is again as the backup says, but for what is true whatever a store says."""

import msgspec
import pytest

from unios.core.nodes import NodeRecord
from unios.core.processes import ProcessRecord, process_key
from unios.core.restoring import LEAP, Plan, plan
from unios.errors import CallerError


def process(pid: int, state: str) -> tuple[str, bytes]:
    made = ProcessRecord(pid, 1, state, "root", node="n1")  # type: ignore[arg-type]
    return process_key(pid), msgspec.msgpack.encode(made)


def node(name: str, incarnation: int, state: str = "joined") -> tuple[str, bytes]:
    return f"/nodes/{name}", msgspec.msgpack.encode(NodeRecord(name, "m", incarnation, state=state))  # type: ignore[arg-type]


def planned(backup: dict[str, bytes], present: dict[str, bytes], *, is_lost: bool = False) -> Plan:
    return plan(backup, present, made="then", now_ms=9, is_lost=is_lost)


def test_it_is_again_as_the_backup_says() -> None:
    backup = dict([("/rules/policy", b"old"), ("/same", b"="), process(300, "exited"), ("/gone", b"1")])
    present = dict([("/rules/policy", b"new"), ("/same", b"="), process(300, "exited"), process(301, "exited")])
    assert planned(backup, present) == Plan({"/rules/policy": b"old", "/gone": b"1"}, (process_key(301),), ())


def test_done_again_it_changes_nothing() -> None:
    backup = dict([("/rules/policy", b"old"), process(300, "running"), ("/next/pid", b"301")])
    present = dict([("/rules/policy", b"new"), ("/next/pid", b"400"), node("n1", 3)])
    done = planned(backup, present)
    after = {key: value for key, value in {**present, **done.puts}.items() if key not in done.deletes}
    assert planned(backup, after)[:2] == ({}, ())


def test_who_is_there_and_what_was_counted_is_not_taken_back() -> None:
    backup = dict([node("n1", 1), node("n2", 1), ("/next/pid", b"300"), ("/locks/epoch", b"1"), ("/quorum/n1", b"1")])
    present = dict([node("n1", 3), node("n2", 2, "left"), ("/next/pid", b"400"), ("/locks/epoch", b"2"), ("/quorum/n2", b"2"), ("/events/2", b"e")])
    assert planned({**backup, "/events/1": b"d"}, present) == Plan({"/events/1": b"d"}, (), ())


@pytest.mark.parametrize("state", ["pending", "running", "frozen", "migrating"])
def test_nothing_is_started_a_second_time(state: str) -> None:
    key, value = process(300, state)
    done = planned({key: value}, {})
    assert done.lost == (300,) and msgspec.msgpack.decode(done.puts[key], type=ProcessRecord).state == "lost"
    assert "backup of then" in msgspec.msgpack.decode(done.puts[key], type=ProcessRecord).reason
    assert planned({key: value}, dict([process(300, "exited")])) == Plan({}, (), ()), "the store that is there knows"
    with pytest.raises(CallerError, match=r"processes run or wait \(300\)"):
        planned({}, {key: value})


def test_where_the_store_is_lost_counters_leap() -> None:
    epoch = msgspec.msgpack.encode({"epoch": 5, "clean": True, "since": 2})
    backup = dict([node("n1", 4), ("/locks/epoch", epoch), ("/next/pid", b"300"), ("/quorum/n1", b"1"), ("/rules/policy", b"r")])
    done = planned(backup, {}, is_lost=True)
    assert msgspec.msgpack.decode(done.puts["/nodes/n1"], type=NodeRecord).incarnation == 4 + LEAP
    assert msgspec.msgpack.decode(done.puts["/locks/epoch"]) == {"epoch": 5 + LEAP, "clean": False, "since": 2}
    assert done.puts["/rules/policy"] == b"r" and "/quorum/n1" not in done.puts
