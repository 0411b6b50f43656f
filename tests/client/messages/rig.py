"""A broker in this process: ports and servers that talk over socket pairs, whose connections a test can cut at any moment. No kernel, no node."""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from unios.client.messages import places
from unios.client.messages import server as servers
from unios.client.messages.line import Line
from unios.client.messages.port import Port
from unios.client.messages.server import Server
from unios.errors import NotFound, Unavailable
from unios.wire.operations import Accepted


class Rig:
    """`local`: the two sides hand descriptors over. `user`: who the kernel says the caller is; `owner`: who it says listens."""

    def __init__(self, monkeypatch: Any) -> None:
        self.listening: dict[str, Callable[[Accepted, socket.socket, str], None]] = {}
        self.local = True
        self.user = self.owner = servers.me()
        self.connections: list[tuple[socket.socket, socket.socket]] = []
        """Duplicates of both ends, as the broker keeps them."""
        self.connected = 0
        self.granted: list[tuple[str, str]] = []
        self.due: list[tuple[float, Callable[[], None]]] = []
        """What is to be done in how many seconds; a test does it."""
        self.revoked: Callable[[], object] = lambda: None
        """What the kernel does when a user loses a right."""
        monkeypatch.setattr(servers.Acceptor, "of", lambda _home, _node: self)
        monkeypatch.setattr(places, "connect", self.connect)

    # as the acceptor

    def listen(self, name: str, _mode: int, accepted: Callable[[Accepted, socket.socket, str], None], _lost: Callable[[], None]) -> None:
        self.listening[name] = accepted

    def close(self, name: str, _accepted: object = None) -> None:
        self.listening.pop(name, None)

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        self.due.append((seconds, work))

    def grant(self, name: str, user: str) -> None:
        self.granted.append((name, user))

    def revoke(self, name: str, user: str) -> None:
        self.granted = [entry for entry in self.granted if entry != (name, user)]
        self.revoked()

    # as the kernel

    def connect(self, _connection: object, name: str, deadline: float | None, *, until: float | None, keeps: bool = False) -> Line:
        while name not in self.listening:
            if deadline is not None and time.monotonic() >= deadline:
                raise NotFound(f"nobody listens on port {name}")
            os.sched_yield()
        near, _nothing = self.pair(name)
        return Line(near, local=self.local, trusted=self.owner == servers.me(), keeps=keeps)

    def pair(self, name: str) -> tuple[socket.socket, None]:
        """Connect by hand: the listener gets one end, the test the other."""
        near, far = socket.socketpair()
        if len(self.connections) >= 256:
            raise Unavailable("the test makes too many connections")
        self.connections.append((near.dup(), far.dup()))
        self.connected += 1
        self.listening[name](Accepted(self.connected, name, self.user, False, "here"), far, "here" if self.local else "elsewhere")
        return near, None

    def cut(self) -> None:
        """Lose every connection there is, with what is in it: its end, for a link never loses from the middle, so one call takes all that is queued."""
        for pair in self.connections:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.recv(16 << 20, socket.MSG_DONTWAIT)
                sock.close()
        self.connections.clear()

    def server(self, target: Any, name: str = "p") -> Server:
        return Server(name, target)

    def port(self, name: str = "p", timeout: float | None = 10) -> Port:
        return Port(name, timeout=timeout)


def until(condition: Callable[[], Any], what: str, timeout: float = 20) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        os.sched_yield()
