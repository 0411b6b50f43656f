"""Conversations: an asking and an answering side joined by a link that loses what is on it at any moment, while the answering side may be replaced."""

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unios.errors import OutcomeUnknown, ProtocolError, Unavailable
from unios.limits import KEPT_REPLIES_BYTES, KEPT_REPLIES_MAX, REQUESTS_PER_PEER_MAX, STREAM_WINDOW_BYTES
from unios.wire.conversations import ACK_BYTES, ACK_COUNT, Again, Answering, Asked, Asking, Begun, cost_of, decode
from unios.wire.gathering import Gathering
from unios.wire.messages import Ack, Cancel, Credit, Fault, Hello, Item, Part, Reply, Request, encode
from unios.wire.values import Value

VERSION = (1, 1)


def value(number: int, size: int = 0) -> Value:
    return Value(msgspec.Raw(msgspec.msgpack.encode(number)), [memoryview(bytes(size))] if size else ())


def number_of(found: Value | None) -> int:
    assert found is not None
    return int(msgspec.msgpack.decode(found.body))


class World:
    """One caller, one owner at a time, and a link whose two queues are lost together. Streams have `items_max` items; even ids of op "again" may be done again."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.asking = Asking("s")
        self.incarnation = 1
        self.answering = Answering("u")
        self.up: list[Any] = []
        self.down: list[Any] = []
        self.connected = False
        self.asked: list[Asked] = []
        self.ended: Counter[int] = Counter()
        self.done: Counter[int] = Counter()
        """How often each request's effect took place, by number."""
        self.working: dict[int, tuple[Begun, Request, int, int]] = {}
        """Begun, request, its number, how many items it has given."""
        self.read: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}
        self.withdrawn: set[int] = set()

    # the asking side

    def connect(self) -> None:
        if self.connected:
            return
        self.up, self.down, self.connected, self.heard_here = [], [], True, set()
        hello = self.asking.hello(VERSION)
        known = self.known == hello.facts["session"]
        self.known = hello.facts["session"]
        theirs = Hello(*VERSION, "program", {"incarnation": str(self.incarnation), "session": "known" if known else "new"})
        again, failed = self.asking.greeted(theirs)
        self.up.append(self.asking.waiting())
        for asked in failed:
            self.ended[asked.id] += 1
        for asked in again:
            if asked.sent:
                self.send(asked)

    known = ""
    heard_here: set[int] = set()
    """Requests that came over this connection: before that, items of their streams are not sent over it, or they would come in front of those that were lost."""

    def lose(self) -> None:
        self.up, self.down, self.connected = [], [], False

    def replace(self) -> None:
        self.lose()
        self.incarnation += 1
        self.answering, self.known, self.working = Answering("u"), "", {}

    def forget(self) -> None:
        """The owner lives and has forgotten the session."""
        self.lose()
        self.answering.leave()
        self.answering, self.known, self.working = Answering("u"), "", {}

    def send(self, asked: Asked) -> None:
        asked.sent = True
        if self.connected:
            self.up.append(asked.request(self.asking.ack, (), 0))

    def ask(self) -> None:
        number = len(self.asked) + 1
        kind = self.random.choice(["call", "call", "again", "stream", "oneway"])
        if self.asking.is_full or (kind == "oneway" and not self.connected):
            return
        asked = self.asking.ask(kind, value(number), again=kind == "again", stream=kind == "stream", oneway=kind == "oneway")
        self.asked.append(asked)
        self.lengths[asked.id] = self.random.randrange(60)
        self.read[asked.id] = []
        self.send(asked)
        if kind == "oneway":
            self.asking.left(asked)

    def hear(self) -> None:
        if not self.down:
            return
        message, found = self.down.pop(0)
        asked = self.asking.open.get(message.id)
        self.asking.heard(message, found)
        if asked is not None and asked.ended:
            self.ended[asked.id] += 1
        if (ack := self.asking.acknowledgement()) is not None and self.connected:
            self.up.append(ack)

    def take(self) -> None:
        reading = [asked for asked in self.asked if asked.items]
        if reading:
            asked = self.random.choice(reading)
            found, credit = self.asking.take(asked)
            self.read[asked.id].append(number_of(found))
            if credit is not None and self.connected:
                self.up.append(credit)

    def cancel(self) -> None:
        waiting = [asked for asked in self.asking.open.values() if asked.sent]
        if waiting and self.random.random() < 0.2:
            asked = self.random.choice(waiting)
            self.asking.fail(asked, OutcomeUnknown("withdrawn"))
            self.ended[asked.id] += 1
            self.withdrawn.add(asked.id)
            if self.connected:
                self.up.append(Cancel(asked.id))

    # the answering side

    def serve(self) -> None:
        if not self.up:
            return
        message = self.up.pop(0)
        match message:
            case Request():
                self.heard_here.add(message.id)
                begun = self.answering.begin(message)
                if isinstance(begun, Begun):
                    number = number_of(Value(message.body))
                    self.done[number] += 1
                    self.working[message.id] = (begun, message, number, 0)
                elif isinstance(begun, Again):
                    self.down += [(Reply(message.id, item.body, more=True), item) for item in begun.items]
                    if begun.message is not None:
                        self.down.append((begun.message, begun.value))
            case Credit():
                self.answering.credited(message)
            case Cancel():
                self.answering.cancel(message.id)
            case Ack():
                self.answering.acked(message.id, message.ids, message.open)

    def work(self) -> None:
        if not self.working:
            return
        id_ = self.random.choice(list(self.working))
        begun, request, number, given = self.working[id_]
        if begun.cancelled:
            del self.working[id_]
            return
        if request.stream and given < self.lengths[id_]:
            if begun.room > 0:
                item = value(given, self.random.choice([0, 0, 100_000, 700_000, 700_000, 3_000_000]))
                message = self.answering.item(begun, item)
                assert begun.held <= STREAM_WINDOW_BYTES + cost_of(item)
                self.working[id_] = (begun, request, number, given + 1)
                self.down_if(message, item, id_)
            return
        del self.working[id_]
        answer = value(number * 1000)
        reply = Reply(id_, answer.body)
        self.answering.end(begun, reply, None if request.oneway else answer, keep=not request.oneway)
        if not request.oneway:
            self.down_if(reply, answer, id_ if request.stream else None)

    def down_if(self, message: Any, found: Value, stream: int | None) -> None:
        if self.connected and (stream is None or stream in self.heard_here):
            self.down.append((message, found))

    def step(self, losing: bool) -> None:
        choice = self.random.random()
        if losing and choice < 0.02:
            self.lose()
        elif losing and choice < 0.025:
            self.replace()
        elif losing and choice < 0.03:
            self.forget()
        elif not self.connected:
            self.connect()
        elif losing and choice < 0.15:
            self.ask()
        elif losing and choice < 0.17:
            self.cancel()
        else:
            self.random.choice([self.hear, self.hear, self.serve, self.serve, self.work, self.work, self.take])()

    def settle(self) -> None:
        self.connect()
        for _ in range(200_000):
            if not self.asking.open and not any(asked.items for asked in self.asked) and not self.up and not self.working:
                return
            self.step(losing=False)
        raise AssertionError(f"these never ended: {[(asked.id, asked.op) for asked in self.asking.open.values()]}")


