"""Waiting for descriptors in programs that have many: select(2) fails beyond 1,023."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.bad_policies import install
from unios.client import boot, readiness
from unios.client.conversation import converse
from unios.client.forwarding import _Relay
from unios.core.placement import Candidate
from unios.services.foreign import Foreign
from unios.shell.fullscreen import FullScreen
from unios.shell.session import write


@pytest.fixture
def many() -> Iterator[None]:
    """Have so many descriptors that each new one is beyond 1,023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1_200:
        pytest.skip("this user may not have so many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1_200), hard))
    held: list[int] = []
    try:
        while not held or held[-1] < 1_024:
            held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_what_is_ready_is_told_each_way(many: None) -> None:
    with pair() as (near, far):
        here = near.fileno()
        assert here > 1_023
        assert readiness.wait([here], timeout_s=0) == ([], [])
        assert readiness.wait([here], [here], timeout_s=0) == ([], [here])
        far.send(b"x")
        assert readiness.wait([here], [here]) == ([here], [here])
        assert readiness.wait([], [here], timeout_s=0) == ([], [here])
        near.recv(1)
        far.close()
        assert readiness.wait([here]) == ([here], [])
        near.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            readiness.wait([here])


def test_a_starting_system_is_listened_to(many: None) -> None:
    with subprocess.Popen([sys.executable, "-c", "print('one'); print('two')"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.fileno() > 1_023
        assert list(boot._lines(child.stdout, child.pid, 60_000)) == [b"one", b"two"]


class Asked:
    """A request under way whose items the test gives."""

    op, room, ended = "op", 1, False

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.sent: list[Any] = []

    @property
    def ready(self) -> bool:
        return bool(self.items)

    def next(self, _type: Any) -> Any:
        return self.items.pop(0)

    def send(self, item: Any) -> None:
        self.sent.append(item)

    def end_items(self) -> None:
        self.sent.append(None)
        self.items.append(None)


def test_a_person_is_listened_to(many: None) -> None:
    with pair() as (near, far), pair() as (typing, keyboard):
        asked = Asked([])
        channel = types.SimpleNamespace(fileno=near.fileno, read_until=lambda _deadline, _op: asked.items.append(None))

        class Person:
            left = False

            def descriptors(self, *, typing: bool) -> list[int]:
                return [here]

            def patience_s(self) -> float:
                return 20.0

            def typed(self, ready: list[int]) -> list[str]:
                if here not in ready:
                    return []
                typing_.recv(1)
                far.send(b"x")
                return ["typed"]

        typing_, here = typing, typing.fileno()
        keyboard.send(b"k")
        assert converse(channel, asked, Person(), str, print, quiet_s=20, quiet=lambda: True)  # type: ignore[arg-type]
        assert asked.sent == ["typed"]


def test_a_forwarded_connection_is_listened_to(many: None) -> None:
    with pair() as (near, far), pair() as (wire, _kernel):
        asked = Asked([b"from there"])
        channel = types.SimpleNamespace(is_closed=False, read_until=lambda _deadline, _op: None)
        far.send(b"from here")
        far.shutdown(socket.SHUT_WR)
        relay = _Relay(near, asked, wire.fileno())  # type: ignore[arg-type]
        relay.run(types.SimpleNamespace(channel=lambda: channel))  # type: ignore[arg-type]
        assert far.recv(100) == b"from there"
        assert asked.sent == [b"from here", None]


def test_a_slow_reader_of_a_command_is_waited_for(many: None, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    os.set_blocking(reading, True)
    assert writing > 1_023
    data, stuck, put = os.urandom(1 << 20), threading.Event(), os.write

    def noticed(descriptor: int, part: bytes) -> int:
        try:
            return put(descriptor, part)
        except BlockingIOError:
            stuck.set()
            raise

    def send() -> None:
        with open(writing, "wb", buffering=0):
            write(writing, data)

    monkeypatch.setattr(os, "write", noticed)
    with open(reading, "rb") as reader:
        writer = threading.Thread(target=send)
        writer.start()
        assert stuck.wait(20)
        assert reader.read(len(data)) == data
        writer.join()


def test_keys_of_a_full_screen_are_heard(many: None) -> None:
    keyboard, terminal = os.openpty()
    with open(keyboard, "wb", buffering=0) as typed, open(terminal, "rb", buffering=0), FullScreen(terminal, terminal) as screen:
        assert terminal > 1_023
        typed.write(b"k")
        assert screen.wait(20) == ["k"]


def test_a_foreign_policy_is_asked(many: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    failures: list[str] = []
    policy = Foreign("last", failures.append)
    try:
        assert policy._process.stdout is not None and policy._process.stdout.fileno() > 1_023
        deadline = time.monotonic() + 20
        while not policy.is_ready():
            assert not failures and time.monotonic() < deadline, failures
            readiness.wait([policy._process.stdout.fileno()], timeout_s=1)
        assert policy.ask([Candidate(name, 0, 1, ("*",)) for name in ("n1", "n2")]) == ["n2", "n1"]
    finally:
        policy.close()
