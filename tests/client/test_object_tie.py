"""A tie to a holder without a kernel: the port is scripted, and its connection is a pair of sockets of which the test has the other end."""

import errno
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.client.messages.interrupting import Interrupted, Interrupter
from tests.descriptors import descriptors
from tests.e2e.system import wait_for
from unios.client.objects import tie as module
from unios.client.objects.tie import Gone, Tie
from unios.errors import NotFound, OutcomeUnknown, Unavailable
from unios.wire.objects import Known


class Holder:
    """Who listens, as far as it is seen by its callers."""

    def __init__(self) -> None:
        self.ports: list[Scripted] = []
        self.heard: list[tuple[Any, ...]] = []
        self.answers: Callable[[str], object] = lambda op: f"{op} done"
        self.refuses: Exception | None = None
        self.takes = True

    def connect(self, name: str, *, timeout: float | None = None, keeps: bool = False, opened: Any = None) -> "Scripted":
        assert timeout is not None
        if self.refuses is not None:
            raise self.refuses
        return Scripted(self, opened)


class Scripted:
    """A port; `end` is what the holder does."""

    def __init__(self, holder: Holder, opened: Any) -> None:
        self.holder = holder
        self.sock, self._theirs = socket.socketpair()
        self.withdrawn = 0
        if opened is not None:
            holder.ports.append(self)
            op, args = opened()
            holder.heard.append((op, *args))

    def end(self) -> None:
        self._theirs.close()

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()
        self._theirs.close()

    def options(self, *, timeout: float | None = None, idempotent: bool = False) -> "Scripted":
        return self

    def send(self, op: str, *args: Any) -> None:
        if not self.holder.takes or self.fileno() < 0:
            raise OutcomeUnknown("it is not taken")
        self.holder.heard.append((op, *args))

    def begin(self, op: str, *args: Any) -> "Scripted":
        self.holder.heard.append((op, *args))
        self._op = op
        return self

    def result(self, timeout: float) -> object:
        found = self.holder.answers(self._op)
        if isinstance(found, BaseException):
            if isinstance(found, TimeoutError):
                time.sleep(timeout)
            raise found
        return found

    def cancel(self) -> None:
        self.withdrawn += 1


@pytest.fixture
def holder(monkeypatch: pytest.MonkeyPatch) -> Holder:
    made = Holder()
    monkeypatch.setattr(module, "Port", made.connect)
    monkeypatch.setattr(module.Connection, "anybody", lambda _self: True)
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    monkeypatch.setattr(module, "OBJECT_GONE_MS", 50)
    monkeypatch.setattr(module, "OBJECT_SILENT_MS", 150)
    monkeypatch.setattr(module, "OBJECTS_START_S", 0.2)
    return made


@pytest.fixture
def tie(holder: Holder) -> Iterator[Tie]:
    made = Tie("objects/me/n1", start=lambda: None)
    yield made
    made.close()
    made._thread.join(20)
    assert not made._thread.is_alive()
    for port in holder.ports:
        port.close()


def known(id_: str, node: str = "n1") -> Known:
    return id_, node, 5


def settled(tie: Tie) -> None:
    """Return when its thread has done all that was posted before."""
    done = threading.Event()
    tie.post(done.set)
    assert done.wait(20)


def test_what_is_referred_to_is_said_before_what_is_asked_and_again_on_the_next_connection(holder: Holder, tie: Tie) -> None:
    tie.hold(known("a"), "token")
    assert tie.call("get", known("a")) == "get done"
    assert holder.heard.index(("hold", known("a"), "token")) < holder.heard.index(("get", known("a")))
    settled(tie)
    holder.ports[-1].end()
    wait_for(lambda: len(holder.ports), lambda found: found == 2, "it connects again by itself")
    assert holder.heard[-1] == ("tie", [known("a")], {}, "")
    tie.drop("a")
    assert holder.heard[-1] == ("drop", "a")
    tie.drop("a")
    tie.drop("never")
    assert sum(op == "drop" for op, *_args in holder.heard) == 1


def test_what_is_not_referred_to_needs_no_connection(holder: Holder, tie: Tie) -> None:
    tie.call("statistics")
    holder.ports[-1].end()
    settled(tie)
    assert not tie.is_connected and len(holder.ports) == 1


