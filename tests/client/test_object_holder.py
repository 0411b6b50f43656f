"""A holder of objects without a kernel: the test is the programs that call it, and the holders of other nodes."""

import gc
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.descriptors import descriptors
from unios.client.messages import memory
from unios.client.messages.server import current_caller
from unios.client.objects import holder as module
from unios.client.objects.holder import Holder
from unios.client.objects.tie import Gone
from unios.errors import DataLost, NotFound, OutcomeUnknown, PeerRestarted, Unavailable, UniosError
from unios.object_limits import OBJECT_AWAY_MS
from unios.wire.objects import Known
from unios.wire.operations import Accepted

MEGA = 1_000_000


class Far:
    """The tie to another node's holder."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        self.fetched = 0
        self.answers: Callable[[], list[bytearray]] = lambda: [bytearray(b"far")]

    def post(self, work: Callable[[], object]) -> None:
        work()

    def hold(self, known: Known, token: str) -> None:
        self.said.append(("hold", known[0]))

    def drop(self, id_: str) -> None:
        self.said.append(("drop", id_))

    def wait(self, op: str, _id: str, *, deadline: float | None) -> list[bytearray]:
        assert op == "fetch"
        self.fetched += 1
        return self.answers()


class Rig:
    """A holder of node n1; n2 is `far`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **bounds: int) -> None:
        self.now = 1_000_000
        monkeypatch.setattr(module, "now_ms", lambda: self.now)
        self.far = Far()
        monkeypatch.setattr(Holder, "_tie", lambda _holder, node: {"n2": self.far}[node])
        self.holder = Holder("n1", str(folder), **({"memory_bytes_max": 3 * MEGA, "disk_bytes_max": 100 * MEGA, "files_max": 10_000} | bounds))

    def __call__(self, stamp: Accepted, op: str, *args: Any) -> Any:
        """Call an operation as the program behind a connection."""
        before = current_caller.set(stamp)
        try:
            return getattr(self.holder, op)(*args)
        finally:
            current_caller.reset(before)

    def put(self, stamp: Accepted, id_: str, size: int = 100, inside: tuple[Known, ...] = (), *, born: bool = False) -> Any:
        return self(stamp, "put", id_, shared(size), list(inside), born)

    def statistics(self) -> dict[str, int]:
        return self.holder.statistics()


def shared(size: int) -> list[memoryview]:
    """Return data as the line of a holder receives it: in shared memory that is only kept here."""
    return [memory.settle(memory.gather(size))]


def program(node: str = "n1") -> Accepted:
    return Accepted(1, "port", "me", False, node)


def known(id_: str, node: str = "n1", size: int = 100) -> Known:
    return id_, node, size


def content(found: tuple[bool, list[pickle.PickleBuffer]] | None) -> bytes:
    assert found is not None
    return b"".join(bytes(one) for one in found[1])


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    gc.collect()
    before = descriptors()
    made = Rig(tmp_path, monkeypatch)
    yield made
    made.holder._data.clear()
    made.holder._dropped.clear()
    gc.collect()
    assert descriptors() <= before, "descriptors are left"


def test_what_is_put_again_is_kept_once_and_what_was_first(rig: Rig) -> None:
    one = program()
    rig(one, "put", "a", [bytearray(b"first")], [], False)
    rig(one, "put", "a", [bytearray(b"again")], [], False)
    assert content(rig(one, "get", known("a"))) == b"first"
    assert rig.statistics()["memory_bytes"] == 5


def test_a_large_object_is_noted_as_read_and_a_small_one_is_not(rig: Rig) -> None:
    one = program()
    rig.put(one, "small", 100)
    assert rig.put(one, "large", MEGA, born=True) is True
    rig(one, "read", "large")
    assert rig.statistics()["read"] == 0
    assert rig(one, "get", known("small"))[0] is False
    assert rig(one, "get", known("large"))[0] is True
    assert rig.statistics()["read"] == 1
    rig.holder._left(one)
    assert rig.statistics()["read"] == 0


def test_what_came_along_with_a_reference_is_read_from_when_that_is_said(rig: Rig) -> None:
    one, other = program(), program()
    rig.put(one, "large", MEGA)
    rig(other, "hold", known("large"), "")
    rig(other, "reads", "large")
    assert rig.statistics()["read"] == 1
    rig(other, "read", "large")
    assert rig.statistics()["read"] == 0
    rig(other, "reads", "nothing")
    assert rig.statistics()["read"] == 0


