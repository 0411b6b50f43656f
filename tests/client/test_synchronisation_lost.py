"""The caller's side of locks when its lease ends, or nobody answers, while something is under way: nothing is done twice, and nobody hears what is not so."""

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unios.client.connection import Connection
from unios.client.synchronisation import session as session_module
from unios.client.synchronisation.aio import AsyncQueue
from unios.client.synchronisation.attendant import Attendant
from unios.client.synchronisation.exchange import Queue
from unios.client.synchronisation.lease import boot_s
from unios.client.synchronisation.line import Broken
from unios.client.synchronisation.lock import Lock, RLock
from unios.client.synchronisation.named import Named
from unios.client.synchronisation.pending import Pending
from unios.client.synchronisation.rwlock import RWLock
from unios.client.synchronisation.session import Session
from unios.client.synchronisation.sessions import forks
from unios.errors import LeaseLost, OutcomeUnknown, Unavailable
from unios.wire.synchronising import NO, YES, Answer, Ask, Bye, Held, Notice, Open, Opened, Over, Said, Token, Told, Withdraw

MINE = Token(3, 7)


class Silent:
    """A line whose other side answers what the test says, or nothing."""

    is_closed = said_bye = False
    has_room = True

    def __init__(self) -> None:
        self.heard: list[Said] = []
        self.answers: Callable[[Said], Told | None] = lambda _said: None
        self._told: list[Told] = []

    def wait_room(self) -> None:
        pass

    def say(self, message: Said) -> None:
        self.heard.append(message)
        if (told := self.answers(message)) is not None:
            self._told.append(told)

    def listen(self, until_s: float) -> Iterator[Told]:
        if not self._told:
            time.sleep(max(0.0, min(until_s - time.monotonic(), 0.01)))
        told, self._told = self._told, []
        yield from told

    def cut(self) -> None:
        self.is_closed = True


def talking(tmp_path: Path) -> tuple[Session, Silent]:
    """Return a session on a line, whose attendant does nothing."""
    session, line = Session(Connection(tmp_path)), Silent()
    session._attendant.runs = True
    session._line = line  # type: ignore[assignment]
    session.lease.trusted_until_s = boot_s() + 60
    return session, line


def using(thing: Named, session: Session) -> None:
    thing._session, thing._forks = session, forks()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "WITHDRAWN_S", 0.05)
    monkeypatch.setattr("unios.client.synchronisation.aio.WITHDRAWN_S", 0.05)


