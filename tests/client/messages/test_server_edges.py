"""The serving end where things come at the wrong moment: a connection after the port was closed, one whose session has another by now, no more threads."""

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.client.messages.rig import Rig, until
from tests.descriptors import descriptors
from unios.client.messages.line import Closed, Line
from unios.client.messages.server import Answers
from unios.client.messages.sessions import Session
from unios.errors import Unavailable
from unios.wire.frames import frame
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Hello, Request, encode
from unios.wire.operations import Accepted
from unios.wire.values import encode as value_of

BODY = value_of(((7,), {}), trusted=True).body
HELLO = Hello(PROTOCOL_MIN, PROTOCOL_MAX, "program", {"session": "s" * 1_000})


def packed(*messages: Any) -> bytes:
    return b"".join(frame(encode(message)) for message in messages)


def to_the_end(sock: socket.socket) -> None:
    """Read until the other side has ended it."""
    sock.settimeout(20)
    while sock.recv(65_536):
        pass


def test_a_connection_that_comes_just_after_the_port_was_closed_is_ended_and_nothing_is_done(rig: Rig) -> None:
    done: list[int] = []
    server = rig.server({"f": done.append})
    accepted = rig.listening["p"]
    server.close()
    near, far = socket.socketpair()
    accepted(Accepted(1, "p", rig.user, False, "here"), far, "here")
    near.sendall(packed(HELLO, Request(1, "f", BODY)))
    to_the_end(near)
    until(lambda: not server._lines, "it is forgotten")
    near.close()
    assert not done


def test_a_sessions_name_may_not_be_long(rig: Rig) -> None:
    with rig.server({"f": print}) as server:
        sock, _nothing = rig.pair("p")
        sock.sendall(packed(HELLO))
        until(lambda: server._sessions._found, "it has greeted")
        assert [len(id_) for _user, id_ in server._sessions._found] == [64]
        sock.close()


def test_what_was_read_over_an_earlier_connection_is_not_begun_after_its_session_has_a_new_one() -> None:
    """It was asked again over that; or withdrawn, of which the earlier one would never hear."""
    near, far = socket.socketpair()
    other, another = socket.socketpair()
    line, now, session = Line(far, local=False, trusted=True), Line(other, local=False, trusted=True), Session("u")
    session.line = line
    done: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        session.line = now

    near.sendall(packed(Request(1, "f", BODY), Request(2, "f", BODY), Request(3, "f", BODY, oneway=True)))
    near.shutdown(socket.SHUT_WR)
    with pytest.raises(Closed):
        Answers({"f": work}, session, line).run()
    assert done == [7, 7]  # the first, and the one-way message, which nobody sends again
    for one in (line, now):
        one.release()
    near.close()
    another.close()


def refusing(name: str, start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """Return what Thread.start is when Linux has no more of them for that purpose."""

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    return refuse


def test_no_thread_for_a_connection_ends_it_and_leaves_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig.server({"f": print}) as server:
        before = descriptors()
        monkeypatch.setattr(threading.Thread, "start", refusing("unios-port-p", threading.Thread.start))
        sock, _nothing = rig.pair("p")
        to_the_end(sock)
        sock.close()
        rig.cut()
        assert not server._lines and descriptors() <= before  # a connection of an earlier test may end meanwhile


def test_no_thread_for_a_stream_is_told_and_the_next_one_gets_its_own(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig.server({"f": range}), rig.port() as port:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refusing("unios-stream", threading.Thread.start))
            with pytest.raises(Unavailable, match="no threads"):
                list(port.stream("f", 3))
        assert list(port.stream("f", 3)) == [0, 1, 2]


@pytest.mark.parametrize("target", [None, {"a": 5}, {5: print}, {"a": print, "b": None}])
def test_what_can_answer_nothing_is_refused_when_the_port_is_opened(rig: Rig, target: Any) -> None:
    with pytest.raises(TypeError, match="functions by name"):
        rig.server(target)
    assert not rig.listening
