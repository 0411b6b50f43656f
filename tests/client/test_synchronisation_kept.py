"""What a session keeps, and for how long: an item that is worked on for long, a lock that another thread has acquired since it was lost, and what was heard."""

import asyncio
import pickle
import threading
import time
from pathlib import Path

import pytest

from tests.client.test_synchronisation_lost import Silent, talking, using
from unios.client.connection import Connection
from unios.client.synchronisation import memory
from unios.client.synchronisation.aio import AsyncLock, _actor
from unios.client.synchronisation.attendant import Attendant
from unios.client.synchronisation.exchange import Queue
from unios.client.synchronisation.lease import HUNG_S, Lease, boot_s
from unios.client.synchronisation.lock import Lock, RLock
from unios.client.synchronisation.pending import Pending
from unios.client.synchronisation.session import HEARD_BYTES, IDLE_S, Session
from unios.errors import LeaseLost, ProtocolError, Unavailable
from unios.limits import FRAME_BYTES_MAX
from unios.synchronisation_limits import SYNC_ACTOR_BYTES_MAX, SYNC_HOLD_MS
from unios.wire.synchronising import YES, Answer, Ask, Bye, More, Open, Over, Renew, Said, Token, Told, pack


def granting(line: Silent) -> None:
    """Let everything be granted, each time under the next token; and each item be as large as is said."""
    numbers = iter(range(1, 1000))

    def answer(said: Said) -> Told | None:
        return Answer(said.id, YES, next(numbers), data=pickle.dumps(b"")) if isinstance(said, Ask) and said.id else None

    line.answers = answer


def aged(session: Session, line: Silent) -> bool:
    """Return whether the session goes on when nobody has used it for long."""
    session._used_s -= IDLE_S + 1
    line.heard.clear()
    return session.renew(line)  # type: ignore[arg-type]