@pytest.mark.parametrize("seed", range(60))
def test_over_a_link_that_is_lost_all_the_time_each_request_is_done_at_most_once_and_ends_exactly_once(seed: int) -> None:
    world = World(seed)
    for _ in range(3_000):
        world.step(losing=True)
    world.settle()
    replaced = 0
    for number, asked in enumerate(world.asked, 1):
        assert asked.ended
        if asked.oneway:
            assert world.done[number] <= 1
            continue
        assert world.ended[asked.id] == 1, f"seed {seed}: {asked.op} {asked.id}"
        if not asked.again:
            assert world.done[number] <= 1, f"seed {seed}: {asked.op} {asked.id} was done twice"
        read = world.read[asked.id]
        assert read == list(range(len(read))), f"seed {seed}: the stream {asked.id} has a gap or a repetition: {read}"
        if asked.failure is None:
            assert world.done[number] >= 1
            assert number_of(asked.answer) == number * 1000
            if asked.stream:
                assert len(read) == world.lengths[asked.id]
        else:
            replaced += 1
    assert replaced < len(world.asked)
    assert world.answering.kept <= REQUESTS_PER_PEER_MAX + ACK_COUNT


@pytest.mark.parametrize("seed", range(20))
def test_where_only_connections_are_lost_every_request_is_done_and_every_stream_is_whole(seed: int) -> None:
    world = World(seed)
    world.replace = world.forget = world.lose  # type: ignore[method-assign]
    for _ in range(3_000):
        world.step(losing=True)
    world.settle()
    for number, asked in enumerate(world.asked, 1):
        if not asked.oneway and asked.id not in world.withdrawn:
            assert asked.failure is None and world.done[number] == 1
            assert len(world.read[asked.id]) == (world.lengths[asked.id] if asked.stream else 0)


