"""Seats of those that judge leases: few judge, some always do, and no pause of one's own takes a seat from another."""

import random

import pytest

from unios.core.seats import PATIENCE_MS_MAX, SEAT_RENEW_MS, SEAT_TTL_MS, SEATS, Claim, Seats


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
