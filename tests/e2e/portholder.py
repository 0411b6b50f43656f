"""A program of the tests: listens on a port of the system in its UNIOS_HOME. Arguments: the port's name, the node, its mode."""

import gc
import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from unios.client.messages import memory
from unios.client.messages.port import Port
from unios.client.messages.server import Server, caller
from unios.wire.operations import Accepted


class Target:
    """What the tests call."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self.done: dict[Any, int] = {}
        self.stamps: list[Accepted] = []

    def one(self, value: Any) -> Any:
        return value

    def pid(self) -> int:
        return os.getpid()

    def who(self) -> tuple[str, str]:
        self.stamps.append(caller())
        return caller().user, caller().node

    def do(self, number: int) -> int:
        """Something that may be done once."""
        self.done[number] = self.done.get(number, 0) + 1
        return number

    def twice(self) -> list[int]:
        return [number for number, times in self.done.items() if times > 1]

    def slow(self, number: int, path: str) -> int:
        """Answer when that file is there."""
        self.do(number)
        while not os.path.exists(path):
            time.sleep(0.01)
        return number

    def fail(self) -> None:
        error = KeyError("gone")
        error.add_note("noted there")
        raise error

    def count(self, upto: int, size: int) -> Iterator[tuple[int, bytes]]:
        for number in itertools.islice(itertools.count(), upto):
            yield number, b"x" * size

    def large(self, size: int) -> memoryview:
        buffer = memory.allocate(size)
        buffer[:4] = buffer[-4:] = b"ends"
        return buffer

    def length(self, data: Any) -> int:
        return len(data)

    def through(self, port: Any, value: Any) -> Any:
        """Call through a port that came in the message."""
        return port.options(timeout=20).one(value)

    def give(self, name: str) -> Port:
        return Port(name, timeout=20)

    def die(self) -> None:
        os.kill(os.getpid(), 9)

    def descriptors(self) -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    def grant(self, user: str) -> None:
        assert self.server is not None
        self.server.grant(user)

    def revoke(self, user: str) -> int:
        assert self.server is not None
        return self.server.revoke(user)


if __name__ == "__main__":
    target = Target()
    target.server = Server(sys.argv[1], target, node=sys.argv[2], mode=int(sys.argv[3], 8))
    print("listening", flush=True)
    while True:  # when another has taken the port over, it goes on to answer those who are connected
        signal.pause()
