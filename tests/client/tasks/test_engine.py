"""The engine of an executor without a kernel: what it makes of what parents and workers say."""

import contextlib
import errno
import gc
import os
import pickle
import signal
import sys
import threading
import weakref
from concurrent.futures import CancelledError, Future
from typing import Any, NoReturn

import pytest

from tests.client.tasks.rig import Rig, answer, given, heard, submit
from tests.e2e.system import wait_for
from unios.client.tasks import engine as module
from unios.client.tasks.calls import Call
from unios.client.tasks.future import TaskFuture
from unios.client.tasks.losses import ExecutorBroken, WorkerLost
from unios.client.tasks.values import pack, pack_failure, unpack
from unios.core.crews import Crew
from unios.errors import Unavailable
from unios.wire import parcels
from unios.wire.gathering import room_for
from unios.wire.parcels import (
    Answer,
    Bar,
    Barred,
    Fork,
    Gone,
    Kill,
    Ready,
    Stop,
    Submit,
    Unwanted,
    Welcome,
    head_of,
    sizes_of,
)

pytestmark = pytest.mark.timeout(30)


def test_a_call_goes_to_a_worker_and_its_answer_to_the_future(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    _id, worker = rig.worker(parent, 1)
    first, second = rig.submit(), rig.submit()
    one, two = given(worker), given(worker)
    assert one.fresh and not two.fresh and first.running() and not second.running()
    answer(worker, one.turn, "a")
    answer(worker, two.turn, "b")
    assert (first.result(10), second.result(10)) == ("a", "b")


def test_an_answer_to_another_turn_than_the_one_that_runs_is_nobodys(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    _id, worker = rig.worker(parent, 1)
    first, second = rig.submit(), rig.submit()
    one, two = given(worker), given(worker)
    answer(worker, two.turn, "wrong")
    answer(worker, one.turn - 1, "wrong")
    answer(worker, one.turn, "right")
    answer(worker, one.turn, "again")
    assert first.result(10) == "right"
    rig.settle()
    assert not second.done()


def test_a_worker_that_is_gone_is_heard_no_more(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    future = rig.submit(retries=1)
    turn = given(worker).turn
    parent.say(Gone((), id_, signal.SIGKILL, turn, False))
    id_, another = rig.worker(parent, 1)
    assert given(another).turn != turn
    with contextlib.suppress(OSError):
        answer(worker, turn, "stale")
        answer(worker, turn + 1, "stale")
    rig.settle()
    assert not future.done()
    answer(another, turn + 1, "right")
    assert future.result(10) == "right"


def test_what_a_worker_said_before_it_ended_counts(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    future = rig.submit()
    turn = given(worker).turn
    parent.say(Gone((), id_, signal.SIGKILL, turn, False))
    rig.settle()
    rig.settle()
    answer(worker, turn, "it was done")
    assert future.result(10) == "it was done"


def test_half_an_answer_is_none(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    future = rig.submit()
    turn = given(worker).turn
    parts = pack(bytes(100_000), "it")
    data = head_of(Answer(sizes_of(parts), turn, False)) + b"".join(map(bytes, parts))
    worker.sock.sendall(data[: len(data) // 2])
    worker.end()
    parent.say(Gone((), id_, signal.SIGKILL, turn, False))
    assert isinstance(future.exception(10), WorkerLost)


def test_a_connection_that_ends_has_its_worker_killed_and_the_call_fails_when_that_is_told(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    future = rig.submit()
    turn = given(worker).turn
    worker.end()
    assert heard(parent)[0] == Kill((), id_) and not future.done()
    parent.say(Gone((), id_, signal.SIGKILL, turn, False))
    error = future.exception(10)
    assert isinstance(error, WorkerLost) and error.why == "died" and "SIGKILL" in str(error) and "if the executor has `retries`" in str(error)


@pytest.mark.parametrize(
    ("status", "memory", "why", "said"), [(9, True, "memory", "want of memory on node n1"), (256, False, "died", "exit code 1 on node n1")]
)
def test_how_a_worker_ended_is_said(rig: Rig, status: int, memory: bool, why: str, said: str) -> None:
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    future = rig.submit()
    parent.say(Gone((), id_, status, given(worker).turn, memory))
    error = future.exception(10)
    assert isinstance(error, WorkerLost) and error.why == why and said in str(error)


def test_what_ends_every_worker_that_takes_it_in_fails_and_says_so(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    future = rig.submit()
    for _ in range(3):
        id_, worker = rig.worker(parent, 1)
        given(worker)
        parent.say(Gone((), id_, signal.SIGKILL, 0, True))
    error = future.exception(10)
    assert isinstance(error, WorkerLost) and error.why == "memory" and "never begun" in str(error) and "may have" not in str(error)


def test_a_crew_that_is_lost_while_its_tasks_submit_costs_its_calls_only(rig: Rig) -> None:
    """The last words of its workers are taken in before: what follows from them concerns the crew that is being buried."""
    parent = rig.parent(1, 2)
    workers = [rig.worker(parent, 1)[1] for _ in range(2)]
    futures = [rig.submit() for _ in range(2)]
    for worker in workers:
        given(worker)
    with rig.losing(1):
        for worker in workers:
            submit(worker, 1)
            submit(worker, 2)
    assert all(isinstance(future.exception(10), WorkerLost) for future in futures)
    assert rig.engine.broken is None and rig.hired == [Crew(2, 1000, 0)]
    parent = rig.parent(2, 1)
    _id, worker = rig.worker(parent, 2)
    while True:  # what the lost ones submitted is done for nobody
        turn = given(worker).turn
        answer(worker, turn, turn)
        rig.settle()
        if not rig.engine.tasks.unfinished:
            break
    future = rig.submit()
    answer(worker, given(worker).turn, "on it goes")
    assert future.result(10) == "on it goes"


def test_the_last_answer_of_a_lost_crew_frees_nobody_in_it_for_more(rig: Rig) -> None:
    parent = rig.parent(1, 2)
    outer, inner = (rig.worker(parent, 1)[1] for _ in range(2))
    first = rig.submit()
    given(outer)
    submit(outer, 1)
    turn = given(inner).turn
    others = [rig.submit() for _ in range(10)]
    third = rig.worker(parent, 1)[1]  # in the stead of the one that waits
    for _ in range(4):
        given(third)
    rig.settle()
    assert rig.engine.tasks.waiting
    with rig.losing(1):
        answer(inner, turn, 1)  # so the outer one does not wait any more
    assert isinstance(first.exception(10), WorkerLost)
    rig.settle()
    assert rig.engine.broken is None and rig.hired == [Crew(2, 1000, 0)] and not all(other.done() for other in others)


def test_a_broken_executor_fails_everything_and_lets_its_processes_go(rig: Rig) -> None:
    parent = rig.parent(1, 2)
    _id, worker = rig.worker(parent, 1)
    fork = heard(parent)[0]
    assert isinstance(fork, Fork)
    second = rig.connect(1, fork.worker)
    heard(second)
    future = rig.submit()
    given(worker)
    failure = pack_failure(KeyError("no"))
    second.say(Ready(sizes_of(failure)), failure)
    error = future.exception(10)
    assert isinstance(error, ExecutorBroken) and isinstance(error.__cause__, KeyError)
    assert isinstance(heard(worker)[0], Stop) and isinstance(heard(parent)[0], Stop)
    rig.thread.join(10)
    late = rig.submit()
    assert isinstance(late.exception(10), ExecutorBroken) and not rig.hired


def test_each_call_of_a_broken_executor_has_an_exception_of_its_own(rig: Rig) -> None:
    """One that all shared would have the traceback of each who catches it."""
    futures = [rig.submit() for _ in range(3)]
    rig.engine.post(rig.engine.fail, "no more", KeyError("why"))
    errors = [future.exception(10) for future in (*futures, rig.submit())]
    assert len(set(map(id, errors))) == 4
    assert all(isinstance(error, ExecutorBroken) and str(error) == "no more" and isinstance(error.__cause__, KeyError) for error in errors)


class Nothing(Exception):
    """Counts as false."""

    def __len__(self) -> int:
        return 0


def test_an_exception_that_counts_as_false_is_raised_all_the_same(rig: Rig) -> None:
    _id, worker = rig.worker(rig.parent(1, 1), 1)
    future = rig.submit()
    failure = pack_failure(Nothing("is wrong"))
    worker.say(Answer(sizes_of(failure), given(worker).turn, True), failure)
    with pytest.raises(Nothing, match="is wrong"):
        future.result(10)
    assert isinstance(future.exception(0), Nothing)


class Leaves:
    """Ends whoever makes it again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (3,)


def test_a_result_that_raises_an_exit_when_it_is_made_again_ends_its_own_call_only(rig: Rig) -> None:
    _id, worker = rig.worker(rig.parent(1, 1), 1)
    future, other = rig.submit(), rig.submit()
    answer(worker, given(worker).turn, Leaves())
    assert isinstance(future.exception(10), SystemExit)
    answer(worker, given(worker).turn, 5)
    assert other.result(10) == 5 and rig.engine.broken is None


def test_a_callback_that_raises_an_exit_ends_nothing_else(rig: Rig) -> None:
    _id, worker = rig.worker(rig.parent(1, 1), 1)
    future, other = rig.submit(), rig.submit()
    seen: list[object] = []
    future.add_done_callback(lambda _future: sys.exit(3))
    future.add_done_callback(seen.append)
    answer(worker, given(worker).turn, 4)
    answer(worker, given(worker).turn, 5)
    assert other.result(10) == 5 and future.result(0) == 4 and seen == [future] and rig.engine.broken is None


def test_who_is_killed_is_killed_before_its_parent_is_told_to_end(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    running = rig.submit()
    given(worker)
    rig.engine.post(rig.engine.clear)
    rig.engine.post(rig.engine.kill)
    assert isinstance(running.exception(10), ExecutorBroken)
    kill = heard(parent)[0]
    assert isinstance(kill, Kill) and kill.worker == id_ and isinstance(heard(parent)[0], Stop)


def test_who_wakes_an_engine_that_has_ended_touches_no_descriptor_of_others(rig: Rig) -> None:
    rig.engine.post(rig.engine.stop)
    rig.thread.join(10)
    rig.engine.release()
    taken = os.eventfd(0, os.EFD_NONBLOCK)
    others = [taken] + [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(8)]
    rig.engine._asleep = True  # as a thread saw it that was then kept from going on
    rig.engine.post(rig.engine.stop)
    for other in others:
        with pytest.raises(BlockingIOError):
            os.eventfd_read(other)
        os.close(other)


@pytest.mark.parametrize("busy", [False, True])
def test_what_was_cancelled_before_the_engine_took_it_in_is_not_sent(rig: Rig, busy: bool) -> None:
    parent = rig.parent(1, 1)
    _id, worker = rig.worker(parent, 1)
    rig.settle()
    if busy:
        rig.submit("before")
        given(worker)
    held: Future[None] = Future()
    rig.engine.post(held.result, 10)
    future, after = rig.submit("cancelled"), rig.submit("after")
    assert future.cancel() and future.cancelled()
    held.set_result(None)
    _head, parts = heard(worker)
    assert unpack(parts[-1:]) == "after" and not after.cancelled()
    rig.settle()
    assert future._state == "CANCELLED_AND_NOTIFIED"


def test_who_runs_for_nobody_is_told_and_its_outcome_stands(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    future = rig.submit()
    turn = given(worker).turn
    assert not future.cancel() and heard(parent)[0] == Unwanted((), id_, turn)
    answer(worker, turn, "all the same")
    assert future.result(10) == "all the same" and not future.cancel()


def test_clearing_cancels_what_waits_and_what_lies_ahead(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    futures = [rig.submit() for _ in range(9)]
    one = given(worker)
    rig.engine.post(rig.engine.clear)
    bar = heard(parent)[0]
    assert isinstance(bar, Bar)
    parent.say(Barred((), id_, bar.turn, one.turn))
    for future in futures[1:]:
        with pytest.raises(CancelledError):
            future.result(10)
    answer(worker, one.turn, "begun")
    assert futures[0].result(10) == "begun"


def test_submission_waits_while_too_much_is_queued(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TASKS_UNFINISHED_MAX", 2)
    parent = rig.parent(1, 1)
    _id, worker = rig.worker(parent, 1)
    futures = [rig.submit(), rig.submit()]
    rig.settle()
    third: Future[TaskFuture] = Future()
    thread = threading.Thread(target=lambda: third.set_result(rig.submit()))
    thread.start()
    turn = given(worker).turn
    given(worker)
    wait_for(lambda: rig.engine._waiters, bool, "it waits")
    rig.settle()
    assert not third.done()
    answer(worker, turn, 1)
    assert futures[0].result(10) == 1 and third.result(10) is not None
    thread.join()


def test_the_bytes_that_wait_are_bounded_too_with_those_of_closures(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TASKS_WAITING_BYTES_MAX", 10_000)
    rig.submit(bytes(9_000))
    rig.settle()
    assert not rig.engine._is_full()
    rig.engine.submit(Call(TaskFuture(), b"g", bytes(2_000), [], False, 0, own_bytes=2_000))
    rig.settle()
    assert rig.engine._is_full()


def test_a_task_that_submits_without_end_is_told_that_there_is_no_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TASKS_UNFINISHED_MAX", 3)
    parent = rig.parent(1, 1)
    _id, worker = rig.worker(parent, 1)
    rig.submit()
    given(worker)
    for number in range(1, 4):
        submit(worker, number)
    head, parts = heard(worker)
    assert isinstance(head, Answer) and head.failed and head.turn == 3
    error = unpack(parts)[0]
    assert isinstance(error, Unavailable) and "have not ended" in str(error)


def test_what_the_program_has_no_memory_for_costs_its_own_call_only(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(size: int) -> memoryview:
        if size > 100_000:
            raise MemoryError
        return room_for(size)

    monkeypatch.setattr(parcels, "room_for", scarce)
    parent = rig.parent(1, 1)
    _id, worker = rig.worker(parent, 1)
    large, small = rig.submit(), rig.submit()
    answer(worker, given(worker).turn, bytes(200_000))
    with pytest.raises(MemoryError, match=r"for 2000\d\d bytes: what came of the call, which was carried out"):
        large.result(10)
    turn = given(worker).turn
    parts = [bytes(200_000), *pack(((1,), {}), "it")]
    worker.say(Submit(sizes_of(parts), 5, b"g", False, 0), parts)
    head, parts = heard(worker)
    assert isinstance(head, Answer) and head.failed and head.turn == 5
    error = unpack(parts)[0]
    assert isinstance(error, MemoryError) and "the function and its arguments" in str(error)
    answer(worker, turn, "small")
    assert small.result(10) == "small"


def test_an_initializer_failed_also_if_there_is_no_memory_for_how(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(_size: int) -> NoReturn:
        raise OSError(errno.ENOMEM, "none")

    monkeypatch.setattr(parcels, "room_for", scarce)
    parent = rig.parent(1, 1)
    future = rig.submit()
    fork = heard(parent)[0]
    assert isinstance(fork, Fork)
    worker = rig.connect(1, fork.worker)
    heard(worker)
    parts = pack_failure(ValueError("x" * 100_000))
    worker.say(Ready(sizes_of(parts)), parts)
    with pytest.raises(ExecutorBroken, match="the initializer failed in a worker"):
        future.result(10)


@pytest.mark.parametrize("parting_s", [0.05, 1_000])
def test_references_of_a_call_are_kept_until_it_has_ended_and_a_moment_longer(rig: Rig, monkeypatch: pytest.MonkeyPatch, parting_s: float) -> None:
    class Reference:
        id, node, nbytes = "a", "n1", 5

    monkeypatch.setattr(module, "PARTING_S", parting_s)
    parent = rig.parent(1, 1)
    _id, worker = rig.worker(parent, 1)
    ref = Reference()
    seen, future = weakref.ref(ref), TaskFuture()
    rig.engine.submit(Call(future, b"f", pickle.dumps(abs), [], False, 0, refs=[ref]))
    del ref
    turn = given(worker).turn
    rig.settle()
    gc.collect()
    assert seen() is not None
    answer(worker, turn, 1)
    assert future.result(10) == 1
    rig.settle()
    gc.collect()
    if parting_s > 1:
        assert seen() is not None
        rig.close()
    wait_for(lambda: seen() is None, bool, "it is let go")


@pytest.mark.parametrize("stranger", ["another user", "no secret", "no such crew", "twice"])
def test_strangers_get_no_welcome(rig: Rig, stranger: str) -> None:
    rig.parent(1, 1)
    rig.engine.post(rig.engine.hired, 2, Crew(1, 1000, 0))
    options: dict[str, Any] = {"another user": {"user": "you"}, "no secret": {"secret": b"x" * 32}}.get(stranger, {})
    talk = rig.connect({"no such crew": 7, "twice": 1}.get(stranger, 2), 0, **options)
    assert talk.hear() is None
    assert isinstance(heard(rig.connect(2, 0))[0], Welcome)


def test_garbage_ends_its_own_connection_only(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    id_, worker = rig.worker(parent, 1)
    future = rig.submit(retries=1)
    turn = given(worker).turn
    worker.sock.sendall(b"\0\0\0\2\x93\1" + os.urandom(50))
    assert heard(parent)[0] == Kill((), id_)
    parent.say(Gone((), id_, signal.SIGKILL, turn, False))
    _id, another = rig.worker(parent, 1)
    answer(another, given(another).turn, "done")
    assert future.result(10) == "done"
