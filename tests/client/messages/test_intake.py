"""What comes over a line beside its frames, and what a line that has ended takes no more: descriptors are closed once, room is given back, nothing goes into
the midst of a message."""

import array
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.messages.test_memory import free_descriptors
from tests.descriptors import descriptors
from unios.client.messages import memory
from unios.client.messages.intake import Intake, NoDescriptors
from unios.client.messages.line import Closed, Line
from unios.wire.frames import frame
from unios.wire.messages import Fault, Part, Reply, encode, pack

NOTHING = pack(None)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Line]]:
    """A raw socket and the line at its other end."""
    raw, sock = socket.socketpair()
    line = Line(sock, local=True, trusted=True)
    yield raw, line
    line.release()
    raw.close()


def give(sock: socket.socket, count: int) -> None:
    """Send one byte with so many descriptors."""
    with open(os.devnull) as file:
        sock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()] * count))])


def test_of_descriptors_that_did_not_all_come_none_is_kept_and_their_message_is_told() -> None:
    raw, sock = socket.socketpair()
    intake, buffer = Intake(trusted=True), memoryview(bytearray(100))
    give(raw, 3)
    before = descriptors()
    with free_descriptors(2):
        assert len(intake.receive(sock, buffer)) == 1
    assert descriptors() <= before
    intake.add(Part(7, 100, memoryview(bytes(50))))
    with pytest.raises(NoDescriptors):
        intake.value(Reply(7, NOTHING, descriptors=3, buffers=((memory.INLINE, 0, 100),)))
    assert not intake._gathering._begun and not intake._gathering._announced
    give(raw, 2)
    with free_descriptors(1):
        intake.receive(sock, buffer)
    give(raw, 2)
    intake.receive(sock, buffer)
    intake.release()  # with what did not come, and what came after that
    assert descriptors() <= before
    raw.close()
    sock.close()


def test_the_room_for_an_answer_that_became_none_is_given_back(pair: tuple[socket.socket, Line]) -> None:
    raw, line = pair
    raw.sendall(frame(encode(Part(7, 100, memoryview(bytes(50))))) + frame(encode(Fault(7, "unavailable", "no memory"))))
    heard: list[object] = []
    while not heard:
        heard += line.read()
    assert line._intake._gathering._announced == 0


def test_a_line_that_was_closed_hears_nothing_more_whatever_has_come(pair: tuple[socket.socket, Line]) -> None:
    """It may have been in the midst of a frame, of which what has come would be taken for another."""
    raw, line = pair
    raw.sendall(frame(encode(Reply(1, NOTHING))))
    line.close()
    with pytest.raises(Closed):
        line.read()


def test_a_line_that_is_closed_while_it_is_read_has_ended_and_not_heard_nonsense(
    pair: tuple[socket.socket, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nonsense would fail what is under way; after an end it goes on over another line."""
    raw, line = pair
    pull = line._pull

    def closed_meanwhile(*given: Any) -> Any:
        data = pull(*given)
        line.close()
        return data

    monkeypatch.setattr(line, "_pull", closed_meanwhile)
    raw.sendall(frame(b"nonsense"))
    with pytest.raises(Closed):
        line.read()


def test_what_is_withdrawn_in_the_midst_of_a_message_of_the_same_thread_is_said_later(pair: tuple[socket.socket, Line]) -> None:
    """The collector may come anywhere."""
    raw, line = pair
    with line.sending:
        assert line.withdraw(1) is False
    raw.setblocking(False)
    with pytest.raises(BlockingIOError):
        raw.recv(100)
    assert line.withdraw(1) is True
    assert raw.recv(100)
