"""Ports and servers over socket pairs: what calls, streams and messages do, and what is left of them when connections, owners and callers break."""

import gc
import pickle
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.messages.rig import Rig, until
from tests.client.messages.target import BadText, Target
from tests.descriptors import descriptors
from unios.client.messages import memory
from unios.client.messages.port import RemoteTraceback
from unios.client.messages.server import caller
from unios.errors import CallerError, Denied, NotFound, OutcomeUnknown
from unios.limits import REQUESTS_PER_PEER_MAX, STREAM_WINDOW_BYTES


def test_a_call_takes_arguments_of_both_kinds_and_returns_what_the_handler_returns(rig: Rig) -> None:
    with rig.server(Target()), rig.port() as port:
        assert port.echo(1, "two", three=[3, {4}]) == ((1, "two"), {"three": [3, {4}]})
        assert port.call("one", None) is None
        assert port.options(timeout=5).one(b"x" * 1_000_000) == b"x" * 1_000_000


def test_an_exception_arrives_as_it_was_raised_with_where_that_was_and_its_notes(rig: Rig) -> None:
    with rig.server(Target()), rig.port() as port:
        with pytest.raises(ValueError, match="no such thing") as caught:
            port.fail("value")
        assert caught.value.__notes__ == ["a note of the handler"]
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert "in fail" in "".join(traceback.format_exception(caught.value))
        with pytest.raises(Denied, match="the handler says no") as denied:
            port.fail("denied")
        assert "in fail" in "".join(traceback.format_exception(denied.value))


@pytest.mark.parametrize(
    ("kind", "arrives", "tells"),
    [
        ("local", CallerError, "OfItsOwn: cannot travel"),
        ("arguments", CallerError, "NeedsTwo"),
        ("exit", CallerError, "SystemExit: 3"),
        ("bad", "BadText", "exception str() failed"),
        ("surrogate", ValueError, "ValueError: "),
    ],
)
def test_an_exception_that_cannot_travel_is_told_and_ends_neither_side(rig: Rig, kind: str, arrives: Any, tells: str) -> None:
    with rig.server(Target()), rig.port() as port:
        with pytest.raises(BadText if arrives == "BadText" else arrives) as caught:
            port.fail(kind)
        assert tells in "".join(traceback.format_exception(caught.value))
        assert port.one(1) == 1 and rig.connected == 1


def test_what_cannot_be_pickled_is_said_at_once_or_by_the_handlers_side(rig: Rig) -> None:
    target = Target()
    with rig.server(target), rig.port() as port:
        with pytest.raises(CallerError, match="cannot be sent"):
            port.one(threading.Lock())
        assert not target.calls
        with pytest.raises(CallerError, match="cannot be sent"):
            port.lock()
        with pytest.raises(CallerError, match="no name of an operation"):
            port.call("\udcff")
        assert port.one(2) == 2 and rig.connected == 1


@pytest.mark.parametrize("op", ["nothing", "_hidden", "__init__", "calls"])
def test_only_callables_without_an_underscore_are_found(rig: Rig, op: str) -> None:
    with rig.server(Target()), rig.port() as port, pytest.raises(NotFound, match="this port has no"):
        port.call(op)


def test_a_one_way_message_is_done_though_nothing_waits_for_it(rig: Rig) -> None:
    target = Target()
    with rig.server(target), rig.port() as port:
        for number in range(2_000):
            port.send("one", number)
        port.send("fail", "value")
        assert port.one("last") == "last"
    assert target.calls == [*range(2_000), "last"]


def test_a_stream_gives_all_items_in_order_and_a_call_in_between_does_not_wait_for_its_end(rig: Rig) -> None:
    with rig.server(Target()), rig.port() as port:
        found = []
        for number, data in port.stream("count", 400, 20_000):
            found.append(number)
            assert len(data) == 20_000
            if number % 50 == 0:
                assert port.one(number) == number
        assert found == list(range(400))
        with pytest.raises(CallerError, match="gives no stream"):
            list(port.stream("one", 1))
        with pytest.raises(ValueError, match="no such thing"):
            list(port.stream("fail", "value"))


@pytest.mark.parametrize("how", ["close", "drop", "never begun"])
def test_the_handler_of_a_stream_that_nobody_reads_to_its_end_is_stopped(rig: Rig, how: str) -> None:
    target = Target()
    with rig.server(target), rig.port() as port:
        items: Any = port.stream("count", 1_000_000, 10_000)
        if how != "never begun":
            assert next(items)[0] == 0
        if how == "close":
            items.close()
            assert list(items) == []
        del items
        streams = (thread.name == "unios-stream" for thread in threading.enumerate())
        until(lambda: target.stopped or (how == "never begun" and not any(streams)), "the generator is closed")
        assert target.made * 10_000 <= 2 * STREAM_WINDOW_BYTES
        assert port.one(1) == 1


