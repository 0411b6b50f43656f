"""What a node's log of outputs gets, and what of it is kept: bounds, fairness, and nothing wanted that stays lost."""

import random

from hypothesis import given
from hypothesis import strategies as st

from unios.core.archive import ENTRY_COST, KEPT_AFTER_TRIM, Gathering, Piece, Ranges, Shelf, Stream, Want

OUT: Stream = (300, 1, "out")


class Log:
    """A log as the service keeps one for a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.entries: dict[int, Want] = {}
        self.end = 0

    def turn(self, bytes_max: int = 1 << 30) -> list[Want]:
        wants = self.shelf.plan(bytes_max)
        for want in wants:
            self.entries[self.end] = want
            self.shelf.added(self.end, want.stream, want.offset, want.size)
            self.end += 1
        upto = self.shelf.trim()
        self.entries = {at: want for at, want in self.entries.items() if at >= upto}
        return wants

    def has(self, stream: Stream) -> set[int]:
        return {byte for want in self.entries.values() if want.stream == stream for byte in range(want.offset, want.offset + want.size)}

    @property
    def cost(self) -> int:
        return sum(ENTRY_COST + want.size for want in self.entries.values())


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 40)), max_size=30), st.integers(0, 40), st.integers(0, 40))
def test_ranges_are_like_sets(steps: list[tuple[bool, int, int]], start: int, end: int) -> None:
    ranges, model = Ranges(), set[int]()
    for adds, a, b in steps:
        (ranges.add if adds else ranges.remove)(a, b)
        model = model | set(range(a, b)) if adds else model - set(range(a, b))
        assert {byte for a, b in ranges.all for byte in range(a, b)} == model
        assert all(a < b for a, b in ranges.all) and all(one[1] < other[0] for one, other in zip(ranges.all, ranges.all[1:], strict=False))
    assert {byte for a, b in ranges.missing(start, end) for byte in range(a, b)} == set(range(start, end)) - model


def test_what_is_new_is_wanted_once_in_pieces() -> None:
    shelf = Shelf(piece_bytes=100)
    shelf.saw(OUT, 0, 250)
    log = Log(shelf)
    assert log.turn() == [Want(OUT, 0, 100), Want(OUT, 100, 100), Want(OUT, 200, 50)]
    shelf.saw(OUT, 0, 250)
    assert log.turn() == []
    shelf.saw(OUT, 0, 260)
    assert log.turn() == [Want(OUT, 250, 10)]


def test_of_a_flood_the_last_bytes_are_wanted_and_who_says_little_goes_first() -> None:
    flood: Stream = (301, 1, "err")
    shelf = Shelf(kept_bytes=1 << 20, stream_bytes=1000, piece_bytes=400)
    shelf.saw(flood, 0, 1_000_000)
    shelf.saw(OUT, 0, 7)
    log = Log(shelf)
    assert log.turn(407) == [Want(OUT, 0, 7), Want(flood, 999_000, 400)]
    shelf.saw(flood, 500_000, 2_000_000)
    assert log.turn(400) == [Want(flood, 1_999_000, 400)]


def test_what_is_trimmed_and_still_wanted_is_written_anew() -> None:
    shelf = Shelf(kept_bytes=400_000, stream_bytes=10_000, piece_bytes=1_000)
    quiet: Stream = (302, 1, "out")
    shelf.saw(quiet, 0, 10)
    log = Log(shelf)
    log.turn()
    first = log.end
    for end in range(1_000, 200_000, 1_000):
        shelf.saw(OUT, max(0, end - 16_000), end)
        log.turn()
        assert log.cost <= 400_000
    log.turn()
    assert min(log.entries) > first and log.has(quiet) == set(range(10)) and log.has(OUT) >= set(range(189_000, 199_000))


def test_many_small_pieces_become_few_and_the_bound_holds() -> None:
    shelf = Shelf(kept_bytes=1_000_000, stream_bytes=400_000, piece_bytes=100_000)
    log = Log(shelf)
    for end in range(1, 1_000):
        shelf.saw(OUT, 0, end)
        log.turn()
    assert len(log.entries) <= 250 and log.has(OUT) == set(range(999))


def test_files_that_are_gone_are_wanted_no_more() -> None:
    shelf = Shelf()
    shelf.saw(OUT, 0, 10)
    shelf.gone(300, 1)
    assert shelf.plan(100) == []


def test_nothing_wanted_stays_out_whatever_is_said_and_the_log_never_churns() -> None:
    for seed in range(30):
        dice = random.Random(seed)
        shelf = Shelf(kept_bytes=300_000, stream_bytes=20_000, piece_bytes=3_000)
        log = Log(shelf)
        ends: dict[Stream, int] = {}
        for _ in range(150):
            for _ in range(dice.randrange(4)):
                stream: Stream = (dice.randrange(300, 310), 1, dice.choice(("out", "err")))
                ends[stream] = ends.get(stream, 0) + dice.choice((1, 80, 5_000))
                shelf.saw(stream, max(0, ends[stream] - 50_000), ends[stream])
            log.turn(dice.choice((0, 4_000, 1 << 30)))
            assert shelf.cost == log.cost <= 300_000
        for _ in range(20):
            log.turn()
        assert log.turn() == []  # all that is wanted is there, and stays
        for stream, end in ends.items():
            assert log.has(stream) >= set(range(max(0, end - shelf.share, end - 50_000), end)), (seed, stream)


def test_pieces_are_put_in_order_each_byte_once_and_gaps_are_told() -> None:
    text = b"abcdefghijklmnopqrstuvwxyz"
    gathering = Gathering(300, 1, 1_000)
    for start, end in ((10, 14), (2, 6), (4, 8), (10, 12), (10, 14)):
        gathering.add(Piece(300, 1, "out", start, text[start:end]))
    gathering.add(Piece(300, 2, "out", 0, b"another incarnation's"))
    gathering.add(Piece(301, 1, "out", 0, b"another's"))
    assert list(gathering.read("out", 0)) == [(2, b"cdef", 2), (6, b"gh", 0), (10, b"klmn", 2)]
    assert list(gathering.read("out", 11)) == [(11, b"lmn", 0)]
    assert list(gathering.read("out", -3)) == [(11, b"lmn", 0)]
    assert list(gathering.read("err", 0)) == [] and not gathering.is_empty


def test_of_what_is_gathered_the_last_bytes_are_kept() -> None:
    gathering = Gathering(300, 1, 10)
    for start in (0, 12, 4, 8):
        gathering.add(Piece(300, 1, "err", start, b"abcd"))
    assert [offset for offset, _data, _lost in gathering.read("err", 0)] == [8, 12]


def test_who_lacks_little_is_written_first_wherever_in_its_stream_that_is() -> None:
    shelf = Shelf(kept_bytes=1 << 20, piece_bytes=100)
    shelf.saw((1, 1, "out"), 0, 300)
    shelf.saw((2, 1, "err"), 5_000, 5_050)
    assert shelf.plan(151) == [Want((2, 1, "err"), 5_000, 50), Want((1, 1, "out"), 0, 100), Want((1, 1, "out"), 100, 1)]


def test_a_stream_of_which_nothing_is_there_and_one_whose_process_is_gone_want_nothing() -> None:
    shelf = Shelf()
    shelf.saw((1, 1, "out"), 7, 7)
    for name in ("out", "err"):
        shelf.saw((2, 1, name), 0, 10)
    alone = Shelf(kept_bytes=1 << 20)
    alone.saw((3, 1, "out"), 0, 10)
    share = alone.share
    alone.saw((2, 1, "err"), 0, 10)
    assert alone.share < share
    alone.gone(2, 1)
    assert alone.share == share, "who is gone has no part in the bound"
    shelf.gone(2, 1)
    assert shelf.plan(100) == []


def test_a_log_is_trimmed_from_just_over_its_bound_on_and_no_more_than_it_has_to_be() -> None:
    each = ENTRY_COST + 4
    shelf = Shelf(kept_bytes=4 * each)
    for at in range(4):
        shelf.added(at, OUT, 4 * at, 4)
    assert shelf.trim() == 0 and shelf.cost == 4 * each
    shelf.added(4, OUT, 16, 4)
    assert shelf.trim() == 2 and shelf.cost == int(KEPT_AFTER_TRIM * 4 * each)


def test_of_pieces_of_one_offset_the_longest_counts_once_against_the_bound() -> None:
    for name in ("out", "err"):
        gathering = Gathering(300, 1, 10)
        assert gathering.end(name) == 0 and list(gathering.read(name, -3)) == []
        for offset, data in ((0, b"ab"), (0, b"abcde"), (0, b"xy"), (5, b"fghij")):
            gathering.add(Piece(300, 1, name, offset, data))
        assert list(gathering.read(name, 0)) == [(0, b"abcde", 0), (5, b"fghij", 0)] and next(iter(gathering.read(name, -99)))[0] == 0
        gathering.add(Piece(300, 1, name, 10, b"k"))
        assert list(gathering.read(name, 0)) == [(5, b"fghij", 5), (10, b"k", 0)]
        gathering.add(Piece(300, 1, name, 11, b"0123456789ab"))
        assert list(gathering.read(name, 11)) == [(11, b"0123456789ab", 0)] == [(at, data, 0) for at, data, _lost in gathering.read(name, 0)]
