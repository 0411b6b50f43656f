"""The executor inside its own tasks, without a kernel: the test is the program that has it."""

import errno
import socket
from typing import NoReturn

import pytest

from tests.client.tasks.rig import answer, heard
from unios.client.tasks.nested import Seat
from unios.client.tasks.talk import Talk
from unios.wire import parcels
from unios.wire.parcels import Submit


def test_what_a_task_has_no_memory_for_costs_its_own_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(_size: int) -> NoReturn:
        raise OSError(errno.ENOMEM, "none")

    monkeypatch.setattr(parcels, "room_for", scarce)
    program, talk = (Talk(sock) for sock in socket.socketpair())
    seat = Seat(talk, "executor/it")
    futures = [seat.submit(bytes, ((size,), {}), many=False, retries=0) for size in (100_000, 1)]
    numbers = []
    for _ in futures:
        head, _parts = heard(program)
        assert isinstance(head, Submit)
        numbers.append(head.number)
    for number, size in zip(numbers, (100_000, 1), strict=True):
        answer(program, number, bytes(size))
    with pytest.raises(MemoryError, match=r"for 1000\d\d bytes: what came of the call, which was carried out"):
        futures[0].result(10)
    assert futures[1].result(10) == bytes(1)
    program.end()
    assert seat.hear() is None
