"""Ports whose calls are interrupted: at every point at which a signal's handler may raise, whatever it raises, and from within that handler."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from tests.client.messages.interrupting import Interrupted, Interrupter
from tests.client.messages.rig import Rig, until
from tests.client.messages.target import Target
from unios.client.messages.port import Port
from unios.errors import CallerError

FILES = tuple(
    f"unios/{name}.py"
    for name in ("client/messages/ends", "client/messages/outcomes", "client/messages/line", "client/messages/port", "wire/conversations")
)


def call(port: Port) -> None:
    port.one("a")


def large(port: Port) -> None:
    port.one(b"x" * 300_000)


def stream(port: Port) -> None:
    list(port.stream("count", 3))


def send(port: Port) -> None:
    port.send("one", "a")


def cancelled(port: Port) -> None:
    port.begin("one", "a").cancel()


def reconnect(port: Port) -> None:
    line = port._ends.line
    assert line is not None
    line.close()
    port.one("a")


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("work", [call, large, stream, send, cancelled, reconnect])
def test_a_port_is_whole_wherever_a_signals_handler_raises(rig: Rig, work: Callable[[Port], None], local: bool) -> None:
    rig.local = local
    with rig.server(Target()), rig.port() as port:
        ends = port._ends
        for number in range(10_000):
            interrupter = Interrupter(number, FILES)
            try:
                interrupter.run(lambda: work(port))
            except Interrupted:
                pass
            else:
                assert not interrupter.where, f"{interrupter.where} was swallowed"
            line = ends.line
            found: list[str] = []
            beside = threading.Thread(target=lambda number=number, found=found: found.append(port.options(timeout=10).one(number)))
            beside.start()  # an RLock that was left to this thread would not be missed by itself
            beside.join()
            assert found == [number], interrupter.where
            assert port.options(timeout=10).one(number) == number, interrupter.where
            assert not ends._leads and not ends._bells, interrupter.where
            until(
                lambda: port.one(0) == 0 and not ends._asking.open, f"nothing is left open: {interrupter.where}"
            )  # a stream's thread may be about to end
            if line is not None and line is not ends.line:
                rig.connections = rig.connections[-1:]
            if not interrupter.where:
                assert number > 30
                return
        raise AssertionError("it never came to its end")


@contextmanager
def alarm(handler: Callable[[], object], after_s: float = 0.2) -> Iterator[None]:
    def on_alarm(_signal: int, _frame: FrameType | None) -> None:
        handler()

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("timeout", [None, 15])
@pytest.mark.parametrize("kind", [TimeoutError, ConnectionResetError, OSError, ValueError])
def test_what_a_signals_handler_raises_is_not_taken_for_the_connections(rig: Rig, kind: type[Exception], timeout: float | None) -> None:
    target = Target()

    def fail() -> None:
        raise kind("of the handler")

    with rig.server(target), rig.port() as port:
        try:
            with alarm(fail), pytest.raises(kind, match="of the handler"):
                port.options(timeout=timeout).slow(1)
        finally:
            target.may_go_on.set()
        assert port.one(2) == 2


@pytest.mark.parametrize("kind", [TimeoutError, BrokenPipeError, ValueError])
def test_what_a_signals_handler_raises_while_the_other_side_takes_nothing_is_not_taken_for_the_connections(rig: Rig, kind: type[Exception]) -> None:
    rig.local = False
    target = Target()

    def fail() -> None:
        raise kind("of the handler")

    with rig.server(target), rig.port() as port:
        running = port.begin("slow", 1)
        try:
            with alarm(fail), pytest.raises(kind, match="of the handler"):
                port.one(bytes(20_000_000))
        finally:
            target.may_go_on.set()
        assert running.result() == 1 and port.one(2) == 2
        assert len(target.calls) == 2


@pytest.mark.parametrize("how", ["send", "call"])
def test_a_signals_handler_that_uses_the_port_in_the_midst_of_a_message_is_refused_and_spoils_nothing(rig: Rig, how: str) -> None:
    rig.local = False
    target = Target()
    refused: list[str] = []

    with rig.server(target), rig.port() as port:

        def use() -> None:
            try:
                getattr(port.options(timeout=1), how)("one", "from the handler")
            except CallerError as error:
                refused.append(str(error))
            target.may_go_on.set()

        data = bytes(range(256)) * 40_000
        running = port.begin("slow", 1)
        until(lambda: target.calls, "it runs, and reads nothing meanwhile")
        with alarm(use):
            assert port.one(data) == data
        assert running.result() == 1
        assert len(refused) == 1 and "has interrupted a call on it" in refused[0]
        assert target.calls == [1, data]
        assert rig.connected == 1


@pytest.mark.parametrize("what", ["_lock", "_connect"])
def test_a_signals_handler_that_calls_where_its_thread_holds_a_lock_of_the_port_is_refused(rig: Rig, what: str) -> None:
    with rig.server(Target()), rig.port() as port:
        if what == "_connect":
            line: Any = port._ends.line
            line.close()
        with getattr(port._ends, what), pytest.raises(CallerError, match="has interrupted a call on it"):
            port.options(timeout=1).one(1)
        assert port.one(2) == 2


def test_an_item_is_not_taken_in_the_midst_of_a_message(rig: Rig) -> None:
    with rig.server(Target()), rig.port() as port:
        items = port.stream("count", 10_000, 100_000)
        line = port._ends.open(None)
        assert next(items)[0] == 0
        with line.sending, pytest.raises(CallerError, match="has interrupted a call on it"):
            for _ in items:  # until credit is due
                pass
        assert port.one(1) == 1
