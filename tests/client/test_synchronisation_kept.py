"""What a session keeps, and for how long: an item that is worked on for long, a lock that another thread has acquired since it was lost, and what was heard."""

import asyncio
import pickle
import threading
from pathlib import Path

import pytest

from tests.client.test_synchronisation_lost import Silent, talking, using
from unios.client.synchronisation import memory
from unios.client.synchronisation.aio import AsyncLock, _actor
from unios.client.synchronisation.exchange import Queue
from unios.client.synchronisation.lock import Lock, RLock
from unios.client.synchronisation.session import HEARD_BYTES, IDLE_S, Session
from unios.errors import LeaseLost
from unios.synchronisation_limits import SYNC_ACTOR_BYTES_MAX
from unios.wire.synchronising import YES, Answer, Ask, Bye, Over, Renew, Said, Token, Told


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
