"""Ports on hard days: threads that flood, forks with calls under way, deadlines of every length, classes that raise what ends a program."""

import math
import os
import sys
import threading
import time
from typing import Any, NoReturn

import pytest

from tests.client.messages.rig import Rig, until
from tests.client.messages.target import Target
from unios.client.messages import ends as ends_module
from unios.client.messages.line import Closed, Line
from unios.errors import CallerError, NotFound, OutcomeUnknown, UniosError
from unios.wire.messages import Request


def test_threads_that_send_much_while_much_is_answered_do_not_wait_for_each_other_for_ever(rig: Rig) -> None:
    rig.local = False
    answered: list[int] = []
    with rig.server({"one": lambda value: value}), rig.port() as port:

        def work(me: int) -> None:
            data = bytes([me]) * 250_000
            for _ in range(60):
                assert port.one(data) == data
            answered.append(me)

        threads = [threading.Thread(target=work, args=(me,), daemon=True) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(answered) == list(range(8)) and rig.connected == 1


def test_a_thread_whose_peer_takes_nothing_leaves_the_processor_to_the_one_that_reads(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.local = False
    target = Target()
    with rig.server(target), rig.port() as port:
        ends = port._ends
        running, answered = port.begin("slow", 1), port.begin("one", bytes(100_000))
        until(lambda: target.calls, "it runs, and reads nothing meanwhile")
        ends._leads[True] = -1  # another thread reads, and has no turn at the moment
        rounds = 0
        blocked = ends._while_blocked

        def counted(line: Any) -> None:
            nonlocal rounds
            rounds += 1
            blocked(line)

        monkeypatch.setattr(ends, "_while_blocked", counted)
        sending = threading.Thread(target=lambda: port.begin("one", bytes(20_000_000)), daemon=True)
        sending.start()
        target.may_go_on.set()
        until(lambda: rounds, "something has come that nobody reads")
        before, begun = rounds, time.monotonic()
        time.sleep(0.2)
        passed = time.monotonic() - begun
        assert rounds - before <= passed / ends_module._ASIDE_S + 1
        del ends._leads[True]
        assert len(answered.result(10)) == 100_000 and running.result(10) == 1
        sending.join(30)


def test_what_the_parent_has_asked_ends_in_a_forked_child_and_is_not_taken_for_what_the_child_asks(rig: Rig) -> None:
    target = Target()
    with rig.server(target), rig.port(timeout=10) as port:
        items = port.stream("count", 1_000_000, 1_000)
        last = next(items)[0]
        while not items._asked.items:  # some have come and are not read
            last = next(items)[0]
        pending = port.begin("slow", 1)
        until(lambda: target.calls, "it runs")
        child = os.fork()
        if child == 0:
            try:
                patient = port.options(timeout=20)
                own = patient.begin("slow", 2)  # of ids that the parent has too
                until(lambda: 2 in target.calls, "the child's runs")
                pending.cancel()
                try:
                    pending.result()
                    os._exit(3)
                except OutcomeUnknown as error:
                    told = "was asked by the process from which this one was forked" in str(error)
                try:
                    next(items)
                    os._exit(4)
                except OutcomeUnknown:
                    pass
                items.close()
                target.may_go_on.set()
                os._exit(0 if told and own.result() == 2 else 5)
            except BaseException:  # noqa: BLE001
                os._exit(2)
        _pid, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        target.may_go_on.set()
        assert pending.result(10) == 1 and next(items)[0] == last + 1
        items.close()


def test_the_threads_of_a_forked_child_share_one_session(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig.server(Target()), rig.port() as port:
        ends = port._ends
        ends._pid = -1  # as in a child
        begin, begun = ends._begin, []

        def slowly() -> None:
            begun.append(threading.get_ident())
            time.sleep(0.1)
            begin()

        monkeypatch.setattr(ends, "_begin", slowly)
        found: list[Any] = []
        threads = [threading.Thread(target=lambda number=number: found.append(port.options(timeout=10).one(number))) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(found) == [0, 1, 2, 3] and len(begun) == 1


@pytest.mark.parametrize("timeout", [3e6, 1e10, sys.float_info.max, math.inf])
def test_a_deadline_may_be_as_late_as_one_likes(rig: Rig, timeout: float) -> None:
    with rig.server(Target()), rig.port(timeout=timeout) as port:
        patient = port.options(timeout=timeout)
        assert patient.one(1) == 1
        assert len(patient.one(bytes(3_000_000))) == 3_000_000
        assert [number for number, _ in patient.stream("count", 3)] == [0, 1, 2]
        assert port.begin("one", 2).result(timeout) == 2
        with pytest.raises(CallerError, match="nan"):
            port.options(timeout=math.nan).one(1)


def test_a_poll_that_ends_before_the_deadline_is_asked_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from unios.client.messages import line as lines

    monkeypatch.setattr(lines, "_POLL_MS_MAX", 1)  # as after a day
    target = Target()
    with rig.server(target), rig.port() as port:
        pending = port.options(timeout=20).begin("slow", 1)
        later = threading.Timer(0.1, target.may_go_on.set)
        later.start()
        assert len(port.options(timeout=20).one(bytes(20_000_000))) == 20_000_000
        assert pending.result() == 1


def test_who_only_looks_whether_an_answer_has_come_sees_it(rig: Rig) -> None:
    target = Target()
    with rig.server(target), rig.port() as port:
        pending, slow = port.begin("one", 1), port.begin("slow", 2)
        until(lambda: 2 in target.calls, "the first is answered")

        def found() -> bool:
            try:
                return bool(pending.result(timeout=0) == 1)
            except TimeoutError:
                return False

        until(found, "it is found by looking")
        with pytest.raises(TimeoutError):
            slow.result(timeout=0)
        target.may_go_on.set()
        assert slow.result(10) == 2


def test_a_call_whose_owner_went_after_it_was_sent_has_no_known_outcome_though_nobody_listens_any_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent over again, whole, and that connection breaks too, while others' requests are sent again."""
    target = Target()
    with rig.server(target), rig.port() as port:
        ends = port._ends
        send = Line.send

        def broken(line: Line, message: Any, *rest: Any) -> None:
            send(line, message, *rest)
            if isinstance(message, Request):
                line.close()
                rig.listening.clear()
                raise Closed("it broke", sent=True)

        monkeypatch.setattr(Line, "send", broken)
        with pytest.raises(OutcomeUnknown, match="nobody listens"):
            port.options(timeout=0.3).one(1)
        assert not ends._asking.open


def test_a_call_that_was_not_sent_says_why(rig: Rig) -> None:
    with rig.server(Target()) as server, rig.port() as port:
        server.close()
        rig.cut()
        assert port._ends.line is not None
        port._ends.line.close()
        with pytest.raises(NotFound, match="nobody listens on port p"):
            port.options(timeout=0.2).one(1)


class ReadAsExit:
    """An argument, or an answer, that raises what ends a program when it is read."""

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class ReadAsExitError(Exception):
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class WrittenAsExitError(Exception):
    def __reduce__(self) -> NoReturn:
        raise SystemExit(3)


class SaidAsExitError(Exception):
    def __str__(self) -> NoReturn:
        raise SystemExit(3)


class Hostile:
    def one(self, value: Any) -> Any:
        return value

    def read_as_exit(self) -> None:
        raise ReadAsExitError

    def written_as_exit(self) -> None:
        raise WrittenAsExitError

    def said_as_exit(self) -> None:
        raise SaidAsExitError

    def over(self) -> NoReturn:
        raise StopIteration("of the handler")


@pytest.mark.parametrize("user", ["", "somebody"])
@pytest.mark.parametrize("op", ["read_as_exit", "written_as_exit", "said_as_exit"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_exception_that_ends_programs_when_it_travels_is_told_and_ends_none(rig: Rig, user: str, op: str, stream: bool) -> None:
    if user:
        rig.user = rig.owner = user
    with rig.server(Hostile()), rig.port() as port:
        patient = port.options(timeout=5)
        with pytest.raises((UniosError, SaidAsExitError)) as caught:
            list(patient.stream(op)) if stream else patient.call(op)
        assert not isinstance(caught.value, OutcomeUnknown)
        assert port.one(1) == 1 and rig.connected == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_argument_that_ends_programs_when_it_is_read_is_told_and_ends_none(rig: Rig, stream: bool) -> None:
    with rig.server(Hostile()), rig.port() as port:
        patient = port.options(timeout=5)
        with pytest.raises(CallerError, match="SystemExit: 3"):
            list(patient.stream("one", ReadAsExit())) if stream else patient.one(ReadAsExit())
        assert port.one(1) == 1 and rig.connected == 1


def test_a_handler_that_raises_stop_iteration_is_not_taken_for_the_end_of_a_stream(rig: Rig) -> None:
    with rig.server(Hostile()), rig.port() as port:
        with pytest.raises(RuntimeError, match="the handler raised StopIteration"):
            list(port.stream("over"))
        with pytest.raises(StopIteration, match="of the handler"):
            port.over()


def test_the_deadline_of_a_stream_holds_while_credit_is_granted_to_one_who_takes_nothing(rig: Rig) -> None:
    rig.local = False
    target = Target()
    with rig.server(target), rig.port() as port:
        items = port.options(timeout=2).stream("count", 10_000, 100_000)
        until(lambda: target.made, "it has begun")
        running = port.begin("slow", 1)
        until(lambda: 1 in target.calls, "it runs, and reads nothing meanwhile")
        filling = threading.Thread(target=lambda: port.begin("one", bytes(20_000_000)), daemon=True)
        filling.start()
        line = port._ends.open(None)
        until(lambda: line._anything, "a message is half sent, and nothing more is taken")
        failures: list[BaseException] = []

        def read() -> None:
            try:
                for _ in items:
                    pass
            except UniosError as error:
                failures.append(error)

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        target.may_go_on.wait(1)
        reading.join(10)
        assert failures and not reading.is_alive() and target.made > 10
        target.may_go_on.set()
        assert running.result(10) == 1
        filling.join(30)
