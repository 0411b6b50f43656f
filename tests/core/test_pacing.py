from hypothesis import given
from hypothesis import strategies as st

from unios.core.pacing import Pace
from unios.limits import (
    CHUNK_BYTES,
    FRAME_BYTES_MAX,
    PACE_BYTES,
    PACE_BYTES_S,
    PACE_RACING_BYTES_S,
    PACE_ROUNDS,
    SEND_AHEAD_BYTES,
    SEND_AHEAD_RACING_BYTES,
    SEND_AHEAD_SWIFT_BYTES,
    WIDE_CHUNK_BYTES,
)


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
    now = send(pace, 20, CHUNK_BYTES, 2 * PACE_BYTES_S)
    assert (pace.chunk_bytes, pace.ahead_bytes) == (WIDE_CHUNK_BYTES, SEND_AHEAD_SWIFT_BYTES)
    send(pace, 10, WIDE_CHUNK_BYTES, PACE_BYTES_S / 4, now)
    assert (pace.chunk_bytes, pace.ahead_bytes) == (CHUNK_BYTES, SEND_AHEAD_BYTES)


def test_one_that_has_carried_very_much_for_a_while_has_linux_hold_more_until_it_does_not() -> None:
    pace = Pace()
    round_ = PACE_BYTES // CHUNK_BYTES
    now = send(pace, (PACE_ROUNDS - 1) * round_ + 1, CHUNK_BYTES, 2 * PACE_RACING_BYTES_S)
    assert pace.ahead_bytes == SEND_AHEAD_SWIFT_BYTES
    now = send(pace, round_, CHUNK_BYTES, 2 * PACE_RACING_BYTES_S, now)
    assert pace.ahead_bytes == SEND_AHEAD_RACING_BYTES
    send(pace, round_, CHUNK_BYTES, 2 * PACE_BYTES_S, now)
    assert pace.ahead_bytes == SEND_AHEAD_SWIFT_BYTES


@given(st.integers(0, PACE_BYTES), st.floats(1e6, PACE_BYTES_S / 2))
def test_what_linux_holds_for_a_link_that_has_become_slow_does_not_hide_it(held: int, bytes_s: float) -> None:
    pace = Pace()
    now = send(pace, 8 * PACE_ROUNDS, WIDE_CHUNK_BYTES, 2 * PACE_RACING_BYTES_S)
    assert pace.ahead_bytes == SEND_AHEAD_RACING_BYTES
    for _ in range(3):  # it takes so much at once, and then no more until half of that is gone
        taken = 0
        while taken < SEND_AHEAD_RACING_BYTES + held:
            pace.sent(WIDE_CHUNK_BYTES, now)
            taken += WIDE_CHUNK_BYTES
        now += taken / 2 / bytes_s
    assert pace.ahead_bytes < SEND_AHEAD_RACING_BYTES


def test_a_burst_that_a_buffer_takes_at_once_does_not_make_a_slow_link_swift() -> None:
    pace, now = Pace(), 100.0
    for _ in range(20):
        for _ in range((PACE_BYTES - 1) // CHUNK_BYTES):  # at once
            pace.sent(CHUNK_BYTES, now)
        now += 1.0  # and then nothing for long, until there is room
        assert not pace.swift


def test_a_change_is_told_once() -> None:
    pace = Pace()
    told = [pace.sent(PACE_BYTES // 2, 100.0 + n / 2e2) for n in range(8)]
    assert told == [False, False, True, False, False, False, False, False]


@given(st.lists(st.integers(PACE_BYTES // 2, FRAME_BYTES_MAX), min_size=3, max_size=30), st.floats(1e6, PACE_BYTES_S / 2))
def test_frames_larger_than_what_is_looked_at_do_not_make_a_slow_link_look_swift(sizes: list[int], bytes_s: float) -> None:
    pace, now = Pace(), 100.0
    for size in sizes:
        pace.sent(16 * 1024, now)  # with what goes in front of it in the same moment
        pace.sent(size, now)
        assert not pace.swift and pace.ahead_bytes == SEND_AHEAD_BYTES
        now += size / bytes_s


@given(st.lists(st.tuples(st.integers(1, WIDE_CHUNK_BYTES), st.floats(0, 0.02)), min_size=50, max_size=120))
def test_it_is_swift_only_if_the_last_bytes_really_went_that_fast(sent: list[tuple[int, float]]) -> None:
    pace, now, total, since = Pace(), 100.0, 0, 100.0
    for size, pause in sent:
        now += pause
        pace.sent(size, now)
        if total >= PACE_BYTES:
            assert pace.swift == (now - since <= PACE_BYTES / PACE_BYTES_S)
            total = 0
        if not total:
            since = now
        total += size
