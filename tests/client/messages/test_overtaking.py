"""Overtaking: what is acknowledged in the same reading as a request does not take the request for answered."""

import socket

import pytest

from unios.client.messages.line import Closed, Line
from unios.client.messages.server import Answers
from unios.client.messages.sessions import Session
from unios.wire.frames import length_of
from unios.wire.messages import Ack, Request, encode
from unios.wire.values import encode as value_of


def test_a_one_way_message_is_done_although_an_acknowledgement_came_right_behind_it() -> None:
    near, far = socket.socketpair()
    line, session = Line(far, local=False, trusted=True), Session("u")
    session.line = line
    done: list[int] = []
    body = value_of(((7,), {}), trusted=True).body
    with near:
        near.sendall(b"".join(length_of(data) + data for data in (encode(Request(1, "f", body, oneway=True)), encode(Ack(1)))))
        near.shutdown(socket.SHUT_WR)
        with pytest.raises(Closed):
            Answers({"f": done.append}, session, line).run()
    line.release()
    assert done == [7]
