"""A bank: accounts are lists of (transfer, amount); a transfer appends to two of them, in one transaction that has read both, and leaves none below 0.

Besides what transactions.py demands: whoever reads all accounts finds the sum that was there at first, and no account in debt.
"""

from collections.abc import Hashable, Iterable, Sequence

from tests.histories import transactions
from tests.histories.linear import Verdict
from tests.histories.transactions import Transaction

FIRST = 10
"""What each account has before any transfer."""


def balance(items: Iterable[Hashable]) -> int:
    """Return what an account has."""
    return FIRST + sum(int(item[1]) for item in items if isinstance(item, Sequence))


def check(history: Sequence[Transaction]) -> Verdict:
    """Say whether the bank could have been one machine that does one transfer after the other and lends nothing."""
    verdict = transactions.check(history)
    if not verdict.is_good:
        return verdict
    accounts = {key for one in history for key in one.reads}
    for one in history:
        for key, items in one.reads.items():
            if balance(items) < 0:
                return Verdict("bad", (one,), f"{key} is in debt: {balance(items)}")
        if set(one.reads) == accounts and not one.appends:
            total = sum(balance(items) for items in one.reads.values())
            if total != FIRST * len(accounts):
                return Verdict("bad", (one,), f"all accounts together have {total} instead of {FIRST * len(accounts)}")
    return verdict
