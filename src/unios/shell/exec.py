"""`unios exec`: a program opened inside a process that runs: its namespaces, its control group, its user, its leash. Its exit code is passed on."""

import os
import signal
from collections.abc import Iterator

import msgspec

from unios.client.sessions import execute
from unios.shell import terminals
from unios.shell.local import LocalTerminal
from unios.shell.session import Session, write
from unios.shell.signals import pid_of
from unios.shell.words import Given, Misused, Option, Word
from unios.wire.terminals import Execute, Typed

HUNG_UP = 129


class _Speaker(LocalTerminal):
    """Signals to this command go to the session; the closing of the terminal hangs it up."""

    def __init__(self, session: Session, *, terminal: bool, typing: bool) -> None:
        super().__init__(session, b"", typing=typing, end=b"\x04" if terminal else b"")
        self._signals: list[int] = []

    def on_signals(self) -> None:
        caught, self.caught = self.caught, []
        self.left = self.left or signal.SIGHUP in caught
        self._signals += [number for number in caught if number != signal.SIGHUP]

    def typed(self, ready: list[int]) -> Iterator[Typed]:
        yield from super().typed(ready)
        while self._signals:
            yield Typed(signal=self._signals.pop(0))


def exec_(session: Session, given: Given) -> int:
    pid = pid_of(given.arguments[0])
    words = given.arguments[2:] if given.arguments[1:2] == ("--",) else given.arguments[1:]
    argv = tuple(os.fsencode(argument) for argument in words)
    if given.flag("terminal") and given.flag("no_terminal"):
        raise Misused("-t asks for a terminal and -T for none: leave one out")
    terminal = not given.flag("no_terminal") and (given.flag("terminal") or os.isatty(0))
    rows, columns = terminals.size() if terminal else (0, 0)
    env = tuple(_variable(text) for text in given.many("env"))
    if terminal:
        env = ((b"TERM", terminals.term()), *env)
    wanted = Execute(pid, argv, env, os.fsencode(given.text("cwd")), rows, columns)
    with _Speaker(session, terminal=terminal, typing=not given.flag("no_stdin")) as local:
        code = execute(session.connection, wanted, local)
    if session.json:
        write(2, msgspec.json.encode({"pid": pid, "exit_code": code}) + b"\n")
    return HUNG_UP if code is None else code


def _variable(text: str) -> tuple[bytes, bytes]:
    name, equals, value = os.fsencode(text).partition(b"=")
    if not name or not equals:
        raise Misused(f"--env {text}: write NAME=VALUE")
    return name, value


WORDS = {
    "exec": Word(
        exec_,
        Option("terminal", "-t", "--terminal", text="Give it a terminal [default: if stdin is one]."),
        Option("no_terminal", "-T", "--no-terminal", text="Give it pipes."),
        Option("no_stdin", "-n", "--no-stdin", text="Do not read stdin."),
        Option("env", "-e", "--env", metavar="NAME=VALUE", many=True, text="Set a variable on top of the process's own."),
        Option("cwd", "--cwd", metavar="DIR", text="Where it runs [default: where the process was started]."),
        argument="PID [COMMAND [ARGUMENT]...]",
        least=1,
        rest=True,
        text="Open a program, by default its user's shell, inside a process that runs. It ends with that process.",
    )
}