def test_a_loan_that_could_not_be_said_is_said_once_more(holder: Holder, tie: Tie) -> None:
    tie.ids["a"] = known("a")
    tie.call("statistics")
    holder.takes = False
    took = holder.heard.copy
    tie._lock.acquire()  # so that its thread waits until the holder takes again
    try:
        tie.lend(["a"], "token")
        holder.takes = True
    finally:
        tie._lock.release()
    wait_for(took, lambda heard: ("lend", ["a"], "token") in heard, "it is said")


def test_a_holder_that_ends_under_each_call_is_not_asked_without_end(holder: Holder, tie: Tie) -> None:
    def ends(_op: str) -> Exception:
        holder.ports[-1].end()
        return OutcomeUnknown("the connection broke")

    holder.answers = ends
    with pytest.raises(Gone, match="ends again and again"):
        tie.call("get", known("a"))
    with pytest.raises(Gone, match="ends again and again"):
        tie.wait("bring", known("a"), deadline=None)
    assert [op for op, *_args in holder.heard].count("get") == module._TRIES == [op for op, *_args in holder.heard].count("bring")


def test_an_outcome_that_is_unknown_though_the_connection_is_whole_is_told(holder: Holder, tie: Tie) -> None:
    holder.answers = lambda _op: OutcomeUnknown("no answer")
    with pytest.raises(OutcomeUnknown):
        tie.call("get", known("a"))
    with pytest.raises(TimeoutError):
        tie.call("get", known("a"), deadline=time.monotonic() - 1)


@pytest.mark.parametrize(("runs", "raised", "said"), [(False, Gone, "nobody listens"), (True, Unavailable, "is stopped, or its node cannot be")])
def test_a_holder_that_is_silent_is_gone_or_may_come_back(
    holder: Holder, tie: Tie, monkeypatch: pytest.MonkeyPatch, runs: bool, raised: type[Exception], said: str
) -> None:
    monkeypatch.setattr(Tie, "_is_running", lambda _tie: runs)
    tie.call("statistics")

    def silent(_op: str) -> Exception:
        holder.refuses = Unavailable("nobody answers")
        return TimeoutError()

    holder.answers = silent
    with pytest.raises(raised, match=said):
        tie.call("get", known("a"))
    assert holder.ports[-1].withdrawn == 1, "what was asked is withdrawn"
    far = Tie("objects/me/n2")
    with pytest.raises(raised, match=said):
        far.call("lend", [], "")
    far.close()


