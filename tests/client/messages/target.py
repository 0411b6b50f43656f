"""What the tests of ports call."""

import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from unios.client.messages.server import caller
from unios.errors import Denied


class Target:
    """What the tests call."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.may_go_on = threading.Event()
        self.stopped: list[str] = []
        self.made = 0

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(args)
        return (args, kwargs)

    def one(self, value: Any) -> Any:
        self.calls.append(value)
        return value

    def slow(self, value: Any) -> Any:
        self.calls.append(value)
        self.may_go_on.wait(20)
        return value

    def count(self, upto: int, size: int = 0) -> Iterator[Any]:
        try:
            for number in range(upto):
                self.made = number + 1
                yield (number, b"x" * size)
        finally:
            self.stopped.append("count")

    def fail(self, kind: str) -> NoReturn:
        if kind == "value":
            error = ValueError("no such thing")
            error.add_note("a note of the handler")
            raise error
        if kind == "exit":
            sys.exit(3)
        if kind == "local":

            class OfItsOwn(Exception):
                pass

            raise OfItsOwn("cannot travel")
        if kind == "bad":
            raise BadText
        if kind == "surrogate":
            raise ValueError("\udcff")
        if kind == "arguments":
            raise NeedsTwo(1, 2)
        raise Denied("the handler says no")

    def lock(self) -> Any:
        return threading.Lock()

    def who(self) -> str:
        return caller().user


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


class NeedsTwo(Exception):
    def __init__(self, one: int, _two: int) -> None:
        super().__init__(one)
