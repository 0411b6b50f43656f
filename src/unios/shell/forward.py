"""Signals to `unios run` become signals to the program, as a terminal's do to what runs in it."""

import signal
from types import FrameType
from typing import Any

from unios.client import processes
from unios.errors import NotFound, UniosError
from unios.shell.session import Session

_FROM_TERMINAL = {signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}
"""A terminal sends these to everybody in the foreground: so they go to the whole tree."""
_ALL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)
_PATIENCE_S = 5.0


class Forwarder:
    """While it is entered the signals are passed on: the second Ctrl-C kills, the third gives up waiting."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pid = 0
        self._held: list[int] = []
        self._interrupts = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Forwarder":
        for number in _ALL:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def begin(self, pid: int) -> None:
        """Pass on to `pid` what has come and what will come."""
        self._pid = pid
        for number in self._held:
            self.pass_on(number, tree=number in _FROM_TERMINAL)

    def pass_on(self, number: int, *, tree: bool) -> None:
        """Send it to the program; a program that has ended is fine, a system that does not answer is told."""
        connection = self._session.connection.again()
        try:
            processes.signal(connection, self._pid, number, tree=tree, timeout_s=_PATIENCE_S)
        except NotFound:
            pass
        except UniosError as error:
            self._session.note(f"the signal could not be passed on: {error}")
        finally:
            connection.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
        if self._interrupts >= 3 or (self._interrupts == 2 and not self._pid):
            raise KeyboardInterrupt
        if not self._pid:
            self._held.append(number)
            return
        if number == signal.SIGINT and self._interrupts == 2:
            self.pass_on(signal.SIGKILL, tree=True)
        else:
            self.pass_on(number, tree=number in _FROM_TERMINAL)