def test_who_asks_a_holder_that_was_found_to_be_gone_does_not_wait_for_that_again_unless_it_is_back(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = False
    monkeypatch.setattr(Tie, "_is_running", lambda _tie: runs)
    holder.refuses = NotFound("nobody listens")
    far = Tie("objects/me/n2")
    with pytest.raises(Gone):
        far.call("get", known("a"))
    monkeypatch.setattr(module, "OBJECT_GONE_MS", 60_000)
    for ask in (partial(far.call, "get", known("b")), partial(far.wait, "bring", known("c"), deadline=None)):
        with pytest.raises(Gone):
            ask()
    runs = True  # one that begins is waited for
    monkeypatch.setattr(module, "OBJECT_SILENT_MS", 100)
    with pytest.raises(Unavailable, match="is stopped"):
        far.call("get", known("a"))
    holder.refuses = None
    assert far.call("statistics") is not None
    runs, holder.refuses = False, NotFound("nobody listens")
    monkeypatch.setattr(module, "OBJECT_SILENT_MS", 60_000)
    for port in holder.ports:
        port.end()
    with pytest.raises(TimeoutError):  # it was seen meanwhile: that it is gone is to be found anew
        far.call("get", known("a"), deadline=time.monotonic() + 0.05)
    far.close()


def test_an_answer_of_a_holder_that_is_there_is_waited_for(holder: Holder, tie: Tie, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OBJECT_GONE_MS", 0)
    monkeypatch.setattr(module, "OBJECT_SILENT_MS", 0)
    asked = iter([TimeoutError(), TimeoutError(), TimeoutError(), "here"])
    holder.answers = lambda _op: next(asked)
    assert tie.call("get", known("a")) == "here"


def test_a_deadline_holds_whatever_the_holder_does(holder: Holder, tie: Tie) -> None:
    holder.answers = lambda _op: TimeoutError()
    for ask in (tie.call, tie.wait):
        with pytest.raises(TimeoutError):
            ask("get", known("a"), deadline=time.monotonic() + 0.05)
    holder.refuses = NotFound("nobody listens")
    for port in holder.ports:
        port.end()
    for ask in (tie.call, tie.wait):
        with pytest.raises(TimeoutError):
            ask("get", known("a"), deadline=time.monotonic() + 0.02)
    with pytest.raises(Unavailable, match="does not start within"):
        tie.call("get", known("a"))


def test_threads_that_wait_for_a_connection_have_their_deadlines(holder: Holder, tie: Tie) -> None:
    with tie._lock:
        found: list[BaseException] = []

        def ask() -> None:
            try:
                tie.call("get", known("a"), deadline=time.monotonic() + 0.02)
            except BaseException as error:  # noqa: BLE001
                found.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(20)
    assert isinstance(found[0], TimeoutError)
    found.clear()
    for place in tie._places:
        place.acquire()

    def wait() -> None:
        try:
            tie.wait("bring", known("a"), deadline=time.monotonic() + 0.05)
        except BaseException as error:  # noqa: BLE001
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(20)
    assert isinstance(found[0], TimeoutError)
    later: list[object] = []
    thread = threading.Thread(target=lambda: later.append(tie.wait("bring", known("a"), deadline=None)))
    thread.start()
    for place in tie._places:
        place.release()
    thread.join(20)
    assert later == ["bring done"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TimeoutError("the program's own alarm")])
def test_what_a_signals_handler_raises_ends_a_wait_and_withdraws_what_was_asked(
    holder: Holder, tie: Tie, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 1_000)
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: None)
    holder.answers = lambda _op: error
    with pytest.raises(type(error)) as caught:
        tie.call("get", known("a"))
    assert caught.value is error and holder.ports[-1].withdrawn == 1


def test_a_connection_for_what_lasts_is_used_again_unless_it_has_ended(holder: Holder, tie: Tie) -> None:
    assert tie.wait("bring", known("a"), deadline=None) == "bring done"
    [port] = tie._idle
    tie.wait("bring", known("b"), deadline=None)
    assert tie._idle == [port]
    port.end()  # type: ignore[attr-defined]
    tie.wait("bring", known("b"), deadline=None)
    assert len(tie._idle) == 1 and tie._idle != [port] and port.fileno() < 0
    holder.answers = lambda _op: Unavailable("no room")
    with pytest.raises(Unavailable, match="no room"):
        tie.wait("bring", known("b"), deadline=None)
    assert not tie._idle, "what came over it may not be what the next one waits for"


def test_a_system_that_is_down_is_not_waited_for(holder: Holder, tie: Tie, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Connection, "anybody", lambda _self: False)
    monkeypatch.setattr(module, "OBJECTS_START_S", 1_000)
    monkeypatch.delenv("UNIOS_PID", raising=False)
    holder.refuses = Unavailable("the system is down")
    with pytest.raises(Unavailable, match="the system is down"):
        tie.call("get", known("a"))


