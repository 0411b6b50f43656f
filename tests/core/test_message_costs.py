"""How many messages a strategy takes, and which one takes the fewest."""

from unios.core.message_costs import costs_of, table, total, turns_of
from unios.core.strategies import STRATEGIES


def test_which_strategy_takes_the_fewest_messages_changes_with_the_share_of_reads() -> None:
    rows = table({"one-place": 1, "active": 2, "primary-backup": 2, "cached-reads": 2}, callers=3)
    fewest = {share: min(rows, key=lambda row: row[2][share])[0] for share in (0, 50, 99)}
    assert fewest == {0: "one-place", 50: "one-place", 99: "cached-reads"}
    survivors = rows[1:]
    assert min(survivors, key=lambda row: row[2][0])[0] in ("primary-backup", "cached-reads")


def test_more_copies_cost_writes_and_no_reads() -> None:
    for strategy in STRATEGIES.values():
        assert costs_of(strategy, 2).read == costs_of(strategy, 1).read
        assert costs_of(strategy, 2).write > costs_of(strategy, 1).write


def test_a_workload_has_the_share_of_reads_that_was_asked_for() -> None:
    assert [turns_of(100, share).count("r") for share in (0, 1, 50, 99, 100)] == [0, 1, 50, 99, 100]
    assert total(STRATEGIES["one-place"], 1, "rw", 1) == 4
