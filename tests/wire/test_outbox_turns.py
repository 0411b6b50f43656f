"""Turns at an outbox of those who have no task: one at a time, in their order, and none is forgotten."""

from collections.abc import Callable
from typing import Any

from unios.core.sequences import PORT
from unios.limits import SEND_AHEAD_BYTES
from unios.wire.outbox import Outbox


class Full:
    """A transport that takes what it is given and sends it when told."""

    def __init__(self) -> None:
        self.queued = 0
        self.on_room: Callable[[], None] = lambda: None

    def write(self, data: Any, _descriptors: object = ()) -> None:
        self.queued += len(data)

    def send_all(self) -> None:
        self.queued = 0
        self.on_room()

    def send_ahead(self, _size: int) -> None:
        pass

    def close(self, _why: str = "") -> None:
        pass


def full_outbox() -> tuple[Full, Outbox]:
    transport: Any = Full()
    outbox = Outbox(transport)
    outbox.send(bytes(SEND_AHEAD_BYTES + 1), (), PORT)
    return transport, outbox


def test_who_waits_for_his_turn_is_called_when_there_is_room_one_at_a_time_in_order() -> None:
    transport, outbox = full_outbox()
    called: list[str] = []
    for name in "abc":
        outbox.when_turn(lambda name=name: called.append(name))  # type: ignore[misc]
    assert not called
    transport.send_all()
    assert called == ["a"]
    outbox.pass_turn()
    assert called == ["a", "b"]
    outbox.send(bytes(SEND_AHEAD_BYTES + 1), (), PORT)
    outbox.pass_turn()
    assert called == ["a", "b"]
    transport.send_all()
    assert called == ["a", "b", "c"]


def test_who_has_been_forgotten_is_not_called() -> None:
    transport, outbox = full_outbox()
    called: list[str] = []

    def first() -> None:
        called.append("first")

    outbox.when_turn(first)
    outbox.when_turn(lambda: called.append("second"))
    outbox.forget_turn(first)
    transport.send_all()
    assert called == ["second"]


def test_the_end_of_the_connection_calls_all() -> None:
    _transport, outbox = full_outbox()
    called: list[str] = []
    for name in "abc":
        outbox.when_turn(lambda name=name: called.append(name))  # type: ignore[misc]
    outbox.close()
    assert called == ["a", "b", "c"]
