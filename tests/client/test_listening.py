"""A listener of a program: what it makes of what a kernel hands it."""

import os
import socket
from typing import Any

import msgspec

from unios.client.listening import Listener
from unios.wire.operations import Accepted


class Kernel:
    """Answers a listener's question with a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def begin(self, *_question: object, **_options: object) -> "Kernel":
        return self

    def finish(self, **_options: object) -> tuple[bytes, list[int]]:
        return b"", [self._descriptor]


def test_what_is_accepted_is_not_for_programs_that_are_started_from_here() -> None:
    """One that outlives this program would keep its connections open: nobody would notice that it has ended."""
    kernel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asked: Any = Kernel(theirs.detach())
    listener = Listener(asked, "p")
    near, far = socket.socketpair()
    socket.send_fds(kernel, [msgspec.msgpack.encode(Accepted(1, "p", "me", False, "n1"))], [far.fileno()])
    accepted = listener.accept()
    assert accepted is not None and accepted[0].user == "me"
    assert not os.get_inheritable(accepted[1].fileno())
    accepted[1].close()
    assert listener.fileno() >= 0 and not os.get_inheritable(listener.fileno())
    listener.close()
    for sock in (kernel, near, far):
        sock.close()
