"""Supervision: starts, hangs, deaths and back-off."""

from unios.core.supervision import PAUSE_MS, STARTING_MS, Died, Kill, Order, Start, Started, Supervision, Tick, Wanted
from unios.limits import BEAT_MS, HEALTHY_MS, HUNG_MS, RESTART_DELAY_MS_FIRST, RESTART_DELAY_MS_MAX


def run(decider: Supervision, start: int, end: int, beats: dict[str, int]) -> list[Order]:
    """Tick regularly; return all orders."""
    return [order for now in range(start, end, BEAT_MS) for order in decider.on(Tick(now, beats))]


def started() -> Supervision:
    decider = Supervision(["kernel"])
    assert decider.on(Tick(10_000, {})) == [Start("kernel")]
    assert decider.on(Started("kernel", 5, 10_000)) == []
    return decider


def test_what_runs_is_not_started_again() -> None:
    assert run(started(), 10_010, 10_500, {"kernel": 10_400}) == []


def test_what_hangs_is_killed_once_and_what_has_never_beaten_has_more_time() -> None:
    decider = started()
    orders = run(decider, 10_010, 14_000, {"kernel": 10_100})
    assert len(orders) == 1 and isinstance(orders[0], Kill) and orders[0].pid == 5
    assert run(started(), 10_010, 10_000 + STARTING_MS - BEAT_MS, {"kernel": 0}) == []
    assert len(run(started(), 10_010, 10_000 + STARTING_MS + 3 * BEAT_MS, {})) == 1


def test_the_supervisors_own_pause_is_not_held_against_anybody() -> None:
    decider = started()
    run(decider, 10_010, 10_400, {"kernel": 10_300})
    assert decider.on(Tick(60_000, {"kernel": 10_300})) == []
    assert run(decider, 60_100, 60_000 + HUNG_MS, {"kernel": 10_300}) == []
    assert len(run(decider, 60_000 + HUNG_MS, 60_000 + 2 * HUNG_MS, {"kernel": 10_300})) == 1


def test_the_first_death_is_answered_at_once_and_a_row_of_them_ever_more_slowly() -> None:
    decider, now, waits = started(), 10_100, []
    assert decider.on(Died("kernel", 5, -1, 9, now)) == [Start("kernel")]
    for pid in range(6, 22):
        decider.on(Started("kernel", pid, now))
        died = now + 1
        assert decider.on(Died("kernel", pid, 70, 0, died)) == []
        now = died
        while not decider.on(Tick(now, {})):
            now += 10
        waits.append(now - died)
    assert waits == sorted(waits) and waits[-1] <= RESTART_DELAY_MS_MAX + 10 and waits[3] > waits[0]
    part = decider.status()[0].describe()
    assert part["restarts"] == 17 and part["state"] == "waiting" and "exit code 70" in str(part["reason"])


def live(decider: Supervision, pid: int, start: int, *, silent: int = 0, beating: int) -> int:
    """Let a part run: without a beat, then beating at each tick; return when that was."""
    assert decider.on(Started("kernel", pid, start)) == []
    for now in range(start, start + silent + beating + 1, BEAT_MS):
        assert decider.on(Tick(now, {"kernel": now if now >= start + silent else 0})) == []
    return start + silent + beating + 1


def test_a_part_that_was_healthy_in_between_dies_for_the_first_time_each_time() -> None:
    decider, now = started(), 10_000
    for pid in range(6, 20):
        now = live(decider, pid, now, beating=HEALTHY_MS)
        assert decider.on(Died("kernel", pid, -1, 9, now)) == [Start("kernel")]
    assert "in a row" not in str(decider.status()[0].describe()["reason"])


def test_a_part_that_starts_slowly_and_dies_soon_after_was_not_healthy() -> None:
    decider, now, rows = started(), 10_000, []
    for pid in range(6, 9):
        now = live(decider, pid, now, silent=HEALTHY_MS + BEAT_MS, beating=BEAT_MS)
        rows.append(decider.on(Died("kernel", pid, -1, 9, now)))
    assert rows == [[Start("kernel")], [], []]


def test_news_of_a_predecessor_is_ignored() -> None:
    decider = started()
    assert decider.on(Died("kernel", 4, -1, 9, 10_050)) == []
    assert decider.on(Wanted("store")) == []
    assert decider.on(Tick(10_100, {})) == [Start("store")]
    assert decider.on(Wanted("store", run=False)) == []
    assert decider.on(Died("store", 9, 0, 0, 10_200)) == []


def test_it_looks_when_the_next_part_would_be_silent_for_too_long() -> None:
    decider = Supervision(["kernel"])
    decider.on(Started("kernel", 7, 1_000))
    assert decider.wait_ms(1_100, {"kernel": 1_100}) == BEAT_MS
    assert decider.wait_ms(1_800, {"kernel": 1_100}) == 1_100 + HUNG_MS + 1 - 1_800
    assert decider.wait_ms(5_000, {"kernel": 1_100}) == BEAT_MS


def test_what_is_shown_of_a_part_before_it_runs_while_it_does_and_after_each_kind_of_death() -> None:
    decider = Supervision(["kernel"])
    assert decider.names == ["kernel"] and decider.knows("kernel") and not decider.knows("store")
    assert decider.status()[0].describe() == {"name": "kernel", "pid": 0, "restarts": 0, "state": "starting", "reason": ""}
    decider.on(Started("kernel", 5, 10_000))
    assert decider.status()[0].describe() == {"name": "kernel", "pid": 5, "restarts": 0, "state": "running", "reason": ""}
    decider.on(Died("kernel", 5, -1, 9, 10_100))
    assert decider.status()[0].describe() == {"name": "kernel", "pid": 0, "restarts": 1, "state": "starting", "reason": "it died of signal 9"}
    for pid, code, why in ((6, 0, "exit code 0"), (7, 1, "exit code 1"), (8, -1, "an unknown cause")):
        decider.on(Started("kernel", pid, 10_200))
        decider.on(Died("kernel", pid, code, 0, 10_300))
        assert str(decider.status()[0].describe()["reason"]).startswith(f"it died of {why};")


