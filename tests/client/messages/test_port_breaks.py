"""Ports while connections are lost, owners are replaced, signals come and processes fork."""

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from tests.client.messages.rig import Rig, until
from tests.client.messages.target import Target
from unios.client.messages import sessions
from unios.errors import NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.limits import SESSION_KEPT_S, STREAMS_PER_SESSION_MAX


def test_connections_that_are_lost_all_the_time_change_no_answer_and_nothing_is_done_twice(rig: Rig) -> None:
    target = Target()
    over = threading.Event()

    def cutting() -> None:
        while not over.is_set():
            before, done = rig.connected, len(target.calls)
            rig.cut()
            until(lambda before=before: rig.connected > before or over.is_set(), "it connects again", 30)  # type: ignore[misc]
            until(lambda done=done: len(target.calls) > done + 20 or over.is_set(), "some calls are done", 30)  # type: ignore[misc]

    with rig.server(target), rig.port() as port:
        cutter = threading.Thread(target=cutting)
        cutter.start()
        wrong: list[Any] = []

        def work(me: int) -> None:
            try:
                for number in range(150):
                    if port.one((me, number)) != (me, number):
                        wrong.append((me, number))
            except BaseException as error:  # noqa: BLE001
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
        for thread in threads:
            thread.start()
        streamed = [number for number, _ in port.stream("count", 300, 30_000)]
        for thread in threads:
            thread.join(60)
        over.set()
        rig.connected += 1
        cutter.join(30)
        assert not wrong
        assert streamed == list(range(300))
    assert sorted(target.calls) == sorted((me, number) for me in range(4) for number in range(150))


def test_a_stream_under_way_goes_on_after_one_break_without_another(rig: Rig) -> None:
    with rig.server(Target()), rig.port() as port:
        items = port.options(timeout=20).stream("count", 400, 20_000)
        assert next(items)[0] == 0
        rig.cut()
        assert [number for number, _ in items] == list(range(1, 400))
        assert rig.connected == 2


def test_a_stream_that_has_ended_unread_is_whole_after_a_break(rig: Rig) -> None:
    target = Target()
    with rig.server(target), rig.port() as port:
        items = port.stream("count", 100)
        until(lambda: target.stopped, "the handler has ended")
        rig.cut()
        assert [number for number, _ in items] == list(range(100))
        assert rig.connected == 2


@pytest.mark.parametrize("local", [True, False])
def test_an_item_that_the_handler_could_have_changed_meanwhile_is_not_sent_again(rig: Rig, local: bool) -> None:
    rig.local = local

    class Reuses:
        def items(self) -> Iterator[Any]:
            buffer = bytearray(200_000)
            for number in range(5):
                buffer[:] = bytes([number]) * len(buffer)
                yield pickle.PickleBuffer(buffer)

    with rig.server(Reuses()), rig.port() as port:
        items = port.stream("items")
        assert bytes(next(items)[:1]) == b"\x00"
        rig.cut()
        try:
            assert [item[0] for item in items] == [1, 2, 3, 4]
        except OutcomeUnknown:
            assert local  # there nothing is copied for a break that does not happen


def test_a_replaced_owner_ends_what_was_sent_and_does_again_only_what_may_be(rig: Rig) -> None:
    first, second = Target(), Target()
    old = rig.server(first)
    with rig.port() as port:
        lost, idempotent = port.begin("slow", 1), port.options(idempotent=True).begin("slow", 2)
        until(lambda: first.calls, "the first owner has begun")
        second.may_go_on.set()
        old.close()
        rig.server(second)
        rig.cut()
        with pytest.raises(OutcomeUnknown, match="has been replaced"):
            lost.result()
        assert idempotent.result() == 2
        assert port.one(3) == 3
        assert second.calls == [2, 3]
    first.may_go_on.set()


def test_callers_wait_while_nobody_listens_and_one_with_a_deadline_does_not_end_the_others(rig: Rig) -> None:
    server = rig.server(Target())
    with rig.port() as port:
        assert port.one(1) == 1
        server.close()
        found: list[Any] = []
        patient = threading.Thread(target=lambda: found.append(port.one(2)))
        patient.start()
        with pytest.raises(UniosError):
            port.options(timeout=0.2).one(3)
        assert patient.is_alive() and not found
        rig.server(Target())
        patient.join(20)
        assert found == [2]
        with pytest.raises(NotFound, match="nobody listens on port other"):
            rig.port("other", timeout=0.1)


def test_a_reader_whose_deadline_ends_while_nobody_listens_does_not_end_what_others_wait_for(rig: Rig) -> None:
    target = Target()
    server = rig.server(target)
    with rig.port() as port:
        patient = port.options(idempotent=True).begin("slow", 1)
        until(lambda: target.calls, "it has begun")
        hasty = port.options(idempotent=True, timeout=0.3).begin("slow", 2)
        server.close()
        rig.cut()
        with pytest.raises(OutcomeUnknown, match="no answer came in time"):
            hasty.result()
        assert not patient.done()
        target.may_go_on.set()
        rig.server(target)
        assert patient.result(timeout=20) == 1


class Alarm(Exception):
    pass