def test_who_puts_and_hears_nothing_is_told_that_nobody_knows_and_not_that_the_queue_is_full(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    work = Queue("q")
    using(work, session)
    with pytest.raises(OutcomeUnknown, match=r"put of queue q.*done or not"):
        work.put(1, timeout=0.02)
    asked, wanted_no_more, *for_nobody = line.heard
    assert isinstance(asked, Ask) and wanted_no_more == Withdraw(asked.id) and set(for_nobody) == {Withdraw(asked.id, "queue", "q")}
    with pytest.raises(queue.Empty):
        work.get(timeout=0.02)  # what it may have taken out is put back


def test_a_task_that_puts_and_hears_nothing_is_told_the_same(tmp_path: Path) -> None:
    session, _line = talking(tmp_path)
    work = AsyncQueue("q")
    using(work._thing, session)
    with pytest.raises(OutcomeUnknown, match="put of queue q"):
        asyncio.run(work.put(1, timeout=0.02))
    with pytest.raises(queue.Empty):
        asyncio.run(work.get(timeout=0.02))


def test_what_was_never_said_is_not_in_and_what_the_service_refuses_is_not_either(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    work = Queue("q")
    using(work, session)
    line.answers = lambda said: Answer(said.id, NO) if isinstance(said, Withdraw) else None
    with pytest.raises(queue.Full):
        work.put(1, timeout=0.02)
    session._line = None
    with pytest.raises(queue.Full):
        work.put(1, timeout=0.02)
    assert all(pending.abandoned for pending in session._pending.values())


@pytest.mark.parametrize("withdrawn_first", [False, True])
@pytest.mark.parametrize("outcome", [YES, NO])
def test_a_put_whose_connection_broke_is_settled_on_the_next_one(tmp_path: Path, outcome: int, withdrawn_first: bool) -> None:
    session, line = talking(tmp_path)
    pending = Pending(Ask(0, "put", "queue", "q", data=b"x"))
    session.begin(pending)
    steps = [lambda: session.line_ended(line), lambda: session.withdraw(pending)]  # type: ignore[arg-type]
    for step in reversed(steps) if withdrawn_first else steps:
        step()
    assert pending.answer is None
    after = Silent()
    session.open(after)  # type: ignore[arg-type]
    opened, withdrawn = after.heard
    assert isinstance(opened, Open) and opened.waiting[0].again and opened.waiting[0].ask.id == pending.ask.id
    assert isinstance(withdrawn, Withdraw) and not withdrawn.name
    session.on(after, Opened(1))  # type: ignore[arg-type]
    session.on(after, Answer(pending.ask.id, outcome))  # type: ignore[arg-type]
    assert (pending.result() is not None) == (outcome == YES)


def test_when_nobody_can_be_reached_any_more_only_what_changes_nothing_is_said_not_to_have_been_done(tmp_path: Path) -> None:
    session, _line = talking(tmp_path)
    asked = [
        Pending(Ask(0, *words)) for words in (("put", "queue", "q"), ("take", "lock", "l"), ("set", "event", "e"), ("release", "semaphore", "s"))
    ]
    for pending in asked:
        session.begin(pending)
    session._line = None
    session.begin(unsaid := Pending(Ask(0, "put", "queue", "q")))
    session.not_connected(Unavailable("nobody"), 0.0, anybody=False)
    for pending, error in zip([*asked, unsaid], (OutcomeUnknown, Unavailable, OutcomeUnknown, OutcomeUnknown, Unavailable), strict=True):
        with pytest.raises(error):
            pending.result()


def test_a_lease_that_ends_makes_the_next_incarnation_which_asks_under_the_same_numbers(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    session.on(line, Opened(4))  # type: ignore[arg-type]
    session.begin(put := Pending(Ask(0, "put", "queue", "q", data=b"x")))
    session.on(line, Over("its lease has ended"))  # type: ignore[arg-type]
    assert line.is_closed and session._line is None and put.answer is None
    session.open(after := Silent())  # type: ignore[arg-type]
    opened = after.heard[0]
    assert isinstance(opened, Open) and (opened.incarnation, opened.epoch, opened.session) == (1, 0, session.id)
    assert [(waiting.ask.id, waiting.again) for waiting in opened.waiting] == [(put.ask.id, True)]


def test_a_release_under_way_when_the_lease_ends_is_done_and_not_asked_again(tmp_path: Path) -> None:
    """The manager takes the units back with the lease: released once more they would be another's, or units that there never were."""
    session, line = talking(tmp_path)
    session._held[MINE] = Held("semaphore", "s", MINE, 1, 2, "a")
    session.begin(release := Pending(Ask(0, "release", "semaphore", "s", "a", spec=2)))
    session.on(line, Over("its lease has ended"))  # type: ignore[arg-type]
    assert release.answer is not None and release.answer.outcome == YES and not session._pending
    session.begin(later := Pending(Ask(0, "release", "semaphore", "s", "a", spec=2)))  # a signal: nothing of it went back with the lease
    assert later.ask.number == 0 and list(session._pending) == [later.ask.id]


def test_of_a_release_of_more_than_was_held_only_the_rest_is_asked_again_after_the_lease(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    session._held[MINE] = Held("semaphore", "s", MINE, 1, 2, "a")
    other = Token(3, 9)
    session._held[other] = Held("semaphore", "s", other, 1, 2, "b")
    session.begin(three := Pending(Ask(0, "release", "semaphore", "s", "a", 3, spec=2)))
    session.on(line, Over("its lease has ended"))  # type: ignore[arg-type]
    assert (three.ask.size, three.ask.number, three.answer) == (1, 0, None)


def test_units_that_are_not_being_given_back_are_lost_with_the_lease_beside_those_that_are(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    for number, actor in enumerate("ab"):
        session._held[Token(3, number)] = Held("semaphore", "s", Token(3, number), 1, 2, actor)
    session.begin(Pending(Ask(0, "release", "semaphore", "s", "a", spec=2)))
    session.on(line, Over("its lease has ended"))  # type: ignore[arg-type]
    with pytest.raises(LeaseLost, match="1 unit"):
        session.begin(Pending(Ask(0, "release", "semaphore", "s", "b", spec=2)))


def test_an_item_got_under_a_lease_that_has_ended_is_not_done_with_in_place_of_anothers(tmp_path: Path) -> None:
    session, line = talking(tmp_path)

    def got(actor: str) -> None:
        session.begin(get := Pending(Ask(0, "get", "queue", "q", actor)))
        session.on(line, Answer(get.ask.id, YES, value=1, data=b"1"))  # type: ignore[arg-type]

    for actor in ("a", "b"):
        got(actor)
    session.begin(under_way := Pending(Ask(0, "done", "queue", "q", "a")))
    session.on(line, Over("its lease has ended"))  # type: ignore[arg-type]
    assert under_way.answer is not None and under_way.answer.outcome == YES
    session._line = line  # type: ignore[assignment]
    session.lease.trusted_until_s = boot_s() + 60
    got("a")
    session.begin(Pending(Ask(0, "done", "queue", "q", "a")))
    with pytest.raises(LeaseLost, match="counts as done already"):
        session.begin(Pending(Ask(0, "done", "queue", "q", "b")))


def test_units_that_somebody_else_has_given_back_are_held_no_more(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    session._held[MINE] = Held("semaphore", "s", MINE, 2, 2, "a")
    for units in (1, 0):
        session.on(line, Notice("semaphore", "s", MINE, units))  # type: ignore[arg-type]
        assert [one.size for one in session._held.values()] == [1] * units
    assert not session._known


def test_a_manager_that_ended_with_nothing_in_its_memory_has_lost_nothing(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    session.on(line, Opened(4, 2))  # type: ignore[arg-type]
    session._volatile.used(Ask(1, "put", "queue", "q"))
    session.on(line, Opened(5, 2))  # type: ignore[arg-type]
    session.begin(put := Pending(Ask(0, "put", "queue", "q")))
    assert put.answer is None
    session.on(line, Opened(6, 6))  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknown):
        put.result()


def in_a_child(work: Callable[[], bool]) -> bool:
    """Return what a forked child finds."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = int(not work())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_forked_child_holds_neither_side_of_its_parents_rwlock(tmp_path: Path) -> None:
    lock, me = RWLock("pages", via=Connection(tmp_path)), threading.get_ident()
    for side in (lock.read, lock.write):
        side._tokens[me] = MINE

    def child() -> bool:
        assert lock.session is not None  # whatever it does first
        for side in (lock.write, lock.read):
            assert side.token is None
            for use in (side.check, side.release):
                with pytest.raises(RuntimeError, match="acquired"):
                    use()
        return True

    assert in_a_child(child)
    assert lock.read.token == lock.write.token == MINE


@pytest.mark.parametrize("made", [Lock, RLock])
def test_a_forked_child_does_not_see_its_parents_token_whatever_it_does_first(tmp_path: Path, made: type[Lock]) -> None:
    lock = made("heirloom", via=Connection(tmp_path))
    lock._taker()(MINE)

    def child() -> bool:
        assert lock.session is not None
        return lock.token is None and not lock._is_owned()

    assert in_a_child(child)
    assert lock.token == MINE and lock._is_owned()


def test_a_service_that_does_not_let_it_begin_is_asked_ever_less_often_and_who_waits_hears_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(Silent):
        def __init__(self) -> None:
            super().__init__()
            self.answers = lambda said: Over("there are 4096 sessions, which is the limit") if isinstance(said, Open) else None

        def listen(self, until_s: float) -> Iterator[Told]:
            if self.is_closed:
                raise Broken("it was cut")
            return super().listen(until_s)

        def close(self) -> None:
            self.is_closed = True

    made: list[Refusing] = []

    def connect(_attendant: Attendant) -> Refusing:
        made.append(Refusing())
        return made[-1]

    monkeypatch.setattr(session_module, "CLIENT_RECONNECT_MS", 400)
    monkeypatch.setattr(Attendant, "_connect", connect)
    monkeypatch.setattr(Attendant, "_anybody", lambda _attendant: True)
    session = Session(Connection(tmp_path))
    with pytest.raises(Unavailable, match="4096 sessions"):
        session.call(Ask(0, "take", "lock", "l"))
    assert len(made) < 12
    session.close()


def test_what_is_asked_after_the_session_said_good_bye_is_said_on_the_next_connection(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    session.lease.renew()
    session._used_s = time.monotonic() - 2 * session_module.IDLE_S
    assert not session.renew(line) and line.said_bye and isinstance(line.heard[-1], Bye)  # type: ignore[arg-type]
    session.begin(put := Pending(Ask(0, "put", "queue", "q")))
    assert not put.said and isinstance(line.heard[-1], Bye)
    session.line_ended(line)  # type: ignore[arg-type]
    session.open(after := Silent())  # type: ignore[arg-type]
    opened = after.heard[0]
    assert isinstance(opened, Open) and opened.incarnation == 1 and [waiting.again for waiting in opened.waiting] == [False]


def test_an_item_whose_getter_was_interrupted_is_not_his_to_be_done_with(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    session.begin(get := Pending(Ask(0, "get", "queue", "q", "a")))
    session.on(line, Answer(get.ask.id, YES, value=1, data=b"1"))  # type: ignore[arg-type]
    session.abandon(get)
    assert isinstance(line.heard[-1], Ask) and line.heard[-1].op == "back"
    session.on(line, Over("its lease has ended"))  # type: ignore[arg-type]
    assert not session._volatile._lapsed


@pytest.mark.parametrize("late", [True, False])
def test_who_says_after_a_stop_that_an_item_is_done_with_hears_that_the_lease_had_ended_before(tmp_path: Path, late: bool) -> None:
    session, line = talking(tmp_path)
    session.begin(get := Pending(Ask(0, "get", "queue", "q", "a")))
    session.on(line, Answer(get.ask.id, YES, value=1, data=b"1"))  # type: ignore[arg-type]
    session.lease.trusted_until_s = boot_s() + (-1 if late else 60)
    session.begin(done := Pending(Ask(0, "done", "queue", "q", "a")))  # before the session's thread has heard what had come meanwhile
    session.on(line, Over("its lease has ended"))  # type: ignore[arg-type]
    with pytest.raises(LeaseLost, match="counts as done already") if late else contextlib.nullcontext():
        done.result()
    assert not session._pending and not session._volatile._lapsed


def test_a_grant_that_came_after_the_lease_had_ended_is_not_taken(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    session.begin(take := Pending(Ask(0, "take", "lock", "l")))
    session.lease.trusted_until_s = boot_s() - 0.001
    session.on(line, Answer(take.ask.id, YES, 5))  # type: ignore[arg-type]
    assert take.answer is None and not session._held and line.is_closed
