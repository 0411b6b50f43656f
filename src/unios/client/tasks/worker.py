"""Worker: a forked process that carries out one task after the other, in its main thread.

It ends when it is told to, when the connection ends, or with its parent. What it is asked is answered in the order in which it was given.
"""

import contextlib
import ctypes
import os
import random
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from unios.client.tasks import cancelling, nested, surroundings
from unios.client.tasks.calls import no_room
from unios.client.tasks.functions import Shipped
from unios.client.tasks.page import Page
from unios.client.tasks.talk import Talk, reach
from unios.client.tasks.values import pack, pack_failure
from unios.errors import Unavailable, UniosError
from unios.wire.parcels import Answer, Give, Part, Ready, Refused, Stop, is_short, sizes_of

PR_SET_PDEATHSIG: Final = 1


class Worker:
    """What one process of it knows."""

    def __init__(self, talk: Talk, page: Page, place: int, key: str) -> None:
        self._talk, self._page, self._place = talk, page, place
        self._functions = Shipped()
        self._tasks = nested.Seat(talk, key)
        self._pid = os.getpid()

    def run(self) -> None:
        """Carry out tasks until there will be no more."""
        nested.sit(self._tasks)
        cancelling.look = lambda: self._page.is_disowned(self._place)
        while (heard := self._tasks.hear()) is not None:
            head, parts = heard
            if isinstance(head, Stop):
                return
            if isinstance(head, Give):
                if is_short(head, parts):
                    raise Unavailable(str(no_room("a call that was given to it", head)))  # another worker may have it; the function may be among it
                if head.fresh:
                    self._functions.put(head.function, parts.pop(0))
                if self._page.begin(self._place, head.turn):
                    self._carry_out(head, parts)
                else:
                    self._talk.say(Refused((), head.turn))

    def _carry_out(self, head: Give, parts: list[Part]) -> None:
        self._tasks.turn = head.turn
        failed = False
        try:
            function = self._functions.callable(head.function)
            arguments = surroundings.loads(parts)
            parts.clear()
            if head.many:
                result: Any = [function(*one) for one in arguments]
            else:
                result = function(*arguments[0], **arguments[1])
            del arguments
            answer = pack(result, f"the result of {getattr(function, '__qualname__', 'the task')}, a {type(result).__qualname__},")
            del result
        except BaseException as error:  # noqa: BLE001  whatever a task raises is its answer, as with the standard library
            failed, answer = True, pack_failure(error)
        if os.getpid() != self._pid:  # the task has forked: its child has come back, too, and shall not answer nor take tasks
            _end(0)
        self._talk.say(Answer(sizes_of(answer), head.turn, failed), answer)


def start(secret: bytes, port: str, crew: int, worker: int, node: str, page: Page, place: int, parent: int) -> None:
    """Be that worker; never returns. Called in the forked child, which holds nothing of its parent's that it should not."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        reseed()
        talk, welcome = reach(port, secret, crew, worker, node)
        if initialized(talk, welcome):
            Worker(talk, page, place, port).run()
        code = 0
    except (OSError, UniosError) as error:
        print(f"a worker could not go on: {error}", file=sys.stderr)
    finally:
        _end(code)


def _end(code: int) -> NoReturn:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def initialized(talk: Talk, welcome: Sequence[Part]) -> bool:
    """Call the initializer and say how that went; whether it went well."""
    try:
        if welcome:
            surroundings.call(welcome)
    except BaseException as error:  # noqa: BLE001
        failure = pack_failure(error)
        talk.say(Ready(sizes_of(failure)), failure)
        return False
    talk.say(Ready())
    return True


def reseed() -> None:
    """Let no two workers draw the same numbers; Python's own generator is seen to by Python, others only if they are there."""
    random.seed()
    drawn = sys.modules.get("numpy.random")  # numpy imports that when it is first used
    if drawn is not None:
        with contextlib.suppress(Exception):
            drawn.seed()
