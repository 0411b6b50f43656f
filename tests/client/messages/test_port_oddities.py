"""Ports: exceptions whose classes raise, and calls that are withdrawn while another one runs."""

import threading
import time
from typing import Any, NoReturn

import pytest

from tests.client.messages.rig import Rig, until
from tests.client.messages.target import Target
from unios.client.messages.server import LASTING_S
from unios.errors import OutcomeUnknown, UniosError


class Refuses(Exception):
    """An exception whose class raises, not an error of pickle's, when it is pickled."""

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not this one")


class RefusesToBeRead(Exception):
    def __init__(self, *args: Any) -> None:
        if args == ("arrives",):
            raise RuntimeError("not this one either")
        super().__init__(*args)

    def __reduce__(self) -> Any:
        return RefusesToBeRead, ("arrives",)


@pytest.mark.parametrize("error", [Refuses, RefusesToBeRead])
def test_an_exception_whose_class_raises_when_it_travels_is_told(rig: Rig, error: type[Exception]) -> None:
    def fail() -> None:
        raise error("as it is")

    with rig.server({"fail": fail, "one": lambda value: value}), rig.port() as port:
        with pytest.raises(UniosError) as caught:
            port.options(timeout=1).fail()
        assert not isinstance(caught.value, OutcomeUnknown)
        assert port.one(1) == 1 and rig.connected == 1


def test_a_call_that_is_cancelled_before_it_begins_is_not_done_though_it_was_read_with_another(rig: Rig) -> None:
    target = Target()
    gate, running = threading.Event(), threading.Event()

    def first(_value: int) -> None:
        running.set()
        gate.wait(20)

    with rig.server({"first": first, "slow": target.slow, "one": target.one}), rig.port() as port:
        before = port.begin("first", 0)
        assert running.wait(20)
        second, third = port.begin("slow", 1), port.begin("one", "unwanted")  # both lie in the socket, and are read together
        gate.set()
        until(lambda: target.calls, "the second one runs")
        third.cancel()
        begun = time.monotonic()
        until(lambda: time.monotonic() - begun > LASTING_S, "it has lasted for so long that it is looked whether others were withdrawn")
        target.may_go_on.set()
        assert before.result() is None and second.result() == 1
        assert port.one(2) == 2
        assert target.calls == [1, 2]


def test_a_stream_whose_end_ends_programs_when_it_is_stopped_ends_nothing_but_itself(rig: Rig) -> None:
    class Ends:
        def items(self) -> Any:
            try:
                while True:
                    yield bytes(3_000_000)
            finally:
                raise SystemExit

        def one(self, value: int) -> int:
            return value

    with rig.server(Ends()) as server, rig.port() as port:
        items = port.options(timeout=20).stream("items")
        next(items)
        session = next(iter(server._sessions._found.values()))
        until(lambda: (streams := list(session.streams.values())) and streams[0]._begun.room <= 0, "it waits for room")
        items.close()
        assert port.options(timeout=20).one(1) == 1
        assert rig.connected == 1
