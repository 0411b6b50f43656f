from hypothesis import given
from hypothesis import strategies as st

from unios.core.pacing import Pace
from unios.limits import CHUNK_BYTES, PACE_BYTES, PACE_BYTES_S, SEND_AHEAD_BYTES, SEND_AHEAD_SWIFT_BYTES, WIDE_CHUNK_BYTES


def send(pace: Pace, count: int, size: int, bytes_s: float, now: float = 100.0) -> float:
    """Send so many frames at that rate; return when the last one went out."""
    for _ in range(count):
        now += size / bytes_s
        pace.sent(size, now)
    return now


def test_a_link_of_which_nothing_is_known_gets_small_pieces() -> None:
    pace = Pace()
    assert (pace.chunk_bytes, pace.ahead_bytes) == (CHUNK_BYTES, SEND_AHEAD_BYTES)


def test_one_that_carries_much_gets_large_pieces_and_small_ones_again_when_it_is_slow() -> None:
    pace = Pace()
    now = send(pace, 20, CHUNK_BYTES, 4 * PACE_BYTES_S)
    assert (pace.chunk_bytes, pace.ahead_bytes) == (WIDE_CHUNK_BYTES, SEND_AHEAD_SWIFT_BYTES)
    send(pace, 10, WIDE_CHUNK_BYTES, PACE_BYTES_S / 4, now)
    assert (pace.chunk_bytes, pace.ahead_bytes) == (CHUNK_BYTES, SEND_AHEAD_BYTES)


def test_a_burst_that_a_buffer_takes_at_once_does_not_make_a_slow_link_swift() -> None:
    pace, now = Pace(), 100.0
    for _ in range(20):
        for _ in range((PACE_BYTES - 1) // CHUNK_BYTES):  # at once
            pace.sent(CHUNK_BYTES, now)
        now += 1.0  # and then nothing for long, until there is room
        assert not pace.swift


def test_a_change_is_told_once() -> None:
    pace = Pace()
    told = [pace.sent(PACE_BYTES // 2, 100.0 + n / 1e4) for n in range(8)]
    assert told == [False, True, False, False, False, False, False, False]


@given(st.lists(st.tuples(st.integers(1, WIDE_CHUNK_BYTES), st.floats(0, 0.02)), min_size=50, max_size=120))
def test_it_is_swift_only_if_the_last_bytes_really_went_that_fast(sent: list[tuple[int, float]]) -> None:
    pace, now, total, since = Pace(), 100.0, 0, 100.0
    for size, pause in sent:
        now += pause
        if not total:
            since = now
        total += size
        pace.sent(size, now)
        if total >= PACE_BYTES:
            assert pace.swift == (now - since <= PACE_BYTES / PACE_BYTES_S)
            total = 0
