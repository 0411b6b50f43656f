"""Seats of those that judge leases: few judge, some always do, and no pause of one's own takes a seat from another."""

import random

import pytest

from unios.core.seats import PATIENCE_MS_MAX, PAUSE_MS, SEAT_RENEW_MS, SEAT_TTL_MS, SEATS, WAIT_MS_MIN, Claim, Seats


class System:
    """Gateways that hear all that is written, in virtual time; etcd's compare-and-set."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self.now_ms = 0
        self.revision = 0
        self.records: dict[int, tuple[str, int]] = {}
        self.gateways = {f"g{number}": Seats(f"g{number}", rng.randrange(PATIENCE_MS_MAX)) for number in range(count)}
        self.writes = 0
        for gateway in self.gateways.values():
            gateway.begin({}, 0)

    def run(self, ms: int) -> None:
        for _step in range(ms // 50):
            self.now_ms += 50
            claims = [(name, claim) for name, seats in self.gateways.items() if (claim := seats.look(self.now_ms)) is not None]
            for name, claim in claims:
                if self.records.get(claim.seat, ("", 0))[1] == claim.modified:
                    self.revision += 1
                    self.writes += 1
                    self.records[claim.seat] = (name, self.revision)
                    for seats in self.gateways.values():
                        seats.heard(claim.seat, name, self.revision, self.now_ms)

    def judges(self) -> set[str]:
        return {name for name, seats in self.gateways.items() if seats.judges}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_where_there_are_no_more_gateways_than_seats_all_of_them_judge(count: int) -> None:
    system = System(count, random.Random(count))
    system.run(10_000)
    assert len(system.judges()) == count


def test_of_many_gateways_as_many_judge_as_there_are_seats_and_what_they_write_does_not_grow_with_their_number() -> None:
    written = []
    for count in (10, 100):
        system = System(count, random.Random(count))
        system.run(10_000)
        assert len(system.judges()) == SEATS
        written.append(system.writes)
    assert written[0] == written[1] <= SEATS * (10_000 // SEAT_RENEW_MS + 1)


@pytest.mark.parametrize("dead", [1, 2, SEATS])
def test_seats_of_those_that_are_gone_are_taken_by_others(dead: int) -> None:
    system = System(20, random.Random(dead))
    system.run(2_000)
    before = system.judges()
    for name in sorted(before)[:dead]:
        del system.gateways[name]
    assert len(system.judges()) == SEATS - dead, "the others go on at once"
    system.run(SEAT_TTL_MS + PATIENCE_MS_MAX + 200)
    assert len(system.judges()) == SEATS and before - system.judges() == set(sorted(before)[:dead])


def test_time_in_which_one_did_not_run_takes_no_seat() -> None:
    seats = Seats("late", 0)
    seats.begin({number: (f"g{number}", 1 + number) for number in range(SEATS)}, 0)
    assert seats.look(100_000) is None and not seats.judges
    assert seats.look(100_000 + 1_000) is None
    assert seats.look(100_000 + 2_000) == Claim(0, 1), "from then on nothing was written for too long"


def test_time_in_which_nothing_can_be_heard_takes_no_seat() -> None:
    seats = Seats("far", 0)
    seats.begin({number: (f"g{number}", 1 + number) for number in range(SEATS)}, 0)
    for now_ms in range(0, 20_000, 500):
        assert seats.look(now_ms, hears=False) is None
    assert seats.look(20_000) is None


def test_who_hears_that_his_seat_is_anothers_judges_no_more() -> None:
    seats = Seats("mine", 0)
    seats.begin({0: ("mine", 1), 1: ("b", 2), 2: ("c", 3)}, 0)
    assert seats.judges
    seats.heard(0, "other", 4, 10)
    assert not seats.judges
    seats.heard(0, "mine", 1, 20)
    assert not seats.judges, "what was before that is not news"


def others(patience_ms: int, now_ms: int = 0) -> Seats:
    """Return a gateway that has no seat, when all of them are taken by others."""
    seats = Seats("late", patience_ms)
    seats.begin({number: (f"g{number}", 1 + number) for number in range(SEATS)}, now_ms)
    return seats


def test_a_seat_whose_record_is_gone_is_free_again_and_the_same_may_be_told_twice() -> None:
    seats = others(0)
    seats.heard(1, "", 0, 10)
    seats.heard(1, "", 0, 10)
    assert seats.judges and seats.look(20) == Claim(1, 0)


def test_what_is_written_beyond_the_seats_is_none_of_them_and_a_record_told_again_is_no_sign_of_life() -> None:
    seats = others(0)
    seats.heard(SEATS, "late", 9, 10)
    assert not seats.judges
    for now_ms in range(0, SEAT_TTL_MS + 1, 100):
        seats.heard(0, "g0", 1, now_ms)
        assert seats.look(now_ms) is None
    assert seats.look(SEAT_TTL_MS + 1) == Claim(0, 1)


def test_before_anything_is_known_a_gateway_judges_and_its_time_counts_from_the_clocks_beginning_on() -> None:
    seats = Seats("g1", 0)
    seats.heard(0, "g1", 5, 0)
    assert seats.judges and seats.look(PAUSE_MS) == Claim(0, 5)


def test_a_seat_of_ones_own_is_written_when_it_is_due_and_not_before() -> None:
    seats = Seats("mine", 0)
    seats.begin({0: ("mine", 1)}, 100)
    assert seats.look(99 + SEAT_RENEW_MS) is None
    assert seats.wait_ms(99 + SEAT_RENEW_MS - WAIT_MS_MIN) == WAIT_MS_MIN + 1 and seats.wait_ms(200) == SEAT_RENEW_MS - 100
    assert seats.look(100 + SEAT_RENEW_MS) == Claim(0, 1)
    assert seats.wait_ms(5_000) == WAIT_MS_MIN


def test_a_seat_of_another_is_taken_when_it_was_silent_for_just_over_its_time_and_ones_patience_and_looked_at_then() -> None:
    seats = others(300)
    due_ms = SEAT_TTL_MS + 300
    for now_ms in range(0, due_ms + 1, 100):
        assert seats.look(now_ms) is None
    assert seats.wait_ms(due_ms - 500) == 501 and seats.wait_ms(0) == SEAT_RENEW_MS and seats.wait_ms(due_ms + 9) == WAIT_MS_MIN
    assert seats.look(due_ms + 1) == Claim(0, 1)
    assert Seats("first", 0).wait_ms(500) == SEAT_RENEW_MS, "when there is no seat yet"


def test_a_pause_that_takes_no_seat_counts_from_just_over_its_bound_on() -> None:
    for pause_ms, claim in ((PAUSE_MS, Claim(0, 1)), (PAUSE_MS + 1, None)):
        seats = others(0)
        seats.look(SEAT_TTL_MS + 1 - PAUSE_MS)
        assert seats.look(SEAT_TTL_MS + 1 - PAUSE_MS + pause_ms) == claim
