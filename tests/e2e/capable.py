"""A program of the tests that hands out capabilities, or uses them: `python -m tests.e2e.capable (give|hold) PORT NODE [MODE]`."""

import signal
import sys
import time
from collections.abc import Iterator

from unios.client.messages.capabilities import Capabilities, Capability
from unios.client.messages.server import Server, caller


class Notes:
    """What is protected."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def read(self) -> list[str]:
        return list(self.lines)

    def write(self, line: str) -> str:
        self.lines.append(line)
        return caller().node

    def ticks(self) -> Iterator[int]:
        for number in range(10_000):
            time.sleep(0.02)
            yield number


class Giver:
    """Hands out the first one to whoever is its user."""

    def __init__(self, port: str, capabilities: Capabilities) -> None:
        self.port, self.capabilities = port, capabilities

    def first(self) -> Capability:
        return self.capabilities.mint(self.port)


class Holder:
    """Has been passed a capability on another node, and uses it there."""

    def __init__(self) -> None:
        self.held: dict[str, Capability] = {}

    def take(self, name: str, given: Capability) -> None:
        self.held[name] = given

    def use(self, name: str, op: str, arguments: list[str]) -> object:
        return self.held[name].options(timeout=20).call(op, *arguments)

    def weaken(self, name: str, new: str, operations: list[str] | None, uses: int | None, seconds: float | None) -> Capability:
        self.held[new] = self.held[name].derive(operations=operations, uses=uses, seconds=seconds)
        return self.held[new]

    def revoke(self, name: str) -> int:
        return self.held[name].options(timeout=20).revoke()


def main(what: str, port: str, node: str, mode: str = "600") -> None:
    if what == "give":
        notes = Capabilities(Notes())
        kept = [Server(port, notes, node=node, mode=int(mode, 8)), Server(f"{port}/giver", Giver(port, notes), node=node)]
    else:
        kept = [Server(port, Holder(), node=node, mode=int(mode, 8))]
    print("listening", flush=True)
    while kept:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