def test_a_signal_handler_that_raises_during_a_call_leaves_the_port_whole(rig: Rig) -> None:
    target = Target()

    fired = False
    """What is raised within a finalizer Python drops: then the calls would go on for ever, and the target keeps what it was sent."""

    def on_alarm(_signal: int, _frame: FrameType | None) -> None:
        nonlocal fired
        fired = True
        raise Alarm

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        with rig.server(target), rig.port(timeout=20) as port:
            wrong: list[Any] = []
            over = threading.Event()

            def beside() -> None:
                number = 0
                while not over.is_set():
                    number += 1
                    try:
                        if port.one(("beside", number)) != ("beside", number):
                            wrong.append(number)
                    except BaseException as error:  # noqa: BLE001
                        wrong.append(error)
                        return

            thread = threading.Thread(target=beside)
            thread.start()
            interrupted = 0
            for number in range(60):
                fired = False
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0003 + number * 0.0001)
                    while not fired:
                        assert port.one(number) == number
                        assert len(port.one(b"x" * 300_000)) == 300_000
                except Alarm:
                    interrupted += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            assert interrupted > 40
            assert port.options(timeout=10).one("after") == "after"
            over.set()
            thread.join(30)
            assert not thread.is_alive() and not wrong
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_fork_after_connecting_gives_the_child_a_session_of_its_own(rig: Rig) -> None:
    with rig.server(Target()) as server, rig.port() as port:
        assert port.one(1) == 1
        items = port.stream("count", 100_000, 1_000)
        next(items)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                server.close()  # the parent's: nothing happens
                for line in list(server._lines):
                    line.close()
                said = b"ok"
                try:
                    next(items)
                    said = b"the child has read its parent's stream"
                except OutcomeUnknown:
                    pass
                del items
                port.close()
                rig.listening.clear()
                try:
                    port.options(timeout=0.1).one(2)
                    said = b"the child has used its parent's connection"
                except NotFound:
                    pass
                os.write(writing, said)
            finally:
                os._exit(0)
        os.close(writing)
        assert os.read(reading, 100) == b"ok"
        os.close(reading)
        os.waitpid(child, 0)
        assert next(items)[0] == 1
        items.close()
        assert port.one(3) == 3 and rig.connected == 1


def test_a_forked_child_that_calls_at_once_has_a_connection_of_its_own_and_closes_nothing_of_its_parents(rig: Rig) -> None:
    with rig.server(Target()) as server, rig.port() as port:
        assert port.one(1) == 1
        child = os.fork()
        if child == 0:
            try:
                fine = port.options(timeout=10).one(2) == 2 and rig.connected == 2
                server.close()
                os._exit(0 if fine and "p" in rig.listening else 1)
            except BaseException:  # noqa: BLE001
                os._exit(2)
        _pid, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert port.one(3) == 3 and rig.connected == 1


def test_what_was_read_when_a_signals_handler_raised_is_asked_for_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target()
    with rig.server(target), rig.port(timeout=20) as port:
        asking = port._ends._asking
        heard = asking.heard

        def once(message: Any, value: Any) -> Any:
            monkeypatch.setattr(asking, "heard", heard)
            raise Alarm

        first, second = port.begin("one", 1), port.begin("one", 2)
        monkeypatch.setattr(asking, "heard", once)
        with pytest.raises(Alarm):
            first.result()
        assert (first.result(timeout=10), second.result(timeout=10)) == (1, 2)
        assert target.calls == [1, 2]


def test_a_call_that_a_signals_handler_has_left_is_withdrawn(rig: Rig) -> None:
    def on_alarm(_signal: int, _frame: FrameType | None) -> None:
        raise Alarm

    target = Target()
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        with rig.server(target), rig.port(timeout=20) as port:
            running = port.begin("slow", 1)
            until(lambda: target.calls, "it runs")
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Alarm):
                port.one("unwanted")
            target.may_go_on.set()
            assert running.result() == 1 and port.one(2) == 2
            assert target.calls == [1, 2]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_one_caller_has_so_many_streams_at_a_time_and_no_more(rig: Rig) -> None:
    with rig.server(Target()), rig.port(timeout=20) as port:
        streams = [port.stream("count", 1_000_000, 100_000) for _ in range(STREAMS_PER_SESSION_MAX)]
        assert next(streams[-1])[0] == 0
        with pytest.raises(Unavailable, match="streams under way"):
            next(port.stream("count", 1))
        for one in streams:
            one.close()
        assert port.one(1) == 1


def test_what_is_kept_for_a_caller_who_does_not_come_back_is_let_go_of_though_nobody_else_calls(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig.server(Target()) as server:
        port = rig.port()
        assert len(port.one(b"x" * 30_000)) == 30_000  # an answer that is not acknowledged
        port.close()
        until(lambda: rig.due, "that is noted")
        assert [seconds for seconds, _work in rig.due] == [SESSION_KEPT_S]
        session = next(iter(server._sessions._found.values()))
        assert session.answering.kept_bytes >= 30_000
        rig.due.pop()[1]()
        assert len(rig.due) == 1 and 0 < rig.due[0][0] <= SESSION_KEPT_S  # too early
        monkeypatch.setattr(sessions, "SESSION_KEPT_S", 0)
        rig.due.pop()[1]()
        assert not server._sessions._found and session.answering.kept_bytes == 0 and not rig.due