@pytest.mark.parametrize("lacks", ["descriptors", "threads"])
def test_a_program_that_may_have_no_more_is_told_so_and_nothing_is_left(holder: Holder, monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    def none(*_args: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files") if lacks == "descriptors" else RuntimeError("can't start new thread")

    before = descriptors()
    if lacks == "descriptors":
        monkeypatch.setattr(module, "Alarm", none)
    else:
        monkeypatch.setattr(threading.Thread, "start", none)
    with pytest.raises(Unavailable, match=f"may have no more {lacks}"):
        Tie("objects/me/n1")
    assert descriptors() <= before


def test_a_forked_child_goes_on_over_a_connection_of_its_own(holder: Holder, tie: Tie) -> None:
    """Here in the same process: what the child does with the parent's ends is only that it closes them."""
    tie.hold(known("a"))
    tie.call("statistics")
    before, thread = holder.ports[-1], tie._thread
    tie._ended = True  # the thread of the parent, which a child has not
    tie._alarm.now()
    thread.join(20)
    tie.forked("token")
    wait_for(lambda: len(holder.ports), lambda found: found == 2, "it connects")
    assert holder.heard[-1] == ("tie", [known("a")], {}, "token")
    assert before.fileno() < 0


def test_what_is_held_again_before_it_was_said_is_said_at_once_for_its_loan(holder: Holder, tie: Tie) -> None:
    with tie._lock:  # its thread says nothing meanwhile
        tie.hold(known("a"), "first")
        tie.hold(known("a"), "second")
        assert [args[1] for op, *args in holder.heard if op == "hold"] == ["first", "second"]


def test_what_is_referred_to_is_said_without_being_asked_for(holder: Holder, tie: Tie) -> None:
    tie.hold(known("a"), "loan")
    wait_for(lambda: holder.heard.copy(), lambda heard: ("hold", known("a"), "loan") in heard, "it is said")


def test_a_reading_of_what_came_along_is_said_once_and_after_that_it_is_referred_to(holder: Holder, tie: Tie) -> None:
    with tie._lock:  # its thread says nothing meanwhile
        tie.hold(known("a"), "loan")
        tie.begin_reading("a")
    assert [entry[:2] for entry in holder.heard if entry[0] in ("hold", "reads")] == [("hold", known("a")), ("reads", "a")]
    holder.takes = False
    tie.begin_reading("a")
    assert tie.reading["a"] == 2
    holder.takes = True
    holder.ports[-1].end()
    tie.tell("said")
    assert [entry[2] for entry in holder.heard if entry[0] == "tie"] == [{}, {"a": 2}], "the next connection begins with all of them"


def test_where_there_is_no_connection_nothing_is_begun_only_to_let_go(holder: Holder, tie: Tie) -> None:
    tie.ids["a"] = known("a")
    tie.drop("a")
    assert not holder.ports and not holder.heard


def test_what_follows_what_could_not_be_said_is_not_heard_without_it(holder: Holder, tie: Tie) -> None:
    tie.call("statistics")
    with tie._lock:
        tie._unsaid["b"] = (known("b"), "")
        holder.takes = False
        assert not tie.tell("lend", ["b"], "token")
        holder.takes = True
        assert tie._port is not None and tie._port.fileno() < 0, "the connection is made again"
    assert tie.tell("lend", ["b"], "token")
    assert holder.heard[-1] == ("lend", ["b"], "token")


def test_a_connection_that_another_thread_has_made_anew_is_asked_again(holder: Holder, tie: Tie) -> None:
    def replaced(_op: str) -> object:
        if len(holder.ports) > 1:
            return "answered"
        tie._port = None  # another thread has found it ended
        return OutcomeUnknown("the connection broke")

    holder.answers = replaced
    assert tie.call("get", known("a")) == "answered"
    assert holder.ports[0].fileno() < 0


@pytest.mark.parametrize("op", ["call", "wait", "tell", "hold", "post"])
def test_wherever_a_signals_handler_raises_nobody_is_kept_waiting_for_ever(holder: Holder, tie: Tie, op: str) -> None:
    work: dict[str, Callable[[], object]] = {
        "call": lambda: tie.call("get", known("a")),
        "wait": lambda: tie.wait("bring", known("a"), deadline=None),
        "tell": lambda: tie.tell("lend", ["a"], "token"),
        "hold": lambda: tie.hold(known("b"), "token"),
        "post": lambda: tie.post(int),
    }
    for n in itertools.count():
        interrupter = Interrupter(n, ("objects/tie.py", "objects/alarm.py"))
        try:
            interrupter.run(work[op])
        except Interrupted:
            pass
        if not interrupter.where:
            break
        done = threading.Event()
        tie.post(done.set)
        assert done.wait(5), f"its thread does nothing more, interrupted in {interrupter.where}"
        asked = threading.Thread(target=tie.call, args=("get", known("a")), kwargs={"deadline": time.monotonic() + 5})
        asked.start()
        asked.join(10)
        assert not asked.is_alive(), interrupter.where
        assert not any(place._is_owned() for place in tie._places), interrupter.where  # type: ignore[attr-defined]
    assert n > 1


def test_a_holder_that_is_not_there_is_started_and_one_connection_serves_all_calls(holder: Holder, tie: Tie) -> None:
    def start() -> None:
        holder.refuses = None

    tie._start = start
    holder.refuses = NotFound("nobody listens")
    for _ in range(3):
        assert tie.call("get", known("a")) == "get done"
    assert len(holder.ports) == 1
