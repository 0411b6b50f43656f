"""A replica decides: what waits shares a commit, who is fenced is refused, nothing is answered too early."""

from unios.core.log_replica import Answer, Commit, Kept, Refused, Replica, Write
from unios.log_limits import LOG_COMMIT_BYTES, LOG_WAITING_MAX


def made() -> Replica:
    """A replica with span 1 of epoch 2, which begins at 5."""
    replica = Replica()
    assert replica.create("c", epoch=2, number=1, first=5) == [Commit((Kept(1, 2, 5, 5),), (), 2, 0)]
    assert replica.synced() == [Answer("c", 5)]
    return replica


def append(replica: Replica, token: str, first: int, *entries: bytes, epoch: int = 2) -> list[Answer | Commit]:
    return replica.append(token, epoch=epoch, number=1, of=2, first=first, entries=entries)


def test_appends_that_wait_for_the_disk_share_the_next_commit() -> None:
    replica = made()
    assert append(replica, "a", 5, b"5") == [Commit((), (Write(1, 5, (b"5",)),), 0, 0)]
    assert append(replica, "b", 6, b"6") == [] == append(replica, "d", 7, b"7", b"8")
    assert replica.synced() == [Answer("a", 6), Commit((), (Write(1, 6, (b"6", b"7", b"8")),), 0, 0)]
    assert replica.synced() == [Answer("b", 9), Answer("d", 9)]


def test_what_comes_again_is_taken_once_and_a_hole_is_refused() -> None:
    replica = made()
    append(replica, "a", 5, b"5", b"6")
    assert append(replica, "again", 5, b"5", b"6") == []
    assert replica.synced() == [Answer("a", 7), Answer("again", 7)]
    assert append(replica, "late", 5, b"5") == [Answer("late", 7)]
    assert append(replica, "more", 6, b"6", b"7") == [Commit((), (Write(1, 7, (b"7",)),), 0, 0)]
    assert append(replica, "far", 9, b"9") == [Answer("far", Refused("hole", 8))]


def test_a_seal_lets_what_is_being_written_end_and_refuses_what_waits() -> None:
    replica = made()
    append(replica, "a", 5, b"5")
    append(replica, "b", 6, b"6")
    assert replica.seal("s", epoch=3, number=1, of=2) == [Answer("b", Refused("fenced", 3))]
    assert append(replica, "d", 6, b"6") == [Answer("d", Refused("fenced", 3))]
    assert replica.synced() == [Answer("a", 6), Commit((), (), 3, 0)]
    assert replica.synced() == [Answer("s", 6)]
    assert append(replica, "copy", 6, b"6", epoch=3) == [Commit((), (Write(1, 6, (b"6",)),), 0, 0)]


def test_a_replica_that_does_not_know_the_span_says_so_and_never_that_it_is_empty() -> None:
    replica = Replica()
    assert Answer("s", Refused("gone")) in replica.seal("s", epoch=3, number=1, of=2)
    assert Replica(fence=2).append("a", epoch=2, number=1, of=2, first=0, entries=(b"x",)) == [Answer("a", Refused("gone"))]


def test_a_commit_that_fails_refuses_all_that_was_built_on_it() -> None:
    replica = made()
    append(replica, "a", 5, b"5")
    append(replica, "b", 6, b"6")
    assert replica.failed("full") == [Answer("a", Refused("failed", 0, "full")), Answer("b", Refused("failed", 0, "full"))]
    assert append(replica, "d", 5, b"x") == [Commit((), (Write(1, 5, (b"x",)),), 0, 0)]


def test_only_what_is_told_to_be_acknowledged_is_shown_and_nothing_that_is_trimmed() -> None:
    replica = made()
    append(replica, "a", 5, b"5", b"6", b"7")
    replica.synced()
    assert replica.readable(number=1, of=2, offset=5) == 5
    replica.confirm(number=1, of=2, confirmed=7)
    assert replica.readable(number=1, of=2, offset=5) == 7 and replica.readable(number=1, of=2, offset=5, closed=100) == 8
    replica.trim("t", 6)
    assert replica.readable(number=1, of=2, offset=5) == Refused("trimmed", 6)
    assert replica.readable(number=1, of=3, offset=7) == Refused("gone")


def test_a_span_is_made_once_and_by_nobody_older() -> None:
    replica = made()
    assert replica.create("again", epoch=2, number=1, first=5) == [Answer("again", 5)]
    assert replica.create("old", epoch=1, number=2, first=5) == [Answer("old", Refused("fenced", 2))]
    why = "span 1 began at 5 here, and cannot begin at 6"
    assert replica.create("moved", epoch=2, number=1, first=6) == [Answer("moved", Refused("failed", 0, why))]
    assert replica.spans() == [Kept(1, 2, 5, 5)]
    assert replica.create("next", epoch=3, number=1, first=7) == [Commit((Kept(1, 3, 7, 7),), (), 3, 0)]
    assert replica.synced() == [Answer("next", 7)] and replica.spans() == [Kept(1, 3, 7, 7)] and replica.fence == 3


def test_a_span_of_a_newer_epoch_on_the_disk_is_not_made_anew_even_if_the_fence_was_lost() -> None:
    replica = Replica(fence=1, kept=[Kept(4, 9, 5, 8), Kept(2, 1, 0, 5)])
    assert replica.spans() == [Kept(2, 1, 0, 5), Kept(4, 9, 5, 8)]
    assert replica.create("old", epoch=1, number=4, first=5) == [Answer("old", Refused("fenced", 9))]