def request(id_: int, ack: int = 0, **more: Any) -> Request:
    return Request(id_, "op", value(id_).body, ack=ack, **more)


def begun_of(answering: Answering, asked: Request) -> Begun:
    begun = answering.begin(asked)
    assert isinstance(begun, Begun)
    return begun


def test_an_answer_is_kept_until_it_is_acknowledged_and_no_longer() -> None:
    answering = Answering("u")
    for id_ in (1, 2, 3):
        answering.end(begun_of(answering, request(id_)), Reply(id_, value(id_).body), value(id_))
    assert answering.begin(request(2)) == Again([], Reply(2, value(2).body), value(2))
    begun_of(answering, request(4, ack=2))
    assert answering.begin(request(2)) is None and answering.begin(request(1)) is None
    assert answering.kept == 1 and answering.kept_bytes == cost_of(value(3))
    answering.acked(3)
    assert answering.kept_bytes == 0 and not answering.is_idle
    answering.cancel(4)
    assert answering.begin(request(4)) == Again([], answering._kept[4].message, None)


def test_over_the_bound_the_oldest_answer_goes_and_who_asks_again_for_it_is_told_that_it_was_done() -> None:
    answering = Answering("u")
    size = KEPT_REPLIES_BYTES // 4
    for id_ in range(1, 7):
        answering.end(begun_of(answering, request(id_)), Reply(id_, value(id_).body), value(id_, size))
        assert answering.kept_bytes <= KEPT_REPLIES_BYTES
    first, last = answering.begin(request(1)), answering.begin(request(6))
    assert isinstance(first, Again) and isinstance(first.message, Fault) and first.message.code == OutcomeUnknown.code
    assert isinstance(last, Again) and last.value is not None
    answering.end(begun_of(answering, request(7)), Reply(7), value(7, KEPT_REPLIES_BYTES + 1))
    again = answering.begin(request(7))
    assert isinstance(again, Again) and isinstance(again.message, Fault)


def test_who_acknowledges_nothing_is_cut_off() -> None:
    answering = Answering("u")
    for id_ in range(1, KEPT_REPLIES_MAX + 1):
        answering.end(begun_of(answering, request(id_)), Reply(id_), value(0))
    with pytest.raises(ProtocolError, match="acknowledges nothing"):
        answering.begin(request(KEPT_REPLIES_MAX + 1))
    assert answering.kept == KEPT_REPLIES_MAX


def test_answers_that_overtake_an_open_request_are_acknowledged_by_themselves() -> None:
    asking, answering = Asking("s"), Answering("u")
    begun_of(answering, asking.ask("watch", value(0), stream=True).request(asking.ack, (), 0))
    for number in range(5 * ACK_COUNT):
        asked = asking.ask("op", value(number))
        answering.end(begun_of(answering, asked.request(asking.ack, (), 0)), Reply(asked.id), value(0))
        asking.heard(Reply(asked.id), value(0))
        if (ack := asking.acknowledgement()) is not None:
            answering.acked(ack.id, ack.ids)
    assert answering.kept <= ACK_COUNT
    asked = asking.ask("op", value(0))
    asking.heard(Reply(asked.id), value(0, ACK_BYTES))
    assert asking.acknowledgement() is not None and asking.acknowledgement() is None