def test_a_caller_that_never_reads_holds_a_window_of_a_stream_and_no_more(rig: Rig) -> None:
    target = Target()
    with rig.server(target), rig.port() as port:
        items = port.stream("count", 1_000_000, 100_000)
        next(items)
        for _ in range(50):
            assert port.one(1) == 1  # reads what comes; the stream's items stay unread
        window = STREAM_WINDOW_BYTES // 100_000 + 2
        until(lambda: port.one(1) and target.made >= window - 1, "the window is full")
        for _ in range(50):
            assert port.one(1) == 1
        assert target.made <= window
        items.close()


def test_large_buffers_count_against_the_window_of_a_stream(rig: Rig) -> None:
    made = []

    class Big:
        def items(self) -> Iterator[Any]:
            for number in range(100):
                made.append(number)
                yield pickle.PickleBuffer(bytearray(STREAM_WINDOW_BYTES))

    with rig.server(Big()), rig.port() as port:
        items = port.stream("items")
        assert len(next(items)) == STREAM_WINDOW_BYTES
        for _ in range(20):
            with pytest.raises(NotFound):
                port.nothing()
        assert len(made) <= 4
        assert sum(1 for _ in items) == 99


def test_a_callee_that_never_answers_ends_at_the_deadline_and_its_late_answer_is_dropped(rig: Rig) -> None:
    target = Target()
    with rig.server(target), rig.port() as port:
        with pytest.raises(OutcomeUnknown, match="slow: no answer came in time"):
            port.options(timeout=0.2).slow(1)
        target.may_go_on.set()
        assert port.one(2) == 2
        pending = port.options(timeout=10).begin("slow", 3)
        assert pending.result(timeout=5) == 3 and pending.done()


def test_a_deadline_holds_though_the_other_side_reads_nothing(rig: Rig) -> None:
    target = Target()
    with rig.server(target), rig.port() as port:
        rig.local = False
        blocked = port.begin("slow", 1)
        until(lambda: target.calls, "the handler runs")
        begun = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            port.options(timeout=0.3).one(pickle.PickleBuffer(bytearray(64 * 1024 * 1024)))
        assert time.monotonic() - begun < 5
        target.may_go_on.set()
        assert blocked.result() == 1
        assert port.one(2) == 2
    assert len([call for call in target.calls if call == 1]) == 1


def test_a_call_that_is_cancelled_before_it_begins_is_not_done(rig: Rig) -> None:
    target = Target()
    with rig.server(target), rig.port() as port:
        first = port.begin("slow", 1)
        until(lambda: target.calls, "the first one runs")
        second = port.begin("one", "unwanted")
        second.cancel()
        with pytest.raises(OutcomeUnknown, match="cancelled"):
            second.result()
        target.may_go_on.set()
        assert first.result() == 1
        assert port.one(2) == 2
        assert target.calls == [1, 2]


def test_more_calls_than_may_be_under_way_wait_for_room(rig: Rig) -> None:
    with rig.server(Target()), rig.port() as port:
        pending = [port.begin("one", number) for number in range(2 * REQUESTS_PER_PEER_MAX)]
        assert [one.result() for one in pending] == list(range(2 * REQUESTS_PER_PEER_MAX))


@pytest.mark.parametrize("local", [True, False])
def test_both_sides_may_send_much_at_a_time_without_waiting_for_each_other_for_ever(rig: Rig, local: bool) -> None:
    rig.local = local
    with rig.server(Target()), rig.port() as port:
        data = bytearray(700_000)
        pending = [port.begin("one", pickle.PickleBuffer(data)) for _ in range(40)]
        small = [port.begin("one", b"y" * 100_000) for _ in range(100)]
        assert all(len(one.result(timeout=20)) == 700_000 for one in pending)
        assert all(len(one.result(timeout=20)) == 100_000 for one in small)


def test_eight_threads_on_one_port_get_each_its_own_answers(rig: Rig) -> None:
    with rig.server(Target()), rig.port() as port:
        wrong: list[Any] = []

        def work(me: int) -> None:
            for number in range(300):
                try:
                    if port.one((me, number)) != (me, number):
                        wrong.append((me, number))
                    if number % 100 == 0 and [n for n, _ in port.stream("count", 50)] != list(range(50)):
                        wrong.append(("stream", me))
                    port.send("one", me)
                except BaseException as error:  # noqa: BLE001
                    wrong.append(error)
                    return

        threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong and not any(thread.is_alive() for thread in threads)


