"""An engine without a kernel: its thread and its connections are real, the test is its parents and workers and says what these would say."""

import contextlib
import pickle
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future

from unios.client.tasks import proofs
from unios.client.tasks.calls import Call
from unios.client.tasks.engine import Engine
from unios.client.tasks.future import TaskFuture
from unios.client.tasks.talk import Talk
from unios.client.tasks.values import pack
from unios.core.crews import Crew
from unios.core.task_orders import Loss
from unios.wire.operations import Accepted
from unios.wire.parcels import Answer, Fork, Give, Head, Hello, Part, Ready, Submit, Welcome, sizes_of

SECRET = b"s" * proofs.SECRET_BYTES


class Rig:
    """An engine whose thread runs."""

    def __init__(self, workers: int) -> None:
        self.engine = Engine(workers=workers, user="me", secret=SECRET, setup=[], initializer=[])
        self.hired: list[Crew] = []
        self.engine.hire = self.hired.append
        self.thread = self.engine.thread = threading.Thread(target=self.engine.run)
        self.thread.start()
        self.talks: list[Talk] = []

    def connect(self, crew: int, worker: int, *, user: str = "me", secret: bytes = SECRET) -> Talk:
        """Greet as a parent (0) or worker does."""
        ours, theirs = socket.socketpair()
        talk = Talk(ours)
        ours.settimeout(10)
        self.talks.append(talk)
        self.engine.post(self.engine._greet, Accepted(1, "port", user, False, "n1"), theirs)
        nonce = proofs.new_nonce()
        with contextlib.suppress(OSError):
            talk.say(Hello((), crew, worker, f"n{crew}", nonce, proofs.of_worker(secret, nonce, crew, worker)))
        return talk

    def parent(self, crew: int, seats: int) -> Talk:
        """Be a crew's parent that may fork."""
        self.engine.post(self.engine.hired, crew, Crew(seats, 1000, 0))
        talk = self.connect(crew, 0)
        assert isinstance(heard(talk)[0], Welcome)
        talk.say(Ready())
        return talk

    def worker(self, parent: Talk, crew: int) -> tuple[int, Talk]:
        """Be the next worker that a parent is asked for."""
        fork = heard(parent)[0]
        assert isinstance(fork, Fork)
        talk = self.connect(crew, fork.worker)
        assert isinstance(heard(talk)[0], Welcome)
        talk.say(Ready())
        return fork.worker, talk

    def submit(self, value: object = 1, *, retries: int = 0) -> TaskFuture:
        future = TaskFuture()
        self.engine.submit(Call(future, b"f", pickle.dumps(abs), pack(value, "it"), False, retries))
        return future

    def settle(self) -> None:
        """Return when the engine has done all that it was asked before."""
        done: Future[None] = Future()
        self.engine.post(done.set_result, None)
        done.result(10)

    @contextlib.contextmanager
    def losing(self, crew: int) -> Iterator[None]:
        """Lose a crew; what its workers say meanwhile are their last words, which lie unread when that is told."""
        said: Future[None] = Future()
        began = threading.Event()

        def lose() -> None:
            began.set()
            said.result(10)
            self.engine.crew_told(crew, Loss("node", "was lost with its node n1"))

        self.engine.post(lose)
        assert began.wait(10)
        yield
        said.set_result(None)

    def close(self) -> None:
        self.engine.post(self.engine.fail, "the test ends")
        self.engine.post(self.engine.stop)
        self.thread.join(10)
        self.engine.release()
        for talk in self.talks:
            talk.end()
        assert not self.thread.is_alive()


def heard(talk: Talk) -> tuple[Head, list[Part]]:
    found = talk.hear()
    assert found is not None, "the connection has ended"
    return found


def given(talk: Talk) -> Give:
    head = heard(talk)[0]
    assert isinstance(head, Give), head
    return head


def answer(talk: Talk, turn: int, value: object) -> None:
    parts = pack(value, "it")
    talk.say(Answer(sizes_of(parts), turn, False), parts)


def submit(talk: Talk, number: int) -> None:
    parts = [pickle.dumps(abs), *pack(((1,), {}), "it")]
    talk.say(Submit(sizes_of(parts), number, b"f", False, 0), parts)
