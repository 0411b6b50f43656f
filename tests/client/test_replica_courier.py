"""What tells the copies of an object goes on, whatever a copy sends, and whoever waits for the object hears why it cannot be loaded."""

import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from unios.client.replicas import courier, leader
from unios.client.replicas.config import configure
from unios.core.replication import Contents, Have, Message, Pull, Reply, Seal, Took
from unios.errors import CallerError

WAIT_S = 20


class Counter:
    """Its state is a number."""

    def __init__(self) -> None:
        self.number = 0

    def add(self) -> int:
        self.number += 1
        return self.number


CONFIG = pickle.dumps(configure(Counter, "counter", "primary-backup", 2, (), 1_000), 5)
OF_ANOTHER = pickle.dumps(Counter(), 5).replace(b"Counter", b"Missing")


class Silent(courier.Courier):
    """Gets one answer to everything."""

    answer = Have(1, 2, 1, 3)

    def _tell(self, _message: Message) -> Reply | None:
        return self.answer


def test_a_courier_goes_on_after_an_answer_that_cannot_be_taken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "OBJECT_RETRY_MS", 1)
    told: list[Reply | None] = []
    enough, stop = threading.Event(), threading.Event()

    def next_message() -> Message:
        if len(told) >= 4:
            enough.set()
            stop.wait()
        return Seal(1, 2)

    def heard(_message: Message, reply: Reply | None) -> None:
        told.append(reply)
        if reply is not None:
            raise CallerError("it cannot be loaded")

    Silent(7, next_message, heard)
    assert enough.wait(WAIT_S), "its thread has ended"
    assert told == [Silent.answer, None, Silent.answer, None]
    assert "copy in process 7: it cannot be loaded" in capsys.readouterr().err


class Spoken:
    """In place of a courier: the test says what the copy answers."""

    def __init__(self, pid: int, next_message: Callable[[], Message], heard: Callable[[Message, Reply | None], None]) -> None:
        self.pid, self.next, self.heard = pid, next_message, heard


def test_whoever_waits_hears_that_the_object_cannot_be_loaded_and_gets_it_when_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "Courier", Spoken)
    monkeypatch.setattr(leader.Leader, "_look", lambda _self: None)
    made = leader.Leader("counter", 5, 2)
    with made._changed:
        made._table({0: leader.Host(5, 2, ""), 1: leader.Host(6, 1, "")})
    copy: Any = made._couriers[1]
    copy.heard(copy.next(), Have(1, 2, 1, 3))
    pull = copy.next()
    assert isinstance(pull, Pull)
    failed: list[str] = []

    def wait() -> None:
        try:
            assert made.config
        except CallerError as error:
            failed.append(str(error))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    with pytest.raises(CallerError, match="cannot be loaded here"):
        copy.heard(pull, Have(1, 2, 1, 3, Contents(OF_ANOTHER, b"", ())))
    waiting.join(WAIT_S)
    assert failed and "Missing" in failed[0]
    copy.heard(pull, None)
    assert isinstance(copy.next(), Pull), "it is asked again"
    copy.heard(pull, Have(1, 2, 1, 3, Contents(CONFIG, pickle.dumps(Counter(), 5), ())))
    install = copy.next()
    copy.heard(install, Took(1, 2, 3))
    assert made.config.name == "counter"
