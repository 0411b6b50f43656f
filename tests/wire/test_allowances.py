"""Allowances: what all connections of one stranger hold together is bounded, and whatever becomes of it is given back once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unios.errors import ProtocolError
from unios.limits import FRAME_BYTES_MAX
from unios.wire.allowances import Allowance
from unios.wire.conversations import Again, Answering, Begun, cost_of
from unios.wire.frames import FrameReader, frame
from unios.wire.gathering import Gathering
from unios.wire.messages import Fault, Part, Reply, Request
from unios.wire.values import encode

VALUE = encode(b"x" * 1_000, trusted=False)
COST = cost_of(VALUE)


def request(id_: int, *, oneway: bool = False, stream: bool = False) -> Request:
    return Request(id_, "op", VALUE.body, oneway=oneway, stream=stream)


def test_a_request_for_which_there_is_no_allowance_is_not_begun_and_may_be_asked_again() -> None:
    allowance = Allowance(2 * COST)
    one, other = (Answering("u", allowance=allowance) for _ in range(2))
    first, second = one.begin(request(1), VALUE), other.begin(request(1), VALUE)
    assert isinstance(first, Begun) and isinstance(second, Begun)
    refused = one.begin(request(2), VALUE)
    assert isinstance(refused, Again) and isinstance(refused.message, Fault) and "it was not begun" in refused.message.text
    assert one.begin(request(3, oneway=True), VALUE) is None
    one.end(first, Reply(1, VALUE.body), VALUE)
    assert isinstance(one.begin(request(2), VALUE), Begun)
    assert allowance.taken == 2 * COST


def test_what_is_cancelled_is_held_until_its_handler_has_ended() -> None:
    allowance = Allowance(COST)
    answering = Answering("u", allowance=allowance)
    begun = answering.begin(request(1), VALUE)
    assert isinstance(begun, Begun)
    answering.cancel(1)
    answering.leave()
    assert allowance.taken == COST
    answering.end(begun, Reply(1, VALUE.body), None)
    begun.release()
    assert allowance.taken == 0


def test_who_listens_himself_needs_none() -> None:
    answering = Answering("u")
    begun = answering.begin(request(1), VALUE)
    assert isinstance(begun, Begun)
    begun.release()


@given(
    st.lists(st.tuples(st.sampled_from("bbbecal"), st.integers(1, 8), st.integers(0, 3_000)), max_size=60),
    st.integers(0, 20_000),
)
def test_what_is_under_way_is_never_more_than_the_allowance_and_all_comes_back(steps: list[tuple[str, int, int]], bytes_max: int) -> None:
    allowance = Allowance(bytes_max)
    answering = Answering("u", allowance=allowance)
    begun: list[tuple[Begun, int]] = []
    for what, id_, size in steps:
        value = encode(b"x" * size, trusted=False)
        if what == "b":
            found = answering.begin(Request(id_, "op", value.body), value)
            if isinstance(found, Begun):
                begun.append((found, cost_of(value)))
        elif what == "e" and begun:
            one, _cost = begun.pop(id_ % len(begun))
            answering.end(one, Reply(one.id, value.body), value)
        elif what == "c":
            answering.cancel(id_)
        elif what == "a":
            answering.acked(id_)
        else:
            answering.leave()
        assert allowance.taken == sum(cost for _begun, cost in begun) <= bytes_max
    for one, _cost in begun:
        one.release()
    assert allowance.taken == 0


def part(id_: int, total: int) -> Part:
    return Part(id_, total, memoryview(b""))


def test_what_is_gathered_on_several_connections_is_bounded_together() -> None:
    allowance = Allowance(100)
    one, other = (Gathering(80, allowance=allowance) for _ in range(2))
    one.place(part(1, 60), 10)
    with pytest.raises(ProtocolError, match="on other connections"):
        other.place(part(1, 50), 10)
    other.place(part(1, 40), 40)
    assert allowance.taken == 100
    other.take(1, 40)
    assert allowance.taken == 60
    with pytest.raises(ProtocolError, match="10 bytes of 60"):
        one.take(1, 60)
    assert allowance.taken == 0
    one.place(part(2, 70), 10)
    one.drop(2)
    one.place(part(3, 70), 10)
    one.clear()
    one.clear()
    assert allowance.taken == 0


def test_a_place_that_there_is_no_memory_for_is_given_back_with_the_connection() -> None:
    def none(_size: int) -> memoryview:
        raise MemoryError

    allowance = Allowance(100)
    gathering = Gathering(80, none, allowance)
    with pytest.raises(ProtocolError, match="no memory"):
        gathering.place(part(1, 60), 10)
    gathering.clear()
    assert allowance.taken == 0


@given(st.lists(st.integers(0, 100_000), max_size=6), st.integers(1_000, 50_000), st.integers(0, 300_000))
def test_frames_that_are_begun_are_bounded_too_and_whole_ones_take_nothing(sizes: list[int], step: int, cut: int) -> None:
    allowance = Allowance(100_000)
    reader = FrameReader(allowance=allowance)
    data = b"".join(frame(bytes(size)) for size in sizes)[:cut]
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
        assert allowance.taken in (0, reader._length() if len(reader._head) == 4 else 0)
    reader.clear()
    assert allowance.taken == 0
    with pytest.raises(ProtocolError, match="on other connections"):
        reader.feed(frame(bytes(100_001))[:10])


def test_who_announces_a_large_frame_takes_memory_as_its_bytes_come_and_not_before() -> None:
    reader = FrameReader()
    reader.feed(frame(bytes(FRAME_BYTES_MAX))[:8])
    assert reader._begun is not None and len(reader._begun) <= FRAME_BYTES_MAX // 8


def test_a_message_for_which_more_was_announced_than_it_has_is_refused_though_all_it_has_came() -> None:
    gathering = Gathering(80)
    gathering.place(part(1, 60), 40)
    with pytest.raises(ProtocolError, match="40 bytes of 40"):
        gathering.take(1, 40)


def test_an_answer_over_the_bound_of_what_is_kept_drives_no_other_out() -> None:
    answering = Answering("u", kept_max=2 * COST)
    for id_, size in ((1, 1_000), (2, 10_000)):
        begun, answer = answering.begin(request(id_)), encode(b"x" * size, trusted=False)
        assert isinstance(begun, Begun)
        answering.end(begun, Reply(id_, answer.body), answer)
    again, lost = answering.begin(request(1)), answering.begin(request(2))
    assert isinstance(again, Again) and isinstance(again.message, Reply)
    assert isinstance(lost, Again) and isinstance(lost.message, Fault)
