"""A worker that looks for its executor: nothing is unpickled before the other side has shown who it is."""

import socket
import threading
from collections.abc import Callable

import pytest

from tests.descriptors import descriptors
from unios.client.tasks import proofs, talk
from unios.client.tasks.talk import Talk, reach
from unios.errors import ProtocolError, Unavailable
from unios.wire.parcels import Head, Hello, Stop, Welcome

SECRET = b"s" * proofs.SECRET_BYTES


def reached(monkeypatch: pytest.MonkeyPatch, answers: Callable[[Hello], Head | None]) -> bool:
    """Look for an executor whose greeting is answered so; whether what is reached is it. Whatever comes of that, no descriptor is left."""
    before = descriptors()
    ours, theirs = socket.socketpair()
    listener = Talk(theirs)

    def listen() -> None:
        heard = listener.hear()
        assert heard is not None and isinstance(heard[0], Hello)
        answer = answers(heard[0])
        if answer is not None:
            listener.say(answer)
        else:
            listener.end()

    thread = threading.Thread(target=listen)
    thread.start()
    monkeypatch.setattr(talk.ports, "connect_raw", lambda *_args, **_options: ours)
    try:
        reach("executor/it", SECRET, 1, 2, "n1")[0].end()
        return True
    finally:
        thread.join()
        listener.end()
        assert descriptors() <= before


def test_who_knows_the_secret_is_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reached(monkeypatch, lambda hello: Welcome((), proofs.of_caller(SECRET, hello.nonce)))


@pytest.mark.parametrize(
    "answers",
    [
        lambda hello: Welcome((), proofs.of_caller(b"x" * proofs.SECRET_BYTES, hello.nonce)),
        lambda hello: Welcome((), proofs.of_caller(SECRET, b"another nonce")),
        lambda hello: Welcome((), hello.proof),
        lambda hello: Welcome(()),
        lambda hello: Stop(),
    ],
)
def test_who_does_not_is_refused(monkeypatch: pytest.MonkeyPatch, answers: Callable[[Hello], Head | None]) -> None:
    with pytest.raises(ProtocolError, match="who listens there is not the executor"):
        reached(monkeypatch, answers)


def test_an_executor_that_sends_its_worker_away_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="ended the connection"):
        reached(monkeypatch, lambda hello: None)
