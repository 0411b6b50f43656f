"""The ledger of processes: what it lets pass, and what it takes for a loss."""

import pytest
from msgspec.structs import replace

from tests.sim.ledger import explained, follows
from unios.core.processes import ProcessRecord

RECORD = ProcessRecord(300, 1, "running", "root", node="n1")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((RECORD, 5), (RECORD, 4)),
        ((RECORD, 5), (replace(RECORD, node="n2"), 5)),
        ((RECORD, 5), (replace(RECORD, state="pending"), 6)),
        ((replace(RECORD, incarnation=2), 5), (RECORD, 6)),
        ((replace(RECORD, state="exited", exit_code=0), 5), (RECORD, 6)),
        ((replace(RECORD, state="exited", exit_code=0), 5), (replace(RECORD, state="exited", exit_code=1), 6)),
        ((replace(RECORD, state="exited", exit_code=1), 5), (replace(RECORD, state="pending", incarnation=2), 6)),
        ((replace(RECORD, state="lost", reason="x"), 5), (replace(RECORD, incarnation=2), 6)),
    ],
)
def test_the_ledger_sees_that_a_record_is_lost(before: tuple[ProcessRecord, int], after: tuple[ProcessRecord, int]) -> None:
    assert not follows(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((RECORD, 5), (RECORD, 5)),
        ((RECORD, 5), (RECORD, 6)),
        ((RECORD, 5), (replace(RECORD, state="exited", exit_code=0), 6)),
        ((RECORD, 5), (replace(RECORD, state="pending", incarnation=2, node=""), 6)),
        ((replace(RECORD, state="exited", exit_code=1, restart="on-failure"), 5), (replace(RECORD, state="pending", incarnation=2), 6)),
    ],
)
def test_the_ledger_lets_a_life_in_order_pass(before: tuple[ProcessRecord, int], after: tuple[ProcessRecord, int]) -> None:
    assert follows(before, after)


def test_a_record_says_where_its_process_is_or_why_it_is_not() -> None:
    assert explained(RECORD) and explained(replace(RECORD, state="exited", exit_code=0, node=""))
    assert explained(replace(RECORD, state="pending", node="", reason="no node is ready"))
    assert not any(map(explained, (replace(RECORD, node=""), replace(RECORD, state="lost"), replace(RECORD, state="exited"))))