def test_a_session_does_not_end_while_an_item_that_it_has_got_is_worked_on(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    granting(line)
    work = Queue("q")
    using(work, session)
    work.get()
    assert aged(session, line) and not session.is_idle and isinstance(line.heard[-1], Renew)
    work.task_done()
    session._used_s = 0.0
    assert session.is_idle and not aged(session, line) and isinstance(line.heard[-1], Bye)


def test_what_was_heard_is_said_at_once_where_it_is_much(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    line.answers = lambda said: Answer(said.id, YES, data=pickle.dumps(bytes(HEARD_BYTES // 2))) if isinstance(said, Ask) and said.id else None
    work = Queue("q")
    using(work, session)
    for _ in range(5):
        work.get()
    said = [(type(one).__name__, one.heard if isinstance(one, Renew) else getattr(one, "id", None)) for one in line.heard]
    assert said == [("Ask", 1), ("Ask", 2), ("Renew", 2), ("Ask", 3), ("Ask", 4), ("Renew", 4), ("Ask", 5)]


@pytest.mark.parametrize("kind", [Lock, RLock])
def test_who_has_lost_the_lock_does_not_give_back_what_another_thread_has_acquired_since(tmp_path: Path, kind: type[Lock]) -> None:
    session, line = talking(tmp_path)
    granting(line)
    lock = kind("a")
    using(lock, session)
    lock.acquire()
    late = lock.token
    session.on(line, Over("its lease has ended"))  # type: ignore[arg-type]
    session._line = line  # type: ignore[assignment]
    other = threading.Thread(target=lock.acquire)
    other.start()
    other.join()
    assert late is not None and lock.token == late and lock._token is not None and lock._token > late
    line.heard.clear()
    with pytest.raises(LeaseLost):
        lock.check()
    with pytest.raises(LeaseLost, match="another thread"):
        lock.release()
    assert not line.heard and session.holds(lock._token)
    if kind is Lock:
        lock.release()  # any thread may: once it knows
        assert [(type(one), one.op) for one in line.heard if isinstance(one, Ask)] == [(Ask, "give")]


def test_who_acquires_the_lock_that_he_had_lost_holds_that(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    granting(line)
    lock = Lock("a")
    using(lock, session)

    def acquire_elsewhere() -> None:
        other = threading.Thread(target=lock.acquire)
        other.start()
        other.join()

    lock.acquire()
    session.on(line, Over("its lease has ended"))  # type: ignore[arg-type]
    session._line = line  # type: ignore[assignment]
    acquire_elsewhere()
    lock.acquire()
    assert lock.check() == lock.token == Token(0, 3)
    lock.release()
    assert lock.token is None


def test_a_task_that_has_lost_the_lock_does_not_give_back_what_another_task_has_acquired_since(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    granting(line)
    lock = AsyncLock("a")
    using(lock._lock, session)

    async def both() -> None:
        lock._lock._take(Token(0, 1), memory.who())

        async def other() -> None:
            lock._lock._take(Token(0, 2), memory.who())

        await asyncio.create_task(other())
        assert lock.token == Token(0, 1)
        with pytest.raises(LeaseLost, match="another"):
            lock.release()

    asyncio.run(both())
    assert lock._lock._token == Token(0, 2)


def test_a_thread_or_task_with_a_long_name_is_called_so_that_the_service_takes_it() -> None:
    long = "ü" * 1000
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(memory.actor()), name=long)
    thread.start()
    thread.join()

    async def task() -> None:
        found.append(_actor())

    async def run() -> None:
        await asyncio.create_task(task(), name=long)

    asyncio.run(run())
    assert len(found) == 2 and all(len(one.encode()) < SYNC_ACTOR_BYTES_MAX for one in found)


def putting(tmp_path: Path) -> tuple[Session, list[Pending]]:
    """Return a session without a connection, of which three threads wait to put large items and one a small one."""
    session, _line = talking(tmp_path)
    pending = [Pending(Ask(0, "put", "queue", "q", data=bytes(size))) for size in (3 << 20, 3 << 20, 3 << 20, 10)]
    for each in pending:
        session.begin(each)
    session._line = None
    return session, pending


def ids(said: list[Said]) -> list[tuple[str, object]]:
    return [(type(one).__name__, one.waiting.ask.id if isinstance(one, More) else getattr(one, "id", None)) for one in said]


def test_what_does_not_fit_into_what_opens_a_session_again_is_said_after_it_as_there_is_room(tmp_path: Path) -> None:
    session, pending = putting(tmp_path)
    line = Silent()
    session.open(line)  # type: ignore[arg-type]
    (opened,) = line.heard
    assert isinstance(opened, Open) and [one.ask.id for one in opened.waiting] == [4] and opened.later == (1, 2, 3)
    assert len(memoryview(pack(opened))) < FRAME_BYTES_MAX // 4
    line.has_room = False
    session.say_later(line)  # type: ignore[arg-type]
    assert line.heard == [opened]
    session.withdraw(pending[1])
    assert ids(line.heard[1:]) == [("More", 2), ("Withdraw", 2)]
    line.has_room = True
    session.say_later(line)  # type: ignore[arg-type]
    session.say_later(line)  # type: ignore[arg-type]
    assert ids(line.heard[3:]) == [("More", 1), ("More", 3)]
    assert [one.waiting.again for one in line.heard if isinstance(one, More)] == [True, True, True]


def test_what_was_never_said_is_not_said_to_have_been_when_the_connection_breaks_before_it_is(tmp_path: Path) -> None:
    session, pending = putting(tmp_path)
    for each in pending:
        each.said = False
    lines = [Silent(), Silent()]
    for line in lines:
        session.open(line)  # type: ignore[arg-type]
        session.line_ended(line)  # type: ignore[arg-type]
        session.say_later(line)  # type: ignore[arg-type]
    assert [ids(line.heard) for line in lines] == [[("Open", None)]] * 2
    session.open(lines[0])  # type: ignore[arg-type]
    session.say_later(lines[0])  # type: ignore[arg-type]
    assert [one.waiting.again for one in lines[0].heard if isinstance(one, More)] == [False, False, False]


def test_nobody_waits_for_ever_where_a_session_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closing(Silent):
        def close(self) -> None:
            self.is_closed = True

    def refuse(_session: Session, _line: object) -> None:
        raise ProtocolError("a message is over the limit")

    monkeypatch.setattr("unios.client.synchronisation.session.CLIENT_RECONNECT_MS", 100)
    monkeypatch.setattr(Session, "open", refuse)
    monkeypatch.setattr(Attendant, "_connect", lambda _attendant: Closing())
    monkeypatch.setattr(Attendant, "_anybody", lambda _attendant: True)
    with pytest.raises(Unavailable, match="over the limit"):
        Session(Connection(tmp_path)).call(Ask(0, "take", "lock", "l"))


def test_what_was_got_before_a_session_was_closed_counts_as_done(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    granting(line)
    work = Queue("q")
    using(work, session)
    work.get()
    session._attendant.wait = lambda _timeout_s: None  # type: ignore[method-assign]
    session.close()
    assert not session._is_in_use
    session._line = line  # type: ignore[assignment]
    with pytest.raises(LeaseLost, match="counts as done"):
        work.task_done()


def test_a_lease_is_trusted_in_from_when_it_was_renewed_and_not_from_when_that_was_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("unios.client.synchronisation.lease.boot_s", lambda: now_s)
    lease = Lease()
    lease.begin()
    now_s += 1
    number = lease.renew()
    now_s += HUNG_S - 1
    assert not lease.is_hung
    lease.acknowledged(0)
    assert lease.trusted_until_s == 100 + SYNC_HOLD_MS / 1000
    lease.acknowledged(number)
    assert lease.trusted_until_s == 101 + SYNC_HOLD_MS / 1000
    now_s = lease.trusted_until_s + 0.001
    assert lease.is_over and not lease.is_hung


def test_a_service_that_does_not_acknowledge_is_left_for_another_connection(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    session._used_s = time.monotonic()
    session.lease.begin()
    assert session.renew(line)  # type: ignore[arg-type]
    session.lease._sent = {1: boot_s() - HUNG_S - 0.1}
    line.heard.clear()
    assert not session.renew(line) and not line.heard  # type: ignore[arg-type]


def test_what_an_earlier_connection_still_tells_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    session, line = talking(tmp_path)
    pending = Pending(Ask(0, "take", "lock", "a"))
    session.begin(pending)
    early, session._line = line, Silent()  # type: ignore[assignment]
    session.on(early, Answer(pending.ask.id, YES, 7))  # type: ignore[arg-type]
    assert pending.answer is None and not session._held
    session.on(session._line, Answer(pending.ask.id, YES, 8))  # type: ignore[arg-type]
    assert pending.token == Token(0, 8)


def test_each_connection_of_a_session_has_a_later_turn(tmp_path: Path) -> None:
    session, _line = talking(tmp_path)
    lines = [Silent(), Silent()]
    for line in lines:
        session.open(line)  # type: ignore[arg-type]
    first, second = (line.heard[0] for line in lines)
    assert isinstance(first, Open) and isinstance(second, Open) and first.turn < second.turn and first.incarnation == second.incarnation