def test_no_more_requests_are_under_way_than_allowed_on_either_side() -> None:
    asking, answering = Asking("s"), Answering("u")
    for number in range(REQUESTS_PER_PEER_MAX):
        begun_of(answering, asking.ask("op", value(number)).request(0, (), 0))
    assert asking.is_full
    with pytest.raises(Unavailable, match="calls are under way"):
        asking.ask("op", value(0))
    with pytest.raises(ProtocolError, match="more at a time"):
        answering.begin(request(REQUESTS_PER_PEER_MAX + 1))


def test_a_one_way_message_is_neither_taken_for_acknowledged_before_it_is_sent_nor_done_twice() -> None:
    asking, answering = Asking("s"), Answering("u")
    first, second = asking.ask("op", value(1), oneway=True), asking.ask("op", value(2), oneway=True)
    begun_of(answering, second.request(asking.ack, (), 0))
    asking.left(second)
    assert asking.ack == 0
    begun = begun_of(answering, first.request(asking.ack, (), 0))
    answering.end(begun, Reply(begun.id), None, keep=False)
    assert answering.begin(first.request(asking.ack, (), 0)) is None
    asking.left(first)
    assert asking.ack == 2


def test_what_was_withdrawn_while_the_connection_was_away_is_stopped_when_it_is_back() -> None:
    asking, answering = Asking("s"), Answering("u")
    kept, gone = asking.ask("a", value(1), stream=True), asking.ask("b", value(2), stream=True)
    begun = [begun_of(answering, asked.request(0, (), 0)) for asked in (kept, gone)]
    asking.fail(gone, OutcomeUnknown("withdrawn"))
    waiting = asking.waiting()
    answering.acked(waiting.id, waiting.ids, waiting.open)
    assert [one.cancelled for one in begun] == [False, True]


def test_an_item_that_cannot_be_sent_again_ends_the_stream_and_stops_its_handler() -> None:
    answering = Answering("u")
    begun = begun_of(answering, request(1, stream=True))
    answering.item(begun, value(0))
    answering.item(begun, value(1), keep=False)
    assert answering.begin(request(1, stream=True, have=2)) == Again([])
    again = answering.begin(request(1, stream=True, have=0))
    assert isinstance(again, Again) and isinstance(again.message, Fault) and not again.items and begun.cancelled


@pytest.mark.parametrize(
    "message",
    [
        Credit(1, 1, upto=9),
        Credit(1, 1, upto=1 << 63),
        request(1, stream=True, have=9),
        request(1, stream=True, taken=9),
        request(0),
        request(1 << 63),
    ],
)
def test_an_asker_who_counts_wrongly_is_refused(message: Any) -> None:
    answering = Answering("u")
    answering.item(begun_of(answering, request(1, stream=True)), value(0))
    with pytest.raises(ProtocolError):
        answering.credited(message) if isinstance(message, Credit) else answering.begin(message)


def test_an_answerer_who_sends_items_without_credit_or_unasked_is_refused() -> None:
    asking = Asking("s")
    asked = asking.ask("op", value(0), stream=True)
    asking.heard(Reply(asked.id, more=True), value(0, STREAM_WINDOW_BYTES))
    with pytest.raises(ProtocolError, match="without credit"):
        asking.heard(Reply(asked.id, more=True), value(1))
    call = asking.ask("op", value(0))
    with pytest.raises(ProtocolError, match="more answers than one"):
        asking.heard(Reply(call.id, more=True), value(0))
    assert asking.heard(Reply(999), value(0)) is None


def test_credit_of_an_item_larger_than_the_window_lets_the_next_one_come() -> None:
    asking, answering = Asking("s"), Answering("u")
    asked = asking.ask("op", value(0), stream=True)
    begun = begun_of(answering, asked.request(0, (), 0))
    for number in range(5):
        assert begun.room > 0
        big = value(number, 5 * STREAM_WINDOW_BYTES)
        asking.heard(answering.item(begun, big), big)
        assert begun.room <= 0
        _found, credit = asking.take(asked)
        assert credit is not None
        answering.credited(credit)
    assert begun.held == 0


