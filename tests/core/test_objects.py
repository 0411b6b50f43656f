"""The ledger of a holder: nothing that is referred to is dropped, nothing is kept that nobody refers to, and pressure goes to the disk."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from unios.core.objects import Acquire, Drop, Ledger, Order, Release
from unios.errors import Unavailable
from unios.object_limits import OBJECT_AWAY_FAR_MS, OBJECT_AWAY_MS, OBJECT_LOAN_MS, OBJECT_LOAN_STEP_MS, OBJECT_LOANS_MAX, OBJECT_RECEIVED_MS

MEMORY, DISK = 100_000, 60_000


def ledger(*, memory: int = MEMORY, disk: int = DISK, objects: int = 1_000, files: int = 1_000) -> Ledger:
    made = Ledger(memory_bytes_max=memory, disk_bytes_max=disk, objects_max=objects, files_max=files)
    made.joined("p")
    return made


def put(book: Ledger, id_: str, size: int = 10_000, *, party: str = "p", now: int = 0, inside: tuple[str, ...] = ()) -> list[Order]:
    """Put an object, and spill for it as a holder does."""
    while victims := book.reserve(size):
        for victim in victims:
            assert book.spilled(victim)
    return book.kept(id_, party, size, now, inside=inside)


def test_an_object_is_dropped_with_the_last_party_that_refers_to_it() -> None:
    book = ledger()
    book.joined("q")
    put(book, "a")
    book.held("a", "q", 0)
    assert book.dropped("a", "p", 0) == []
    assert book.dropped("a", "q", 0) == [Drop("a")]
    assert book.statistics().memory_bytes == 0


def test_a_reference_under_way_keeps_its_object_until_a_moment_after_it_has_come() -> None:
    book = ledger()
    put(book, "a")
    book.lent("a", "t", 0)
    assert book.dropped("a", "p", 0) == []
    assert book.expired(OBJECT_LOAN_MS - 1) == []
    book.joined("q")
    book.held("a", "q", OBJECT_LOAN_MS - 1, token="t")
    assert book.dropped("a", "q", 0) == []
    assert book.expired(OBJECT_LOAN_MS + OBJECT_RECEIVED_MS) == [Drop("a")]


def test_a_loan_ends_a_moment_after_its_reference_has_come_and_not_at_its_time() -> None:
    book = ledger()
    book.joined("q")
    put(book, "a")
    book.lent("a", "t", 0)
    book.held("a", "q", 0, token="t")
    book.ended("p", 0)
    book.ended("q", 0)
    assert book.expired(OBJECT_RECEIVED_MS - 1) == []
    assert book.expired(OBJECT_RECEIVED_MS) == [Drop("a")]


def test_a_reference_that_never_comes_keeps_its_object_for_the_time_of_a_loan() -> None:
    book = ledger()
    put(book, "a")
    book.lent("a", "t", 0)
    book.dropped("a", "p", 0)
    assert book.due() == OBJECT_LOAN_MS
    assert book.expired(OBJECT_LOAN_MS) == [Drop("a")]
    assert book.due() is None


def test_a_loan_whose_receiver_was_heard_first_is_short() -> None:
    book = ledger()
    book.joined("q")
    put(book, "a")
    book.held("a", "q", 0, token="t")
    book.lent("a", "t", 1)
    book.dropped("a", "p", 0)
    book.dropped("a", "q", 0)
    assert book.expired(OBJECT_RECEIVED_MS) == []
    assert book.expired(OBJECT_RECEIVED_MS + OBJECT_LOAN_STEP_MS) == [Drop("a")]


def test_more_loans_than_the_bound_are_one_that_lasts() -> None:
    book = ledger()
    book.joined("q")
    put(book, "a")
    for number in range(OBJECT_LOANS_MAX + 100):
        book.lent("a", f"t{number}", 0)
    assert book.statistics().loans == OBJECT_LOANS_MAX + 1
    for number in range(OBJECT_LOANS_MAX + 100):
        book.held("a", "q", 1, token=f"t{number}")
    book.ended("p", 0)
    book.ended("q", 0)
    assert book.expired(OBJECT_LOAN_MS - 1) == []
    assert book.expired(OBJECT_LOAN_MS) == [Drop("a")]


@pytest.mark.parametrize(("far", "away"), [(False, OBJECT_AWAY_MS), (True, OBJECT_AWAY_FAR_MS)])
def test_a_party_whose_connection_ends_has_a_moment_to_come_back(far: bool, away: int) -> None:
    book = ledger()
    book.joined("q", far=far)
    put(book, "a")
    book.held("a", "q", 0)
    book.dropped("a", "p", 0)
    assert book.left("q", 0) == []
    assert book.expired(away - 1) == []
    assert book.expired(away) == [Drop("a")]


def test_a_party_that_came_back_keeps_what_it_says_again() -> None:
    book = ledger()
    put(book, "a")
    book.left("p", 0)
    book.joined("p2")
    book.held("a", "p2", 1)
    assert book.expired(10 * OBJECT_AWAY_FAR_MS) == []


def test_what_a_party_says_after_its_connection_has_ended_counts_for_a_moment() -> None:
    book = ledger()
    put(book, "a", party="gone")
    assert book.expired(OBJECT_AWAY_MS - 1) == []
    assert book.expired(OBJECT_AWAY_MS) == [Drop("a")]


def test_an_object_of_another_node_is_acquired_once_and_released_once() -> None:
    book = ledger()
    book.joined("q")
    assert book.held("a", "p", 0, origin="n2", size=5) == [Acquire("a", "n2")]
    assert book.held("a", "q", 0, origin="n2", size=5) == []
    assert book.dropped("a", "p", 0) == []
    assert book.dropped("a", "q", 0) == [Release("a", "n2")]


def test_that_a_reference_has_come_is_told_to_the_node_that_lent_it() -> None:
    book = ledger()
    assert book.held("a", "p", 0, origin="n2", token="t1") == [Acquire("a", "n2", "t1")]
    assert book.held("a", "p", 0, origin="n2", token="t2") == [Acquire("a", "n2", "t2")]


def test_what_was_brought_from_another_node_is_dropped_and_released() -> None:
    book = ledger()
    book.held("a", "p", 0, origin="n2", size=5_000)
    assert book.reserve(5_000) == []
    assert book.came("a", 5_000)
    assert book.dropped("a", "p", 0) == [Drop("a"), Release("a", "n2")]


def test_what_comes_when_nobody_wants_it_any_more_is_not_kept() -> None:
    book = ledger()
    book.held("a", "p", 0, origin="n2", size=5_000)
    assert book.reserve(5_000) == []
    book.dropped("a", "p", 0)
    assert not book.came("a", 5_000)
    assert book.reserve(MEMORY) == []


def test_what_comes_after_it_was_made_again_here_is_not_counted_twice() -> None:
    book = ledger()
    book.held("a", "p", 0, origin="n2", size=5_000)
    assert book.reserve(5_000) == []
    put(book, "a", 5_000)
    assert not book.came("a", 5_000)
    assert book.statistics().memory_bytes == 5_000


def test_what_was_made_again_here_is_no_longer_another_nodes() -> None:
    book = ledger()
    book.held("a", "p", 0, origin="n2", size=5_000)
    assert put(book, "a", 5_000) == [Release("a", "n2")]
    assert book.look("a") == ("memory", "", 5_000)
    assert book.dropped("a", "p", 0) == [Drop("a")]


def test_what_data_refer_to_lives_as_long_as_they_do_however_long_the_chain() -> None:
    book = ledger(memory=10**9, objects=10_000, files=10_000)
    put(book, "0", 10)
    for number in range(1, 5_000):
        put(book, str(number), 10, inside=(str(number - 1),))
        assert book.dropped(str(number - 1), "p", 0) == []
    assert len(book.dropped("4999", "p", 0)) == 5_000
    assert book.statistics().objects == 0


def test_what_dropped_data_refer_to_on_another_node_is_released_a_moment_later() -> None:
    book = ledger()
    assert book.held("inner", "p", 0, origin="n3", size=5) == [Acquire("inner", "n3")]
    put(book, "outer", 10, inside=("inner",))
    assert book.dropped("inner", "p", 0) == []
    assert book.dropped("outer", "p", 0) == [Drop("outer")]
    assert book.expired(OBJECT_RECEIVED_MS - 1) == []
    assert book.expired(OBJECT_RECEIVED_MS) == [Release("inner", "n3")]


def test_pressure_spills_what_was_longest_not_used() -> None:
    book = ledger()
    for id_ in "abc":
        put(book, id_, 30_000)
    book.look("a")
    assert book.reserve(30_000) == ["b"]


def test_what_is_only_lent_is_spilled_first() -> None:
    book = ledger()
    for id_ in "abc":
        put(book, id_, 30_000)
    book.lent("c", "t", 0)
    book.dropped("c", "p", 0)
    assert book.reserve(30_000) == ["c"]


def test_what_is_being_read_is_not_spilled_and_the_refusal_says_so() -> None:
    book = ledger()
    for id_ in "abc":
        put(book, id_, 30_000)
        assert book.reading(id_, "p")
    with pytest.raises(Unavailable, match="what is being read cannot be spilled"):
        book.reserve(30_000)
    book.read("b", "p")
    assert book.reserve(30_000) == ["b"]


def test_what_begins_to_be_read_while_it_is_written_to_the_disk_stays_in_memory() -> None:
    book = ledger()
    put(book, "a", 50_000)
    assert book.reserve(90_000) == ["a"]
    book.reading("a", "p")
    assert not book.spilled("a")
    assert book.look("a") == ("memory", "", 50_000)


def test_what_was_damaged_on_the_disk_is_forgotten_and_may_come_again() -> None:
    book = ledger(memory=15_000)
    book.held("f", "p", 0, origin="n2", size=10_000)
    assert book.reserve(10_000) == [] and book.came("f", 10_000)
    put(book, "a")
    assert book.look("f") == ("disk", "n2", 10_000)
    book.damaged("a")
    assert book.look("a") == ("memory", "", 10_000), "it is not on the disk"
    for _ in range(2):
        book.damaged("f")
        assert book.look("f") == ("away", "n2", 10_000) and book.statistics().disk_bytes == 0
    while victims := book.reserve(10_000):
        assert [book.spilled(victim) for victim in victims] == [True]
    assert book.came("f", 10_000)
    assert book.dropped("f", "p", 0) == [Drop("f"), Release("f", "n2")]
    assert book.dropped("a", "p", 0) == [Drop("a")]
    assert book.statistics().memory_bytes == book.statistics().disk_bytes == 0
    assert book.reserve(10_000, files=1_000) == [], "nor is a file counted"


def test_readers_that_are_gone_hold_nothing_up() -> None:
    book = ledger()
    book.joined("q")
    put(book, "a", 50_000)
    book.reading("a", "q")
    book.left("q", 0)
    assert book.reserve(90_000) == ["a"]


@pytest.mark.parametrize(
    ("bounds", "size", "said"),
    [
        ({}, MEMORY + 1, "larger than the memory for objects"),
        ({"disk": 0}, 60_000, "0 of 0 bytes on disk"),
        ({"objects": 1}, 1, "1 objects are kept here, which is the limit"),
        ({"files": 1}, 1, "as many as this process may have files open"),
    ],
)
def test_each_bound_is_refused_with_a_sentence_of_its_own(bounds: dict[str, int], size: int, said: str) -> None:
    book = ledger(**bounds)
    put(book, "a", 50_000)
    with pytest.raises(Unavailable, match=said):
        book.reserve(size)


def test_two_holders_at_rest_do_not_keep_each_other() -> None:
    book = ledger()
    book.joined("other node", far=True)
    assert not book.is_idle
    book.ended("p", 0)
    assert book.is_idle


class Life(RuleBasedStateMachine):
    """References come and go in any order; a model counts them in the simplest way."""

    ids = Bundle("ids")
    parties = Bundle("parties")

    def __init__(self) -> None:
        super().__init__()
        self.book = Ledger(memory_bytes_max=MEMORY, disk_bytes_max=DISK, objects_max=50, files_max=50)
        self.held: Counter[tuple[str, str]] = Counter()
        self.loans: dict[str, dict[str, int]] = {}
        self.data: set[str] = set()
        self.acquired: set[str] = set()
        self.alive: set[str] = set()
        self.far: set[str] = set()
        self.now = self.made = 0

    def carry_out(self, orders: list[Order]) -> None:
        for order in orders:
            if isinstance(order, Drop):
                assert order.id in self.data and not self.wanted(order.id), order
                self.data.remove(order.id)
            elif isinstance(order, Acquire):
                assert order.id not in self.acquired
                self.acquired.add(order.id)
            elif isinstance(order, Release):
                self.acquired.remove(order.id)

    def wanted(self, id_: str) -> bool:
        return any(one == id_ for one, _party in self.held) or any(until > self.now for until in self.loans.get(id_, {}).values())

    @rule(target=parties, far=st.booleans())
    def join(self, far: bool) -> str:
        self.made += 1
        party = f"p{self.made}"
        self.book.joined(party, far=far)
        self.alive.add(party)
        if far:
            self.far.add(party)
        return party

    @rule(target=ids, party=parties, size=st.integers(1, 40_000))
    def put(self, party: str, size: int) -> str:
        self.made += 1
        id_ = f"o{self.made}"
        if party not in self.alive:
            return id_
        try:
            while victims := self.book.reserve(size):
                for victim in victims:
                    assert victim in self.data
                    self.book.spilled(victim)
        except Unavailable:
            return id_
        self.held[id_, party] = 1
        self.data.add(id_)
        self.carry_out(self.book.kept(id_, party, size, self.now))
        return id_

    @rule(id_=ids, party=parties, foreign=st.booleans())
    def hold(self, id_: str, party: str, foreign: bool) -> None:
        if party in self.alive:
            known = self.book.look(id_) is not None
            foreign = foreign and id_ not in self.data
            orders = self.book.held(id_, party, self.now, origin="n2" if foreign else "", size=100)
            if known or Acquire(id_, "n2") in orders:
                self.held[id_, party] = 1
            self.carry_out(orders)

    @rule(id_=ids, party=parties)
    def drop(self, id_: str, party: str) -> None:
        self.held.pop((id_, party), None)
        self.carry_out(self.book.dropped(id_, party, self.now))

    @rule(id_=ids)
    def lend(self, id_: str) -> None:
        self.made += 1
        if self.book.look(id_) is not None:
            self.loans.setdefault(id_, {})[f"t{self.made}"] = self.now + OBJECT_LOAN_MS
        self.carry_out(self.book.lent(id_, f"t{self.made}", self.now))

    @rule(party=consumes(parties), well=st.booleans())
    def leave(self, party: str, well: bool) -> None:
        for id_, other in list(self.held):
            if other == party:
                del self.held[id_, other]
                if not well:
                    self.loans.setdefault(id_, {})[f"left {party}"] = self.now + (OBJECT_AWAY_FAR_MS if party in self.far else OBJECT_AWAY_MS)
        self.alive.discard(party)
        self.carry_out(self.book.ended(party, self.now) if well else self.book.left(party, self.now))

    @rule(id_=ids, party=parties)
    def read(self, id_: str, party: str) -> None:
        if self.book.reading(id_, party):
            self.book.read(id_, party)

    @rule(passed=st.integers(1, OBJECT_LOAN_MS))
    def time_passes(self, passed: int) -> None:
        self.now += passed
        self.carry_out(self.book.expired(self.now))

    @invariant()
    def what_is_referred_to_is_known(self) -> None:
        for id_, _party in self.held:
            assert self.book.look(id_) is not None, id_

    @invariant()
    def bounds_hold(self) -> None:
        found = self.book.statistics()
        assert 0 <= found.memory_bytes <= MEMORY and 0 <= found.disk_bytes <= DISK

    @invariant()
    def no_loan_ends_unnoticed(self) -> None:
        for id_, tokens in self.loans.items():
            untils = [until for until in tokens.values() if until > self.now]
            if untils and self.book.look(id_) is not None:
                due = self.book.due()
                assert due is not None and due < min(untils) + OBJECT_LOAN_STEP_MS

    def teardown(self) -> None:
        for party in list(self.alive):
            self.leave(party, True)
        self.now += OBJECT_AWAY_FAR_MS + OBJECT_LOAN_MS + OBJECT_LOAN_STEP_MS
        self.carry_out(self.book.expired(self.now))
        assert self.book.is_idle and self.book.due() is None
        assert not self.data and not self.acquired
        found = self.book.statistics()
        assert (found.objects, found.memory_bytes, found.disk_bytes, found.read, found.loans) == (0, 0, 0, 0, 0)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
