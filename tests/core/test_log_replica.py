"""A replica decides: what waits shares a commit, who is fenced is refused, nothing is answered too early."""

from unios.core.log_replica import Answer, Commit, Kept, Refused, Replica, Write


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
