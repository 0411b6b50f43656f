"""The caller's side of locks without a system: its own clock, the memory of what may be lost, the guard of tokens."""

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

import unios
from unios.client.connection import Connection
from unios.client.synchronisation.asks import undoing
from unios.client.synchronisation.lease import boot_s
from unios.client.synchronisation.lock import Lock, RLock
from unios.client.synchronisation.memory import Volatile
from unios.client.synchronisation.named import patience
from unios.client.synchronisation.pending import Pending
from unios.client.synchronisation.semaphore import Semaphore
from unios.client.synchronisation.session import Session
from unios.client.synchronisation.sessions import forks
from unios.client.synchronisation.token_guard import TokenGuard
from unios.errors import LeaseLost
from unios.wire.synchronising import NO, NOWAIT, YES, Answer, Ask, Held, Token

MINE = Token(3, 7)


def holding(tmp_path: Path, trusted_s: float) -> Session:
    """Return a session that was granted a lock and hears nothing of anybody."""
    session = Session(Connection(tmp_path))
    session._held[MINE] = Held("lock", "a", MINE, 1, 0, "main")
    session.lease.trusted_until_s = boot_s() + trusted_s
    return session


def test_what_is_held_is_lost_by_this_process_own_clock_though_nobody_says_so(tmp_path: Path) -> None:
    assert holding(tmp_path, 60).holds(MINE)
    session = holding(tmp_path, -0.001)
    before = session._incarnation
    assert not session.holds(MINE) and session._incarnation > before
    with pytest.raises(LeaseLost, match="another may hold it"):
        holding(tmp_path, -0.001).give("lock", "a", MINE)


def test_what_is_given_back_is_held_no_more(tmp_path: Path) -> None:
    session = holding(tmp_path, 60)
    session.give("lock", "a", MINE)
    with pytest.raises(LeaseLost):
        session.give("lock", "a", MINE)


def test_a_guard_refuses_tokens_older_than_the_greatest_it_has_seen(tmp_path: Path) -> None:
    file = tmp_path / "greatest"
    for guard in (TokenGuard(), TokenGuard(file)):
        assert guard.greatest == (0, 0)
        for token in ((1, 900), (1, 900), (2, 1)):
            assert guard.admit(token) == token
        for late in ((1, 901), (0, 5)):
            with pytest.raises(LeaseLost, match="refused"):
                guard.admit(late)
        with pytest.raises(LeaseLost):
            guard.admit(None)
        assert guard.greatest == (2, 1)
    with pytest.raises(LeaseLost):
        TokenGuard(file).admit((1, 999))


def test_what_was_in_memory_alone_is_said_to_be_lost_once_to_each_who_used_it() -> None:
    volatile = Volatile()
    volatile.used(Ask(1, "put", "queue", "q"))
    volatile.used(Ask(2, "take", "semaphore", "seats", spec=3))
    assert not volatile.is_lost("queue", "q")
    volatile.manager_changed()
    assert volatile.fails(Ask(3, "size", "queue", "q")) == ""  # asked again: that does not say it
    assert volatile.fails(Ask(3, "get", "queue", "q")) == "data-lost"
    assert not volatile.is_lost("queue", "q") and not volatile.is_lost("semaphore", "seats") and not volatile.is_lost("queue", "other")


def test_bad_use_is_refused_as_threading_does() -> None:
    assert patience(False, -1) == (NOWAIT, None) == patience(True, 0) and patience(True, None) == (0, None) == patience(True, -1)
    for wrong in ((False, 3), (True, -2), (True, float("nan"))):
        with pytest.raises(ValueError, match="timeout"):
            patience(*wrong)
    for name in ("", 3):
        with pytest.raises(ValueError, match="name"):
            Lock(name)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="initial"):
        Semaphore("s", -1)
    with pytest.raises(RuntimeError, match="not acquired"):
        Lock("free").release()


def test_what_is_asked_so_that_a_question_whose_asker_was_interrupted_has_never_been() -> None:
    got, taken, waited = Ask(4, "get", "queue", "q", spec=9), Ask(5, "take", "semaphore", "s", spec=2), Ask(6, "wait", "barrier", "b", spec=3)
    assert undoing(got, Answer(4, YES, value=7, data=b"item")) == Ask(0, "back", "queue", "q", spec=9, number=7, data=b"item")
    assert undoing(taken, Answer(5, YES, 1, value=0)) == Ask(0, "back", "semaphore", "s", spec=2)  # a signal
    assert undoing(waited, Answer(6, YES, value=2, text="act")) == Ask(0, "abort", "barrier", "b", spec=3)  # all others wait for it
    nothing = [
        (got, Answer(4, NO)),
        (taken, Answer(5, YES, 1, value=1)),
        (waited, Answer(6, YES, value=1)),
        (Ask(7, "take", "lock", "l"), Answer(7, YES, 3)),
    ]
    assert [undoing(*one) for one in nothing] == [None] * 4


