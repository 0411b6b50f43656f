"""Cancelling what was given to a worker: what is said to who cancels, and that it stands."""

import threading
from concurrent.futures import CancelledError, Future

import pytest

from tests.client.tasks.rig import Rig, answer, given, heard, submit
from tests.e2e.system import wait_for
from unios.client.tasks import engine, withdrawals
from unios.client.tasks.future import TaskFuture
from unios.client.tasks.losses import ExecutorBroken
from unios.client.tasks.talk import Talk
from unios.client.tasks.values import unpack
from unios.core.task_states import AHEAD
from unios.wire.parcels import Answer, Bar, Barred, Give, Unwanted, Withdraw, Withdrawn

pytestmark = pytest.mark.timeout(30)


def test_what_lies_ahead_is_cancelled_when_the_parent_says_so_and_not_before(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    first, second = rig.submit(), rig.submit()
    one, two = given(worker), given(worker)
    told: Future[bool] = Future()
    thread = threading.Thread(target=lambda: told.set_result(second.cancel()))
    thread.start()
    assert heard(parent)[0] == Bar((), id_, two.turn)
    assert not told.done()
    parent.say(Barred((), id_, two.turn, one.turn))
    assert told.result(10) and second.cancelled() and not first.cancel()
    thread.join()
    answer(worker, one.turn, 1)
    assert first.result(10) == 1


def cancelling(future: TaskFuture) -> "Future[bool]":
    """Cancel it in another thread."""
    told: Future[bool] = Future()
    threading.Thread(target=lambda: told.set_result(future.cancel()), daemon=True).start()
    return told


def test_what_cancel_has_said_stands_though_it_is_decided_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent that is stopped does not answer."""
    monkeypatch.setattr(engine, "TASK_CANCEL_MS", 50)
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    rig.submit()
    one = given(worker)
    values = range(2, 7)
    futures = [rig.submit(value) for value in values]
    last = [given(worker).turn for _ in range(AHEAD)][-1]
    assert not futures[0].cancel() and not futures[0].done()
    bar = heard(parent)[0]
    assert isinstance(bar, Bar)
    parent.say(Barred((), id_, bar.turn, one.turn))
    answer(worker, one.turn, 1)
    for value, future in zip(values, futures, strict=True):
        head, parts = heard(worker)
        assert isinstance(head, Give) and head.turn > last and unpack(parts[-1:]) == value
        answer(worker, head.turn, value)
        assert future.result(10) == value


@pytest.mark.parametrize("again", ["cancel", "clear"])
def test_what_was_not_to_be_had_back_is_cancelled_by_who_says_so_again(rig: Rig, monkeypatch: pytest.MonkeyPatch, again: str) -> None:
    monkeypatch.setattr(engine, "TASK_CANCEL_MS", 50)
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    rig.submit()
    one = given(worker)
    future = rig.submit()
    given(worker)
    assert not future.cancel()
    bar = heard(parent)[0]
    assert isinstance(bar, Bar)
    monkeypatch.setattr(engine, "TASK_CANCEL_MS", 10_000)
    if again == "clear":
        rig.engine.post(rig.engine.clear)
        rig.settle()
        parent.say(Barred((), id_, bar.turn, one.turn))
    else:
        told = cancelling(future)
        wait_for(lambda: future._stays, lambda stays: not stays, "it asks again")
        parent.say(Barred((), id_, bar.turn, one.turn))
        assert told.result(10)
    with pytest.raises(CancelledError):
        future.result(10)


def test_who_cancels_is_told_when_the_engine_ends(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    _id, worker = rig.worker(parent, 1)
    futures = [rig.submit(), rig.submit()]
    for _future in futures:
        given(worker)
    told = cancelling(futures[1])
    assert isinstance(heard(parent)[0], Bar)
    rig.engine.post(rig.engine.fail, "it ends")
    assert told.result(1) is False and isinstance(futures[1].exception(1), ExecutorBroken)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_who_cancels_is_told_when_a_defect_ends_the_engine(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    _id, worker = rig.worker(parent, 1)
    futures = [rig.submit(), rig.submit()]
    for _future in futures:
        given(worker)
    told = cancelling(futures[1])
    assert isinstance(heard(parent)[0], Bar)
    rig.engine.post(lambda: 1 / 0)
    assert told.result(1) is False
    late = TaskFuture()
    late.bind(99, rig.engine)
    late.lie_ahead()
    assert cancelling(late).result(1) is False


def withdrawn(talk: Talk, number: int) -> bool:
    head = heard(talk)[0]
    assert isinstance(head, Withdrawn) and head.number == number, head
    return head.cancelled


@pytest.fixture
def submitter(rig: Rig) -> tuple[Talk, Talk, Talk]:
    """Return a parent, a worker whose task has submitted 1 to 6, and the other, which has begun 1 and has 2 to 4 ahead."""
    rig.engine.tasks._workers_bound = 2
    parent = rig.parent(1, 2)
    outer, inner = (rig.worker(parent, 1)[1] for _ in range(2))
    rig.submit()
    given(outer)
    for number in range(1, 7):
        submit(outer, number)
        rig.settle()
    for _number in range(4):
        given(inner)
    return parent, outer, inner


def test_a_task_cancels_what_it_has_submitted_and_what_waits(rig: Rig, submitter: tuple[Talk, Talk, Talk]) -> None:
    outer = submitter[1]
    for number in (5, 6):
        outer.say(Withdraw((), number))
        assert withdrawn(outer, number)
    assert rig.engine.tasks.unfinished == 5
    outer.say(Withdraw((), 5))  # of which nothing more is said
    outer.say(Withdraw((), 77))
    outer.say(Withdraw((), 1))
    assert not withdrawn(outer, 1)


def test_a_task_cancels_what_lies_ahead_when_the_parent_says_so(rig: Rig, submitter: tuple[Talk, Talk, Talk]) -> None:
    parent, outer, _inner = submitter
    outer.say(Withdraw((), 2))
    bar = heard(parent)[0]
    assert isinstance(bar, Bar)
    rig.settle()
    assert rig.engine._withdrawals
    parent.say(Barred((), bar.worker, bar.turn, bar.turn - 3))
    assert withdrawn(outer, 2) and not rig.engine._withdrawals


def test_a_task_is_told_when_that_takes_too_long_and_then_it_goes_on(
    rig: Rig, submitter: tuple[Talk, Talk, Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "TASK_CANCEL_MS", 50)
    parent, outer, inner = submitter
    outer.say(Withdraw((), 2))
    bar = heard(parent)[0]
    assert isinstance(bar, Bar) and not withdrawn(outer, 2)
    parent.say(Barred((), bar.worker, bar.turn, bar.turn - 3))
    answer(inner, bar.turn - 3, "one")
    assert heard(outer)[0].turn == 1  # type: ignore[union-attr]
    turn = given(inner).turn
    assert turn > bar.turn
    answer(inner, turn, "two")
    head, parts = heard(outer)
    assert isinstance(head, Answer) and head.turn == 2 and unpack(parts) == "two"


def test_a_task_that_was_told_so_may_ask_again(rig: Rig, submitter: tuple[Talk, Talk, Talk], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdrawals, "TASK_CANCEL_MS", 50)
    parent, outer, _inner = submitter
    outer.say(Withdraw((), 2))
    bar = heard(parent)[0]
    assert isinstance(bar, Bar) and not withdrawn(outer, 2)
    monkeypatch.setattr(withdrawals, "TASK_CANCEL_MS", 10_000)
    outer.say(Withdraw((), 2))
    wait_for(lambda: rig.engine._withdrawals, bool, "it asks again")
    parent.say(Barred((), bar.worker, bar.turn, bar.turn - 3))
    assert withdrawn(outer, 2)


def test_what_a_task_cancels_too_late_is_told_that_nobody_waits(submitter: tuple[Talk, Talk, Talk]) -> None:
    parent, outer, _inner = submitter
    outer.say(Withdraw((), 1))
    assert not withdrawn(outer, 1) and isinstance(heard(parent)[0], Unwanted)