def test_a_part_is_wanted_once_more_without_being_begun_anew_and_is_forgotten_when_it_is_not_wanted() -> None:
    decider = started()
    decider.on(Wanted("kernel"))
    assert decider.status()[0].pid == 5
    decider.on(Wanted("kernel", run=False))
    decider.on(Wanted("kernel", run=False))
    assert decider.names == [] and run(decider, 10_010, 30_000, {}) == []


def test_a_part_that_was_told_to_start_and_never_came_is_started_again_after_a_while() -> None:
    decider = Supervision(["kernel"])
    assert decider.on(Tick(10_000, {})) == [Start("kernel")]
    assert run(decider, 10_010, 10_000 + STARTING_MS, {}) == []
    assert decider.on(Tick(10_000 + STARTING_MS, {})) == [Start("kernel")]
    decider.on(Started("kernel", 5, 20_000))
    assert decider.on(Died("kernel", 5, 0, 0, 20_100)) == [Start("kernel")]
    assert run(decider, 20_110, 20_100 + STARTING_MS, {}) == []
    assert decider.on(Tick(20_100 + STARTING_MS, {})) == [Start("kernel")]


def test_the_first_waits_between_deaths_are_as_the_limits_say() -> None:
    decider, waits = started(), []
    decider.on(Died("kernel", 5, 1, 0, 10_100))
    for pid, now in ((6, 20_000), (7, 30_000), (8, 40_000)):
        decider.on(Started("kernel", pid, now))
        assert decider.on(Died("kernel", pid, 1, 0, now)) == []
        waits.append(next(wait for wait in range(1_000) if decider.on(Tick(now + wait, {}))))
    assert waits == [RESTART_DELAY_MS_FIRST, 2 * RESTART_DELAY_MS_FIRST, 4 * RESTART_DELAY_MS_FIRST]


def test_the_kill_of_what_hangs_says_who_and_why_and_is_the_reason_of_its_death() -> None:
    decider = started()
    decider.on(Tick(10_100, {"kernel": 10_100}))
    for now in range(10_100, 10_100 + HUNG_MS + 1, BEAT_MS):
        assert decider.on(Tick(now, {"kernel": 10_100})) == []
    assert decider.on(Tick(10_100 + HUNG_MS, {"kernel": 10_100})) == []  # just so long is not too long
    why = f"it hung: no sign of life for {HUNG_MS + 1} ms"
    assert decider.on(Tick(10_101 + HUNG_MS, {"kernel": 10_100})) == [Kill("kernel", 5, why)]
    decider.on(Died("kernel", 5, -1, 9, 11_000))
    assert decider.status()[0].describe()["reason"] == why


def test_a_beat_of_the_very_moment_of_the_start_is_one_of_what_was_started() -> None:
    decider = started()
    orders = run(decider, 10_010, 10_000 + HUNG_MS + 2 * BEAT_MS, {"kernel": 10_000})
    assert [type(order) for order in orders] == [Kill]  # it has beaten, and has no more time than others


def test_a_pause_counts_from_just_over_its_bound_on() -> None:
    for pause_ms, killed in ((PAUSE_MS, 1), (PAUSE_MS + 1, 0)):
        decider = started()
        decider.on(Tick(10_001 + HUNG_MS - PAUSE_MS, {"kernel": 10_000}))
        assert len(decider.on(Tick(10_001 + HUNG_MS - PAUSE_MS + pause_ms, {"kernel": 10_000}))) == killed


def test_what_is_looked_at_next_is_never_what_was_killed_or_does_not_run_and_its_start_and_a_pause_count_as_a_beat() -> None:
    decider = Supervision(["kernel", "store"])
    decider.on(Started("kernel", 7, 1_000))
    assert decider.wait_ms(1_600, {}) == 1_000 + HUNG_MS + 1 - 1_600  # from its start on, though it never beat
    assert decider.wait_ms(1_000 + HUNG_MS, {}) == 1 and decider.wait_ms(1_001 + HUNG_MS, {}) == BEAT_MS
    decider.on(Tick(50_000, {"kernel": 1_000}))  # the supervisor had stood still: all have their time again
    assert decider.wait_ms(50_600, {"kernel": 1_000}) == HUNG_MS + 1 - 600
    for now in range(50_100, 50_100 + HUNG_MS + BEAT_MS, 100):
        decider.on(Tick(now, {"kernel": 1_001}))
    assert decider.status()[0].killed and decider.wait_ms(50_600, {"kernel": 1_001}) == BEAT_MS


def test_what_never_beat_has_just_its_time_to_start() -> None:
    decider = started()
    assert run(decider, 10_100, 10_000 + STARTING_MS, {}) == [] == decider.on(Tick(10_000 + STARTING_MS, {}))
    assert [type(order) for order in decider.on(Tick(10_001 + STARTING_MS, {}))] == [Kill]


def test_a_first_beat_that_is_seen_late_is_no_health() -> None:
    decider = started()
    decider.on(Died("kernel", 5, 1, 0, 10_100))
    decider.on(Started("kernel", 6, 20_000))
    assert decider.on(Tick(60_000, {"kernel": 20_100})) == []  # the supervisor had stood still
    assert decider.on(Died("kernel", 6, 1, 0, 60_100)) == [], "the second death in a row"