def test_a_closed_span_is_restored_without_an_epoch_and_goes_on_where_it_ended() -> None:
    replica = Replica(fence=7)
    parts = {"number": 3, "of": 2, "first": 10}
    assert replica.restore("a", **parts, entries=(b"0", b"1")) == [Commit((Kept(3, 2, 10, 10),), (), 0, 0)]
    assert replica.synced() == [Answer(None, 10), Commit((), (Write(3, 10, (b"0", b"1")),), 0, 0)]
    assert replica.synced() == [Answer("a", 12)] and replica.spans() == [Kept(3, 2, 10, 12)]
    assert replica.restore("b", number=3, of=2, first=12, entries=(b"2",)) == [Commit((), (Write(3, 12, (b"2",)),), 0, 0)]
    assert replica.synced() == [Answer("b", 13)]
    assert replica.restore("old", number=3, of=1, first=10, entries=(b"x",)) == [Answer("old", Refused("gone"))]
    assert replica.restore("newer", number=3, of=4, first=20, entries=(b"y",)) == [Commit((Kept(3, 4, 20, 20),), (), 0, 0)]


def test_what_a_span_made_by_a_commit_that_failed_had_is_gone_with_it() -> None:
    replica = Replica()
    replica.create("c", epoch=2, number=1, first=5)
    assert replica.failed("full") == [Answer("c", Refused("failed", 0, "full"))]
    assert replica.spans() == [] and append(replica, "a", 5, b"5") == [Answer("a", Refused("gone"))]


def test_one_span_that_fails_costs_another_nothing() -> None:
    replica = Replica(fence=2, kept=[Kept(1, 2, 0, 0), Kept(2, 2, 0, 0)])
    append(replica, "a", 0, b"0")
    assert replica.append("b", epoch=2, number=2, of=2, first=0, entries=(b"0",)) == []
    assert replica.failed("full") == [Answer("a", Refused("failed", 0, "full")), Commit((), (Write(2, 0, (b"0",)),), 0, 0)]
    assert replica.synced() == [Answer("b", 1)] and replica.spans() == [Kept(1, 2, 0, 0), Kept(2, 2, 0, 1)]


def test_an_older_seal_is_refused_and_a_seal_again_is_answered_at_once() -> None:
    replica = made()
    replica.seal("s", epoch=3, number=1, of=2)
    replica.synced()
    assert replica.seal("again", epoch=3, number=1, of=2) == [Answer("again", 5)]
    assert replica.seal("old", epoch=2, number=1, of=2) == [Answer("old", Refused("fenced", 3))]


def test_a_trim_is_written_down_once_and_never_goes_back() -> None:
    replica = made()
    assert replica.trim("a", 6) == [Commit((), (), 0, 6)]
    assert replica.synced() == [Answer("a", 6)]
    assert replica.trim("b", 5) == [Answer("b", 6)] and replica.first == 6
    assert replica.readable(number=1, of=2, offset=6, closed=9) == 5


def test_over_the_bound_of_what_waits_an_append_is_refused_and_nothing_of_it_is_taken() -> None:
    replica = made()
    append(replica, "writing", 5, b"5")
    for at in range(LOG_WAITING_MAX):
        assert append(replica, f"{at}", 6 + at, b"x") == []
    why = f"{LOG_WAITING_MAX} requests wait for the disk"
    assert append(replica, "more", 6 + LOG_WAITING_MAX, b"x") == [Answer("more", Refused("full", 0, why))]
    replica.synced()
    assert Answer("0", 6 + LOG_WAITING_MAX) in replica.synced()


def test_a_commit_takes_no_more_than_its_bound_and_the_rest_waits_for_the_next() -> None:
    replica, half = made(), bytes(LOG_COMMIT_BYTES // 2)
    append(replica, "writing", 5, b"5")
    for token, first, entry in (("a", 6, half), ("b", 7, half), ("c", 8, b"c"), ("d", 9, b"d")):
        assert append(replica, token, first, entry) == []
    assert replica.synced() == [Answer("writing", 6), Commit((), (Write(1, 6, (half, half)),), 0, 0)]
    assert replica.synced() == [Answer("a", 8), Answer("b", 8), Commit((), (Write(1, 8, (b"c", b"d")),), 0, 0)]


def test_a_seal_forgets_a_span_that_waits_to_be_made_and_keeps_the_one_that_is() -> None:
    replica = made()
    append(replica, "writing", 5, b"5")
    assert replica.create("next", epoch=2, number=2, first=6) == []
    assert replica.seal("s", epoch=3, number=1, of=2) == [Answer("next", Refused("fenced", 3))]
    assert [kept.number for kept in replica.spans()] == [1]


def test_of_a_span_of_the_same_number_of_another_writer_nothing_is_taken_and_nothing_confirmed() -> None:
    replica = made()
    assert replica.append("a", epoch=2, number=1, of=1, first=5, entries=(b"x",)) == [Answer("a", Refused("gone"))]
    append(replica, "b", 5, b"5")
    replica.synced()
    replica.confirm(number=9, of=2, confirmed=6)  # none that is here
    replica.confirm(number=1, of=1, confirmed=6)
    assert replica.readable(number=1, of=2, offset=5) == 5
    replica.confirm(number=1, of=2, confirmed=6)
    assert replica.readable(number=1, of=2, offset=5) == 6
