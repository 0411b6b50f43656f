"""Sessions while their connections come and go: one that has come back is not taken for one that has left, whatever comes between."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unios.client.messages import sessions
from unios.client.messages import streaming as streamings
from unios.client.messages.line import Line
from unios.client.messages.sessions import Session, Sessions
from unios.client.messages.streaming import Streaming
from unios.limits import SESSION_KEPT_S, SESSIONS_PER_USER_MAX, STREAM_WINDOW_BYTES
from unios.wire.conversations import Begun
from unios.wire.messages import Request
from unios.wire.values import NOTHING


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    pair = socket.socketpair()
    found = [Line(sock, local=True, trusted=True) for sock in pair]
    yield found
    for line in found:
        line.release()


class Between:
    """A lock, after whose first release something else comes before its holder goes on: at most until that waits for a lock itself."""

    def __init__(self, lock: Any, work: Callable[[], None]) -> None:
        self._lock = lock
        self._thread = threading.Thread(target=work)
        self._begun = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *exc: Any) -> None:
        self._lock.__exit__(*exc)
        if not self._begun:
            self._begun = True
            self._thread.start()
            self._thread.join(0.5)

    def over(self) -> None:
        self._thread.join(20)
        assert self._begun and not self._thread.is_alive()


def under_way(session: Session) -> Begun:
    begun = session.answering.begin(Request(1, "f", NOTHING.body))
    assert isinstance(begun, Begun)
    return begun


def test_a_session_that_comes_back_while_its_old_connection_is_taken_down_goes_on(lines: list[Line]) -> None:
    old, new = lines
    found = Sessions()
    session, _known = found.find("s", "ann", trusted=True)
    found.attach("s", session, old)
    begun = under_way(session)
    between = Between(session.changed, lambda: found.attach("s", session, new))
    session.changed = between  # type: ignore[assignment]
    found.detach("s", session, old)
    between.over()
    assert session.line is new and not begun.cancelled
    assert session.answering.begin(Request(1, "f", NOTHING.body)) is None  # it is known: nothing is done twice


def test_a_session_that_loses_its_old_connection_while_a_new_one_is_attached_is_not_counted_as_away(
    lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = lines
    found = Sessions()
    session, _known = found.find("s", "ann", trusted=True)
    found.attach("s", session, old)
    begun = under_way(session)
    between = Between(found._lock, lambda: found.detach("s", session, old))
    found._lock = between  # type: ignore[assignment]
    found.attach("s", session, new)
    between.over()
    monkeypatch.setattr(sessions, "SESSION_KEPT_S", -1)
    found.find("t", "bob", trusted=False)
    assert session.line is new and not begun.cancelled
    assert found.find("s", "ann", trusted=True) == (session, True)


def test_who_is_away_for_too_long_is_forgotten_and_nobody_drives_out_others(lines: list[Line], monkeypatch: pytest.MonkeyPatch) -> None:
    found = Sessions()
    first, _known = found.find("s", "ann", trusted=True)
    found.attach("s", first, lines[0])
    begun = under_way(first)
    found.detach("s", first, lines[0])
    for number in range(SESSIONS_PER_USER_MAX + 10):
        session, _known = found.find(str(number), "bob", trusted=False)
        found.attach(str(number), session, lines[1])
        found.detach(str(number), session, lines[1])
    assert found.find("s", "ann", trusted=True) == (first, True) and not begun.cancelled
    assert found.find("0", "bob", trusted=False)[1] is False
    assert found.find("s", "bob", trusted=False)[1] is False  # of another user
    monkeypatch.setattr(sessions, "SESSION_KEPT_S", -SESSION_KEPT_S)
    found.find("t", "bob", trusted=False)
    assert begun.cancelled


def test_those_who_do_not_come_back_are_forgotten_though_nobody_else_calls(lines: list[Line], monkeypatch: pytest.MonkeyPatch) -> None:
    found = Sessions()
    begun = []
    for number, line in enumerate(lines):
        session, _known = found.find(str(number), "ann", trusted=True)
        found.attach(str(number), session, line)
        begun.append(under_way(session))
    assert found.detach("0", session_of(found, "0"), lines[0]) is True
    assert found.detach("1", session_of(found, "1"), lines[1]) is False  # that is watched already
    assert found.detach("1", session_of(found, "1"), lines[1]) is False
    left_s = found.expired()
    assert left_s is not None and SESSION_KEPT_S - 5 < left_s <= SESSION_KEPT_S and not begun[0].cancelled
    monkeypatch.setattr(sessions, "SESSION_KEPT_S", 0)
    assert found.expired() is None
    assert [one.cancelled for one in begun] == [True, True] and not found._found
    session, _known = found.find("2", "ann", trusted=True)
    found.attach("2", session, lines[0])
    assert found.detach("2", session, lines[0]) is True


def session_of(found: Sessions, id_: str) -> Session:
    return found._found["ann", id_]


def test_a_session_has_one_connection_and_without_a_name_it_ends_with_that(lines: list[Line]) -> None:
    old, new = lines
    found = Sessions()
    session, _known = found.find("s", "ann", trusted=True)
    found.attach("s", session, old)
    found.attach("s", session, new)
    assert old.is_closed and not new.is_closed
    nameless, known = found.find("", "ann", trusted=True)
    assert not known and nameless is not found.find("", "ann", trusted=True)[0]
    found.attach("", nameless, new)
    begun = under_way(nameless)
    assert found.detach("", nameless, new) is False and begun.cancelled  # nobody can come back to it


def test_sessions_of_many_users_are_bounded_and_nothing_is_left_of_those_that_went(lines: list[Line], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PORT_SESSIONS_MAX", 3)
    found = Sessions()
    for number in range(10):
        session, _known = found.find("s", f"user {number}", trusted=False)
        found.attach("s", session, lines[0])
        found.detach("s", session, lines[0])
        assert len(found._found) == len(found._away) == len(found._users) <= 3
    assert list(found._found) == [("user 7", "s"), ("user 8", "s"), ("user 9", "s")]


def test_who_has_lost_the_right_has_no_session_and_no_connection(lines: list[Line]) -> None:
    found = Sessions()
    for user, line in zip(("ann", "bob"), lines, strict=True):
        session, _known = found.find("s", user, trusted=True)
        found.attach("s", session, line)
    begun = under_way(session_of(found, "s"))
    found.forget("ann")
    assert begun.cancelled and [line.is_closed for line in lines] == [True, False]
    assert list(found._found) == [("bob", "s")] and list(found._users) == ["bob"]


def test_a_session_that_ends_stops_its_streams_though_their_callers_take_nothing(lines: list[Line]) -> None:
    session = Session("ann")
    begun = session.answering.begin(Request(1, "f", NOTHING.body, stream=True))
    assert isinstance(begun, Begun)
    ended: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append("stopped")

    streaming = Streaming(session, begun, lines[0])
    session.streams[1] = streaming
    streaming._iterator = items()
    assert streaming._next() and not ended
    session.leave()
    assert ended == ["stopped"] and not streaming._next()


def test_a_stream_waits_for_room_no_longer_than_its_caller_may_be_away(lines: list[Line], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamings, "SESSION_KEPT_S", 0)
    session = Session("ann")
    begun = session.answering.begin(Request(1, "f", NOTHING.body, stream=True))
    assert isinstance(begun, Begun)
    begun.held = STREAM_WINDOW_BYTES
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(Streaming(session, begun, lines[0])._has_room()), daemon=True)
    waiting.start()
    waiting.join(20)
    assert found == [False] and begun.cancelled
