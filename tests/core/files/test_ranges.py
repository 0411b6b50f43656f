"""Locks on parts of a file are what a table with one row a byte says; neighbours are one lock; kinds and holders do not get mixed up."""

import random

import pytest

from unios.core.files.ranges import END, READ, UNLOCK, WRITE, Lock, Locks, conflict, placed, without

BYTES = range(12)
HOLDERS = [(mount, owner, whole) for mount in (1, 2) for owner in (7, 8) for whole in (False, True)]
Holder = tuple[int, int, bool]
Table = dict[tuple[Holder, int], int]
"""(holder, byte) -> kind"""


def lock(start: int, end: int, kind: int, holder: Holder = (1, 7, False), pid: int = 0) -> Lock:
    return Lock(start, end, kind, *holder, pid)


def in_the_way(table: Table, wanted: Lock) -> set[Holder]:
    return {
        holder
        for (holder, byte), kind in table.items()
        if wanted.start <= byte <= wanted.end and holder != wanted.holder and holder[2] == wanted.whole and WRITE in (kind, wanted.kind)
    }


def table_of(held: Locks) -> Table:
    """Return the rows of these locks, none of which may be there twice."""
    table: Table = {}
    for one in held:
        for byte in range(one.start, one.end + 1):
            assert (one.holder, byte) not in table, f"byte {byte} is in two locks of {one.holder}"
            table[one.holder, byte] = one.kind
    return table


def do(table: Table, wanted: Lock) -> None:
    for byte in range(wanted.start, wanted.end + 1):
        if wanted.kind == UNLOCK:
            table.pop((wanted.holder, byte), None)
        else:
            table[wanted.holder, byte] = wanted.kind


def touching(held: Locks) -> list[tuple[Lock, Lock]]:
    """Return neighbours that should be one."""
    return [(one, other) for one in held for other in held if one.holder == other.holder and one.kind == other.kind and one.end + 1 == other.start]


@pytest.mark.parametrize("seed", range(40))
def test_locks_are_what_a_table_of_bytes_says(seed: int) -> None:
    chosen, table, refusals = random.Random(seed), Table(), 0
    held: Locks = ()
    for _ in range(150):
        start, end = sorted((chosen.choice(BYTES), chosen.choice(BYTES)))
        wanted = lock(start, end, chosen.choice((READ, READ, WRITE, UNLOCK, UNLOCK)), chosen.choice(HOLDERS))
        expected = in_the_way(table, wanted) if wanted.kind != UNLOCK else set()
        found = conflict(held, wanted) if wanted.kind != UNLOCK else None
        assert (found is not None) == bool(expected)
        if found is not None:
            assert found in held and found.holder in expected
            refusals += 1
            continue
        held = placed(held, wanted)
        do(table, wanted)
        assert table_of(held) == table and touching(held) == []
        if chosen.random() < 0.05:
            mount, owner, whole = chosen.choice((1, 2)), chosen.choice((None, 7, 8)), chosen.choice((None, False, True))
            held = without(held, mount, owner, whole=whole)
            table = {
                (holder, byte): kind
                for (holder, byte), kind in table.items()
                if holder[0] != mount or (owner is not None and holder[1] != owner) or (whole is not None and holder[2] != whole)
            }
            assert table_of(held) == table
    assert refusals


def test_what_is_given_back_in_the_middle_leaves_two() -> None:
    held = placed((lock(0, 9, WRITE),), lock(3, 5, UNLOCK))
    assert sorted((one.start, one.end, one.kind) for one in held) == [(0, 2, WRITE), (6, 9, WRITE)]
    assert placed(placed(held, lock(0, 2, UNLOCK)), lock(6, END, UNLOCK)) == ()


def test_another_kind_in_the_middle_leaves_three_and_the_first_kind_again_makes_them_one() -> None:
    held = placed((lock(0, 9, WRITE),), lock(3, 5, READ))
    assert sorted((one.start, one.end, one.kind) for one in held) == [(0, 2, WRITE), (3, 5, READ), (6, 9, WRITE)]
    assert [(one.start, one.end, one.kind) for one in placed(held, lock(3, 5, WRITE))] == [(0, 9, WRITE)]


def test_neighbours_of_two_kinds_or_of_two_holders_stay_two() -> None:
    for other in (lock(5, 9, READ), lock(5, 9, WRITE, (1, 8, False)), lock(5, 9, WRITE, (2, 7, False)), lock(5, 9, WRITE, (1, 7, True))):
        assert placed((lock(0, 4, WRITE),), other) == (lock(0, 4, WRITE), other)


def test_locks_to_the_end_of_all_files_are_locks_like_others() -> None:
    held = placed((lock(0, END, WRITE),), lock(END, END, UNLOCK))
    assert held == (lock(0, END - 1, WRITE),)
    assert placed(held, lock(END, END, WRITE)) == (lock(0, END, WRITE),)
    assert conflict((lock(END, END, READ),), lock(0, END, WRITE, (1, 8, False))) is not None


def test_flock_and_fcntl_do_not_see_each_other() -> None:
    assert conflict((lock(0, END, WRITE, (1, 7, True)),), lock(0, 9, WRITE, (2, 8, False))) is None
    assert conflict((lock(0, END, WRITE, (1, 7, True)),), lock(0, END, WRITE, (2, 8, True))) is not None


def test_the_same_owner_on_two_mounts_is_two_holders() -> None:
    """Linux of each machine gives these numbers itself."""
    assert conflict((lock(0, 9, WRITE),), lock(0, 9, READ, (2, 7, False))) is not None
    assert conflict((lock(0, 9, WRITE),), lock(0, 9, READ)) is None


def test_readers_get_along_and_a_neighbour_is_not_in_the_way() -> None:
    other = (2, 8, False)
    assert conflict((lock(0, 9, READ),), lock(0, 9, READ, other)) is None
    assert conflict((lock(0, 9, READ),), lock(9, 12, WRITE, other)) is not None
    assert conflict((lock(0, 9, WRITE),), lock(10, 12, WRITE, other)) is None
    assert conflict((lock(5, 9, WRITE),), lock(0, 4, WRITE, other)) is None


def test_a_lock_that_is_set_anew_has_the_newer_pid() -> None:
    assert placed((lock(0, 9, READ, pid=5),), lock(0, 9, READ, pid=6)) == (lock(0, 9, READ, pid=6),)


def test_without_takes_what_is_meant_and_nothing_else() -> None:
    held = tuple(lock(0, 1, READ, holder) for holder in HOLDERS)
    assert [one.holder for one in without(held, 1)] == [holder for holder in HOLDERS if holder[0] == 2]
    assert [one.holder for one in without(held, 1, 7)] == [holder for holder in HOLDERS if holder[:2] != (1, 7)]
    assert [one.holder for one in without(held, 1, 7, whole=False)] == [holder for holder in HOLDERS if holder != (1, 7, False)]
    assert [one.holder for one in without(held, 1, 7, whole=True)] == [holder for holder in HOLDERS if holder != (1, 7, True)]
    assert without(held, 3) == held