def test_what_is_given_back_is_asked_on_the_next_connection_if_its_asker_was_interrupted_while_he_said_it(tmp_path: Path) -> None:
    class Interrupted:
        is_closed = said_bye = False

        def wait_room(self) -> None:
            pass

        def say(self, _message: object) -> None:
            raise KeyboardInterrupt

        def cut(self) -> None:
            self.is_closed = True

    session, line = Session(Connection(tmp_path)), Interrupted()
    session._attendant.runs, session._line = True, line  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        session.call(Ask(0, "release", "semaphore", "s"))
    assert line.is_closed and [pending.ask.op for pending in session._pending.values()] == ["release"]


def test_units_of_a_lease_that_has_ended_are_not_released_a_second_time(tmp_path: Path) -> None:
    session = Session(Connection(tmp_path))
    for number, actor in enumerate(("a", "b")):
        token = Token(3, number)
        session._held[token] = Held("semaphore", "s", token, 1, 2, actor)
    session.lease.trusted_until_s = boot_s() - 0.001
    session._attendant.runs = True
    for actor in ("a", "somebody else"):
        with pytest.raises(LeaseLost, match="nothing was given back"):
            session.begin(Pending(Ask(0, "release", "semaphore", "s", actor, spec=2)))
    assert not session._pending
    session.begin(Pending(Ask(0, "release", "semaphore", "s", "a", spec=2)))  # beyond what it had: a signal, as ever
    assert len(session._pending) == 1


def test_who_has_taken_a_unit_since_gives_back_that_one(tmp_path: Path) -> None:
    volatile = Volatile()
    volatile.lapsed({MINE: Held("semaphore", "s", MINE, 1, 2, "a")})
    held = {Token(3, 9): Held("semaphore", "s", Token(3, 9), 1, 2, "b")}
    volatile.check(held, Ask(0, "release", "semaphore", "s", "b", spec=2))
    with pytest.raises(LeaseLost):
        volatile.check(held, Ask(0, "release", "semaphore", "s", "a", spec=2))


def test_a_thread_that_holds_no_more_does_not_take_its_rlock_again(tmp_path: Path) -> None:
    lock = RLock("a")
    lock._session, lock._forks = holding(tmp_path, 60), forks()
    lock._token, lock._owner, lock._count = MINE, threading.get_ident(), 1
    assert lock.acquire() and lock._count == 2
    lock._session.lease.trusted_until_s = boot_s() - 0.001
    with pytest.raises(LeaseLost):
        lock.acquire()
    assert lock._count == 2


EVERYTHING = [
    unios.Lock("a"),
    unios.RLock("a"),
    unios.RWLock("a"),
    unios.RWLock("a").read,
    unios.Semaphore("a", 3),
    unios.BoundedSemaphore("a", 3),
    unios.Event("a"),
    unios.Condition("a"),
    unios.Barrier("a", 2, timeout=1.5),
    unios.Queue("a", maxsize=5),
    unios.Election("a"),
    unios.AsyncLock("a"),
    unios.AsyncEvent("a"),
    unios.AsyncSemaphore("a", 2),
    unios.AsyncQueue("a", maxsize=5),
]


@pytest.mark.parametrize("thing", EVERYTHING, ids=repr)
def test_what_synchronises_travels_as_its_name_also_when_it_was_used_and_is_held(thing: Any, tmp_path: Path) -> None:
    one = getattr(thing, "_thing", getattr(thing, "_lock", thing))
    one._session, one._token = holding(tmp_path, 60), MINE
    try:
        found = pickle.loads(pickle.dumps(thing))
    finally:
        one._session = one._token = None
    assert type(found) is type(thing)
    for name in ("name", "parties", "maxsize", "_value", "_timeout", "_units", "token"):
        assert getattr(found, name, None) == getattr(thing, name, None)


def test_what_was_made_for_another_system_does_not_travel(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="another system"):
        pickle.dumps(Lock("a", Connection(tmp_path)))


def test_an_rlock_is_its_threads_and_not_a_variables(tmp_path: Path) -> None:
    lock = RLock("a")
    assert RLock("a") is lock and unios.Condition("a")._lock is lock
    assert RLock("b") is not lock and RLock("a", Connection(tmp_path)) is not lock
    lock._taker()(MINE)
    try:
        assert RLock("a")._is_owned()
    finally:
        lock._taker()(None)
    with pytest.raises(ValueError, match="needs a name"):
        RLock(5)  # type: ignore[arg-type]
