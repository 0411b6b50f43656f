"""The executor inside its own tasks, without a kernel: the test is the program that has it."""

import errno
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import NoReturn

import pytest

from tests.client.tasks.rig import answer, heard
from unios.client.tasks import nested
from unios.client.tasks.future import TaskFuture
from unios.client.tasks.losses import WorkerLost
from unios.client.tasks.nested import Inner, Seat
from unios.client.tasks.talk import Talk
from unios.client.tasks.values import pack_failure
from unios.errors import Misused
from unios.wire import parcels
from unios.wire.parcels import Answer, Give, Submit, Withdraw, Withdrawn, sizes_of


class Inside:
    """A task that submits; the test has the other end of its worker's connection."""

    def __init__(self) -> None:
        self.program, self.talk = (Talk(sock) for sock in socket.socketpair())
        self.program.sock.settimeout(10)
        self.seat = Seat(self.talk, "executor/it")

    def submit(self) -> tuple[int, TaskFuture]:
        future = self.seat.submit(abs, ((1,), {}), many=False, retries=0)
        head, _parts = heard(self.program)
        assert isinstance(head, Submit) and isinstance(future, TaskFuture)
        return head.number, future


@pytest.fixture
def inside() -> Iterator[Inside]:
    made = Inside()
    yield made
    made.program.end()
    assert made.seat.hear() is None
    made.talk.end()


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


def test_answers_go_to_who_has_submitted_and_tasks_to_the_worker(inside: Inside) -> None:
    (one, first), (two, second) = inside.submit(), inside.submit()
    inside.program.say(Give((), 7, b"f"))
    parts = pack_failure(ValueError("no"))
    inside.program.say(Answer(sizes_of(parts), two, True), parts)
    answer(inside.program, one, "one")
    answer(inside.program, 99, "nobody's")
    assert first.result(10) == "one"
    with pytest.raises(ValueError, match="no"):
        second.result(10)
    head = inside.seat.hear()
    assert head is not None and head[0] == Give((), 7, b"f")


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_who_cancels_hears_what_became_of_it(inside: Inside, is_cancelled: bool) -> None:
    number, future = inside.submit()

    def decide() -> None:
        assert heard(inside.program)[0] == Withdraw((), number)
        inside.program.say(Withdrawn((), number, is_cancelled))

    thread = threading.Thread(target=decide)
    thread.start()
    assert future.cancel() is is_cancelled
    thread.join(10)
    if is_cancelled:
        with pytest.raises(CancelledError):
            future.result(10)
    else:
        answer(inside.program, number, "goes on")
        assert future.result(10) == "goes on"
    assert not inside.seat._futures and not inside.seat._withdrawn


def test_what_is_awaited_is_lost_with_the_connection_and_who_cancels_is_told(inside: Inside) -> None:
    _number, future = inside.submit()
    inside.program.end()
    with pytest.raises(WorkerLost, match="the connection to the executor has ended"):
        future.result(10)
    assert not future.cancel()


def test_a_process_that_a_task_has_forked_has_no_executor(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    _number, future = inside.submit()
    monkeypatch.setattr(inside.seat, "_pid", 1)
    with pytest.raises(RuntimeError, match="the task that this process was forked from"):
        inside.seat.submit(abs, ((1,), {}), many=False, retries=0)
    inside.seat.take_back(future)
    inside.seat.forgone(future)
    with pytest.raises(RuntimeError, match="this future belongs to the program"):
        future.result(0)
    monkeypatch.undo()
    inside.program.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        inside.program.sock.recv(1)


def test_an_executor_of_another_program_is_refused(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Misused):
        Inner("executor/it", 0).submit(abs, 1)
    monkeypatch.setattr(nested, "_seat", inside.seat)
    with pytest.raises(Misused):
        Inner("executor/another", 0).submit(abs, 1)


def test_who_cancels_what_has_ended_meanwhile_is_told_by_its_answer(inside: Inside) -> None:
    number, future = inside.submit()

    def end() -> None:
        assert heard(inside.program)[0] == Withdraw((), number)
        answer(inside.program, number, "it has ended")

    thread = threading.Thread(target=end)
    thread.start()
    assert not future.cancel()
    thread.join(10)
    assert future.result(10) == "it has ended" and not inside.seat._withdrawn


def test_what_is_forgone_is_withdrawn_and_nobody_waits(inside: Inside) -> None:
    number, future = inside.submit()
    inside.seat.forgone(future)
    assert heard(inside.program)[0] == Withdraw((), number)