def test_nothing_is_unpickled_that_came_from_another_user(rig: Rig) -> None:
    evil = Evil()
    Evil.ran = []
    rig.user = "mallory"
    with rig.server(Target()), rig.port() as port:
        with pytest.raises(Denied, match="it is a program"):
            port.one(evil)
        assert not Evil.ran
        rig.owner = "mallory"
        with rig.port() as plain:
            assert plain.one([1, "two", b"3", {"four": None}]) == [1, "two", b"3", {"four": None}]
            assert plain.one(b"x" * 20_000_000) == b"x" * 20_000_000
            assert plain.who() == "mallory"
            with pytest.raises(CallerError, match="ValueError: no such thing"):
                plain.fail("value")
            with pytest.raises(CallerError, match="cannot be sent to another user's process"):
                plain.one(evil)
            assert not Evil.ran
            with pytest.raises(CallerError, match="the limit is"):
                plain.one(b"x" * 70_000_000)
            assert plain.one(1) == 1


class Evil:
    ran: list[str] = []

    def __reduce__(self) -> Any:
        return it_ran, ()


def it_ran() -> None:
    Evil.ran.append("it ran")


def test_an_answer_of_a_strangers_is_not_unpickled_because_a_friend_listens_there_meanwhile(rig: Rig) -> None:
    Evil.ran = []
    rig.owner = "mallory"  # who pickles nevertheless
    with rig.server({"evil": Evil, "one": lambda value: value}), rig.port() as port:
        evil, other = port.begin("evil"), port.begin("evil")
        with pytest.raises(Denied, match="it is a program"):
            other.result()
        rig.owner = rig.user
        rig.cut()
        assert port.one([2]) == [2]
        with pytest.raises(Denied, match="it is a program"):
            evil.result()
    assert not Evil.ran


def test_what_was_meant_for_ones_own_user_is_not_sent_to_another_who_listens_there_now(rig: Rig) -> None:
    first = Target()
    old = rig.server(first)
    with rig.port() as port:
        pending = port.options(idempotent=True).begin("slow", "secret")
        until(lambda: first.calls, "it has begun")
        old.close()
        theirs = Target()
        theirs.may_go_on.set()
        rig.owner = "mallory"
        rig.server(theirs)
        rig.cut()
        with pytest.raises(OutcomeUnknown, match="another user listens"):
            pending.result()
        assert not theirs.calls
    first.may_go_on.set()


def test_a_port_travels_as_its_name_and_whoever_gets_it_connects_himself(rig: Rig) -> None:
    with rig.server(Target()), rig.server({"through": lambda port: port.one("through it")}, "q"), rig.port() as port, rig.port("q") as other:
        assert other.through(port) == "through it"
        assert rig.connected == 3


def test_revoking_a_user_ends_his_streams_and_forgets_what_he_asked(rig: Rig) -> None:
    target = Target()
    with rig.server(target) as server, rig.port() as port:
        server.grant("ann")
        assert rig.granted == [("p", "ann")]
        items = port.stream("count", 1_000_000, 10_000)
        next(items)
        rig.listening.clear()
        assert server.revoke(rig.user) == 1
        until(lambda: target.stopped, "the stream of the one who lost the right has ended")
        assert server.revoke("ann") == 0 and rig.granted == []


def test_a_connection_is_cut_by_its_stamp(rig: Rig) -> None:
    stamps = []
    with rig.server({"f": lambda: stamps.append(caller())}) as server, rig.port() as port:
        port.f()
        assert server.revoke(stamps[0]) == 1
        port.f()
        assert rig.connected == 2
    with pytest.raises(LookupError):
        caller()


@pytest.mark.parametrize("local", [True, False])
def test_neither_descriptors_nor_memory_nor_threads_are_left(rig: Rig, local: bool) -> None:
    rig.local = local

    def round_() -> None:
        with rig.server(Target()), rig.port() as port:
            for _ in range(5):
                assert len(port.one(pickle.PickleBuffer(bytearray(1_000_000)))) == 1_000_000
                buffer = memory.allocate(1_000_000)
                assert len(port.one(buffer)) == 1_000_000
            next(port.stream("count", 1_000_000, 100_000))
            rig.cut()
            assert port.one(1) == 1
        rig.cut()
        gc.collect()

    threads = set(threading.enumerate())
    round_()
    until(lambda: set(threading.enumerate()) <= threads, "the threads have ended")
    before, memories = descriptors(), mapped()
    for _ in range(5):
        round_()
    until(lambda: set(threading.enumerate()) <= threads, "the threads have ended")
    gc.collect()
    assert descriptors() <= before and mapped() <= memories


def mapped() -> int:
    """Return how many mappings of memory files there are."""
    with open("/proc/self/maps") as file:
        return sum("memfd:unios" in line for line in file)


def test_a_port_that_is_dropped_ends_its_connection(rig: Rig) -> None:
    with rig.server(Target()) as server:
        port = rig.port()
        assert port.one(1) == 1
        assert len(server._lines) == 1
        del port
        gc.collect()
        until(lambda: not server._lines, "the server has seen the end, though the broker holds duplicates")