def test_parts_are_put_together_within_bounds() -> None:
    gathering = Gathering(100)
    gathering.add(Part(1, 60, memoryview(b"a" * 40)))
    with pytest.raises(ProtocolError, match="announced 60 bytes"):
        gathering.add(Part(2, 60, memoryview(b"")))
    gathering.add(Part(2, 40, memoryview(b"b" * 40)))
    with pytest.raises(ProtocolError, match="more than it had announced"):
        gathering.add(Part(1, 60, memoryview(b"a" * 21)))
    with pytest.raises(ProtocolError, match="more than it had announced"):
        gathering.add(Part(1, 61, memoryview(b"a")))
    gathering.add(Part(1, 60, memoryview(b"a" * 20)))
    assert bytes(gathering.take(1, 60)) == b"a" * 60
    with pytest.raises(ProtocolError, match="40 bytes of 41"):
        gathering.take(2, 41)
    gathering.add(Part(3, 100, memoryview(b"c")))
    gathering.drop(3)
    for total in (0, -1, 101, 1 << 62):
        with pytest.raises(ProtocolError):
            gathering.add(Part(4, total, memoryview(b"")))
    many = Gathering(1000)
    for id_ in range(16):
        many.add(Part(id_, 1, memoryview(b"")))
    with pytest.raises(ProtocolError):
        many.add(Part(16, 1, memoryview(b"")))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    try:
        decode(data)
    except ProtocolError:
        pass


ids = st.integers(-1, 6)
counts = st.integers(-1, 9)
messages = st.one_of(
    st.builds(Request, ids, st.just("op"), stream=st.booleans(), oneway=st.booleans(), ack=ids, have=counts, taken=counts),
    st.builds(Credit, ids, counts, upto=counts),
    st.builds(Cancel, ids),
    st.builds(Ack, ids, st.lists(ids, max_size=3).map(tuple), st.none() | st.lists(ids, max_size=3).map(tuple)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(messages, st.booleans()), max_size=40))
def test_whatever_an_asker_says_the_answerer_keeps_its_books(said: list[tuple[Any, bool]]) -> None:
    answering = Answering("u", kept_max=500)
    begun: dict[int, Begun] = {}
    streams: set[int] = set()
    released: set[int] = set()  # who says that he has the answer and asks again has himself to blame
    for message, end in said:
        try:
            if isinstance(message, Request):
                found = answering.begin(decode(encode(message)))  # type: ignore[arg-type]
                if isinstance(found, Begun):
                    assert found.id not in begun or found.id in released, "it was begun twice"
                    begun[found.id] = found
            elif isinstance(message, Credit):
                answering.credited(message)
            elif isinstance(message, Cancel):
                answering.cancel(message.id)
            else:
                released.update(message.ids)
                answering.acked(message.id, message.ids, message.open)
        except ProtocolError:
            return
        for one in begun.values():
            if one.id in streams and not one.cancelled and one.room > 0:
                answering.item(one, value(1, 20))
            if end:
                answering.end(one, Reply(one.id), value(1))
        assert answering.kept_bytes == sum(kept.size for kept in answering._kept.values()) <= 500
        assert all(one.held == sum(size for size, _ in one.items) for one in begun.values())


def test_messages_of_kernels_are_none_of_programs() -> None:
    with pytest.raises(ProtocolError):
        decode(encode(Item(1)))


@pytest.mark.parametrize(
    ("incarnation", "why"), [("i", "has forgotten what was asked, as the right to it was taken back"), ("j", "has been replaced")]
)
def test_who_is_not_known_any_more_is_told_whether_that_is_another_or_the_same_who_has_forgotten(incarnation: str, why: str) -> None:
    asking = Asking("s")
    asking.greeted(Hello(1, 1, "program", {"incarnation": "i", "session": "new"}))
    asked = asking.ask("pay{}", value(1))
    asked.sent = True
    again, failed = asking.greeted(Hello(1, 1, "program", {"incarnation": incarnation, "session": "new"}))
    assert not again and failed == [asked] and why in str(asked.failure) and "pay{}" in str(asked.failure)
