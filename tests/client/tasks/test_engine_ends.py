"""The engine of an executor when something ends: a parent, a port, itself; and when somebody reads too slowly."""

import select
import threading
from concurrent.futures import Future

import pytest

from tests.client.tasks.rig import Rig, answer, given, heard
from tests.e2e.system import wait_for
from unios.client.tasks.losses import ExecutorBroken, WorkerLost
from unios.core.task_orders import Loss
from unios.wire.operations import Accepted
from unios.wire.parcels import Bar, Barred, Refused, Stop

pytestmark = pytest.mark.timeout(30)


def test_a_parent_whose_connection_ends_is_asked_after_once_and_costs_what_its_workers_had(rig: Rig) -> None:
    asked: list[int] = []
    rig.engine.inquire = asked.append
    parent = rig.parent(1, 1)
    _id, worker = rig.worker(parent, 1)
    future = rig.submit()
    given(worker)
    parent.end()
    wait_for(lambda: asked, bool, "it is asked after")
    rig.engine.post(rig.engine._parent_over, 1)
    rig.engine.post(rig.engine.crew_told, 1, Loss("node", "was lost with its node n1"))
    with pytest.raises(WorkerLost, match="was lost with its node n1"):
        future.result(10)
    rig.engine.post(rig.engine.crew_told, 1, Loss("node", "said twice"))
    rig.engine.post(rig.engine._parent_over, 1)
    rig.settle()
    assert asked == [1] and len(rig.hired) == 1


def test_what_a_worker_refuses_though_its_parent_says_that_it_has_begun_is_given_again(rig: Rig) -> None:
    parent = rig.parent(1, 2)
    ids, workers = zip(*(rig.worker(parent, 1) for _ in range(2)), strict=True)
    futures = [rig.submit() for _ in range(3)]
    turns = [given(worker).turn for worker in workers]
    rig.settle()
    has_two = next(at for at, id_ in enumerate(ids) if len(rig.engine.tasks._workers[id_].slots) == 2)
    ahead = given(workers[has_two]).turn
    answer(workers[1 - has_two], turns[1 - has_two], "soon")
    bar = heard(parent)[0]
    assert bar == Bar((), ids[has_two], ahead)
    answer(workers[has_two], turns[has_two], "late")
    wait_for(lambda: [future.done() for future in futures].count(True), lambda count: count == 2, "two are done")
    parent.say(Barred((), ids[has_two], ahead, ahead))  # its parent and it have looked at the same moment
    rig.settle()
    workers[has_two].say(Refused((), ahead))
    head = None
    ready, _, _ = select.select([worker.sock for worker in workers], [], [], 10)
    for worker in workers:
        if worker.sock in ready:
            head = given(worker)
            answer(worker, head.turn, "instead")
    assert head is not None and head.turn > ahead
    assert sorted(future.result(10) for future in futures) == ["instead", "late", "soon"]


def test_what_is_submitted_when_the_engine_has_ended_fails(rig: Rig) -> None:
    rig.close()
    future = rig.submit()
    with pytest.raises(ExecutorBroken):
        future.result(10)


def test_a_worker_that_reads_slowly_holds_up_no_other_and_gets_all(rig: Rig) -> None:
    parent = rig.parent(1, 2)
    _id, slow = rig.worker(parent, 1)
    large = rig.submit(bytes(20_000_000))
    _id, quick = rig.worker(parent, 1)
    small = rig.submit()
    answer(quick, given(quick).turn, "quick")
    assert small.result(10) == "quick"
    answer(slow, given(slow).turn, "slow")
    assert large.result(10) == "slow"


def test_a_port_that_is_gone_is_opened_again(rig: Rig) -> None:
    class Gone:
        """A listener whose kernel is gone."""

        def __init__(self) -> None:
            self.closed = False

        def fileno(self) -> int:
            return 1 << 20

        def accept(self) -> tuple[Accepted, object] | None:
            return None

        def close(self) -> None:
            self.closed = True

    opened: Future[None] = Future()
    rig.engine.listen = lambda: opened.set_result(None)
    listener = Gone()
    rig.engine._board.unwatch = lambda _descriptor: None  # type: ignore[method-assign]
    rig.engine.post(rig.engine._accept, listener)
    opened.result(10)
    assert listener.closed and rig.engine._listener is None


def test_workers_are_told_to_stop_when_the_executor_ends(rig: Rig) -> None:
    parent = rig.parent(1, 1)
    _id, worker = rig.worker(parent, 1)
    rig.engine.post(rig.engine.stop)
    assert isinstance(heard(worker)[0], Stop) and isinstance(heard(parent)[0], Stop)
    rig.thread.join(10)
    assert rig.engine.told == {1} and threading.current_thread().is_alive()