def test_a_program_that_dies_holds_nothing_after_a_moment_and_one_that_leaves_nothing_at_once(rig: Rig) -> None:
    one, two = program(), program()
    for number in range(5):
        rig.put(one, f"one {number}", MEGA // 10)
        rig.put(two, f"two {number}")
    rig(two, "leave")
    assert rig.statistics()["objects"] == 5
    rig.holder._left(one)
    rig.holder._left(two)
    assert (rig.statistics()["objects"], rig.statistics()["parties"]) == (5, 0)
    rig.now += OBJECT_AWAY_MS + 250
    rig.holder._carry_out(rig.holder._ledger.expired(rig.now))
    found = rig.statistics()
    assert (found["objects"], found["memory_bytes"], found["loans"]) == (0, 0, 0)
    assert not rig.holder._data and not rig.holder._stamps
    assert rig.holder._idle_since is not None, "it is idle"


def test_large_memory_is_given_back_beside_the_lock(rig: Rig) -> None:
    one = program()
    rig.holder._ledger.memory_bytes_max = 20 * MEGA
    rig.put(one, "small")
    rig.put(one, "large", 5 * MEGA)
    rig(one, "drop", "small")
    rig(one, "drop", "large")
    assert [view.nbytes for view in rig.holder._dropped] == [5 * MEGA]


def test_what_is_not_known_here_is_lost_and_what_is_another_nodes_is_brought_once(rig: Rig) -> None:
    one = program()
    with pytest.raises(DataLost, match="the object b of 100 bytes, put on node n1, is lost: the holder of objects there is another one by now"):
        rig(one, "get", known("b"))
    with pytest.raises(DataLost, match="nothing is known of it here"):
        rig(one, "bring", known("b", "n2"))
    assert rig(one, "get", known("b", "n2", 3)) is None
    assert rig.far.said == [("hold", "b")]
    begun, may_go = threading.Semaphore(0), threading.Event()

    def slow() -> list[bytearray]:
        begun.release()
        assert may_go.wait(20)
        return [bytearray(b"far")]

    rig.far.answers = slow
    threads = [threading.Thread(target=rig, args=(one, "bring", known("b", "n2", 3))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.acquire(timeout=20)
    may_go.set()
    for thread in threads:
        thread.join(20)
    rig(one, "bring", known("b", "n2", 3))
    assert rig.far.fetched == 1
    assert content(rig(one, "get", known("b", "n2", 3))) == b"far"
    assert rig.statistics()["memory_bytes"] == 3 and not rig.holder._coming
    rig(one, "drop", "b")
    assert rig.far.said == [("hold", "b"), ("drop", "b")] and not rig.holder._data


def test_more_objects_than_may_be_are_not_said_to_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OBJECTS_MAX", 2)
    rig = Rig(tmp_path, monkeypatch)
    one = program()
    rig.put(one, "a")
    rig.put(one, "b")
    with pytest.raises(Unavailable, match="put on node n2, cannot be fetched: 2 objects are kept here, which is the limit"):
        rig(one, "get", known("c", "n2"))
    rig(one, "drop", "a")
    assert rig(one, "get", known("c", "n2")) is None


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (Gone("it has ended"), DataLost, "it has ended; that node or its holder of objects has ended"),
        (DataLost("not kept"), DataLost, "put on node n2, is lost: not kept"),
        (OutcomeUnknown("no answer"), Unavailable, "put on node n2, cannot be fetched now: no answer"),
        (PeerRestarted("again"), Unavailable, "cannot be fetched now: again"),
        (NotFound("nobody"), Unavailable, "cannot be fetched now: nobody"),
        (Unavailable("stopped"), Unavailable, "stopped"),
        (ValueError("a defect"), UniosError, "ValueError: a defect"),
    ],
)
def test_what_cannot_be_brought_is_said_and_takes_no_room(rig: Rig, error: Exception, raised: type[UniosError], said: str) -> None:
    def fails() -> list[bytearray]:
        raise error

    one = program()
    rig.far.answers = fails
    for _ in range(3):  # a megabyte each: what is not given back is soon missed
        rig(one, "get", known("b", "n2", MEGA))
        with pytest.raises(raised, match=said):
            rig(one, "bring", known("b", "n2", MEGA))
    assert not rig.holder._coming
    rig.far.answers = lambda: [bytearray(3 * MEGA)]
    rig(one, "get", known("whole", "n2", 3 * MEGA))
    rig(one, "bring", known("whole", "n2", 3 * MEGA))
    assert rig.statistics()["disk_bytes"] == 0


def test_what_nobody_wants_any_more_when_it_comes_is_not_kept(rig: Rig) -> None:
    one = program()
    rig.far.answers = lambda: rig(one, "drop", "b") or [bytearray(b"far")]
    rig(one, "get", known("b", "n2", 3))
    rig(one, "bring", known("b", "n2", 3))
    assert not rig.holder._data and rig.statistics()["memory_bytes"] == 0


def test_pressure_spills_what_nobody_reads_and_it_is_the_same_there(rig: Rig) -> None:
    one = program()
    for number in range(6):
        rig(one, "put", str(number), [memory.settle(memory.gather(MEGA)), bytearray([number])], [], False)
    found = rig.statistics()
    assert found["disk_bytes"] >= 3 * MEGA and found["memory_bytes"] <= 3 * MEGA
    for number in range(6):
        assert content(rig(one, "get", known(str(number)))) == bytes(MEGA) + bytes([number])
    assert content((False, rig(program("n2"), "fetch", "0"))) == bytes(MEGA) + bytes([0])


@pytest.mark.parametrize("origin", ["n1", "n2"])
def test_what_was_damaged_on_the_disk_is_never_wrong_bytes(rig: Rig, origin: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = program()
    if origin == "n1":
        rig.put(one, "a", MEGA)
    else:
        rig.far.answers = lambda: [shared(MEGA)[0]]  # type: ignore[list-item]
        rig(one, "get", known("a", "n2", MEGA))
        rig(one, "bring", known("a", "n2", MEGA))
    for number in range(3):
        rig.put(one, f"more {number}", MEGA)
    assert rig.statistics()["disk_bytes"] > 0
    place = memory.place_of(rig.holder._data["a"][0])
    assert place is not None
    os.pwrite(place[0], b"x", place[1] + 7)
    if origin == "n1":
        for _ in range(2):
            with pytest.raises(DataLost, match="is not there as it was written"):
                rig(one, "get", known("a", size=MEGA))
        with pytest.raises(DataLost, match="is not there as it was written"):
            rig(one, "bring", known("a", size=MEGA))
        with pytest.raises(DataLost, match="is not there as it was written"):
            rig(program("n2"), "fetch", "a")
    else:
        assert rig(one, "get", known("a", "n2", MEGA)) is None
        rig(one, "drop", "more 0")
        rig(one, "bring", known("a", "n2", MEGA))
        assert content(rig(one, "get", known("a", "n2", MEGA))) == bytes(MEGA)
    assert "object a: it was spilled" in capsys.readouterr().err


def test_what_was_damaged_is_not_served_to_another_node_either(rig: Rig) -> None:
    one = program()
    for number in range(4):
        rig.put(one, str(number), MEGA)
    place = memory.place_of(rig.holder._data["0"][0])
    assert place is not None and rig.statistics()["disk_bytes"] > 0
    os.pwrite(place[0], b"x", place[1] + 7)
    with pytest.raises(DataLost, match="is not there as it was written"):
        rig(program("n2"), "fetch", "0")
    with pytest.raises(DataLost, match="node n1 does not keep it any more"):
        rig(program("n2"), "fetch", "never")


def test_a_disk_that_is_full_refuses_the_next_and_loses_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: str, _data: object) -> Any:
        raise Unavailable(f"the disk of {folder} is full")

    one = program()
    for number in range(2):
        rig.put(one, str(number), MEGA)
    with monkeypatch.context() as patch:
        patch.setattr(module, "spill", full)
        for number in range(5):
            with pytest.raises(Unavailable, match="is full"):
                rig.put(one, f"no {number}", 2 * MEGA)
        assert rig.statistics()["objects"] == 2
    rig.put(one, "2", 2 * MEGA)
    for number, size in ((0, MEGA), (1, MEGA), (2, 2 * MEGA)):
        assert content(rig(one, "get", known(str(number)))) == bytes(size)


def test_what_is_dropped_while_it_is_spilled_is_not_kept_on_the_disk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    one, spill = program(), module.spill

    def and_drop(folder: str, data: Any) -> Any:
        rig(one, "drop", "0")
        return spill(folder, data)

    for number in range(2):
        rig.put(one, str(number), MEGA)
    monkeypatch.setattr(module, "spill", and_drop)
    rig.put(one, "2", MEGA + MEGA // 2)
    assert set(rig.holder._data) == {"1", "2"} and not rig.holder._checks
    assert rig.statistics()["disk_bytes"] == 0


def test_a_holder_that_nobody_needs_ends(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Listening:
        def __init__(self, *_args: Any, **_options: Any) -> None: ...

        def __enter__(self) -> "Listening":
            return self

        def __exit__(self, *_exc: object) -> None: ...

        def wait(self, _timeout: float) -> bool:
            return False

    monkeypatch.setattr(module, "Server", Listening)
    monkeypatch.setattr(module, "now_ms", lambda: time.monotonic_ns() // 1_000_000 + rig.now)
    monkeypatch.setattr(module, "OBJECTS_IDLE_MS", 20)
    one = program()
    rig.holder._ledger.memory_bytes_max = 20 * MEGA
    rig.put(one, "a", 5 * MEGA)
    serving = threading.Thread(target=rig.holder.serve)
    serving.start()
    with rig.holder._changed:
        rig(one, "drop", "a")
        assert rig.holder._dropped
    rig(one, "leave")
    serving.join(20)
    assert not serving.is_alive() and not rig.holder._dropped


def test_what_is_kept_already_needs_no_room_when_it_is_put_again(rig: Rig) -> None:
    one = program()
    rig.put(one, "a", 2_900_000)
    with pytest.raises(Unavailable, match="is larger than the memory"):
        rig.put(one, "b", 4 * MEGA)
    rig.put(one, "a", 2_900_000)
    assert rig.statistics()["disk_bytes"] == 0, "nothing went to the disk for it"
    rig.put(one, "b", 100)
    rig(one, "put", "a", [bytearray(4 * MEGA)], [], False)
