"""Sums: what users have used, counted once."""

from unios.core.processes import ProcessRecord, State
from unios.core.sums import UserSum, added, totals
from unios.demands import Usage


def record(pid: int, user: str, cpu_ms: int, peak: int = 0, state: State = "exited") -> ProcessRecord:
    return ProcessRecord(pid=pid, incarnation=1, state=state, user=user, usage=Usage(cpu_ms, peak))


def test_a_sum_takes_its_own_user_s_records_only() -> None:
    found = added(UserSum("bob", 2, 100, 50), [record(1, "bob", 7, 60), record(2, "eve", 1_000, 1_000)])
    assert found == UserSum("bob", 3, 107, 60)


def test_totals_are_of_the_counted_and_of_those_that_are_still_there() -> None:
    sums = {"bob": UserSum("bob", 2, 100, 50), "old": UserSum("old", 1, 1)}
    records = [record(1, "bob", 7), record(2, "new", 3, 9), record(3, "idle", 0, state="running"), record(4, "bob", 5, state="running")]
    assert totals(sums, records) == (UserSum("bob", 4, 112, 50), UserSum("new", 1, 3, 9), UserSum("old", 1, 1))
