"""`unios kill`, `wait`, `freeze`, `thaw`: what is said to processes by their pids. Each of several is tried, any failure shows."""

import signal
from collections.abc import Callable

from unios.client import processes
from unios.client.connection import Connection
from unios.errors import CallerError, DiskFull, NotFound, UniosError, to_wire
from unios.shell.ps import describe
from unios.shell.session import Session, tell
from unios.shell.words import Given, Misused, Option, Word

_PIDS = "PID..."


def pid_of(text: str) -> int:
    """Return a global pid; Misused if it is none."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Misused(f"{text!r} is no pid: `unios ps` shows them")
    return int(text)


def number_of(text: str) -> int:
    """Return a signal's number from its name, with or without SIG, or from a number; Misused if there is none."""
    if text.isascii() and text.isdigit() and len(text) < 4:
        number = int(text)
        if number == 0 or number in signal.valid_signals():
            return number
    name = text.upper().removeprefix("SIG")
    try:
        return signal.Signals[f"SIG{name}"].value
    except KeyError:
        raise Misused(f"there is no signal {text!r}: write a name such as TERM or a number") from None


def _prepare(typed: list[str]) -> list[str]:
    """Turn kill's old form, -9 or -KILL, into an option."""
    import re

    end = typed.index("--") if "--" in typed else len(typed)
    old = re.compile(r"-([0-9]{1,3}|[A-Z][A-Z0-9+]+)")
    for at, token in enumerate(typed[:end]):
        if (match := old.fullmatch(token)) and (at == 0 or typed[at - 1] not in ("-s", "--signal", "--node", "--home")):
            return [*typed[:at], f"--signal={match[1]}", *typed[at + 1 :]]
    return typed


def each(session: Session, pids: tuple[str, ...], does: Callable[[Connection, int], None], verb: str) -> int:
    """Do it to each of several pids, as typed; return the exit code of the first that failed, which is told."""
    code = 0
    done: list[int] = []
    for pid in [pid_of(text) for text in pids]:
        try:
            does(session.connection, pid)
            done.append(pid)
        except UniosError as error:
            tell(*to_wire(error), as_json=session.json)
            code = code or error.exit_code
    if session.json:
        session.print_json({verb: done})
    return code


def kill(session: Session, given: Given) -> int:
    number = number_of(given.text("signal") or "TERM")
    tree = given.flag("tree")

    def send(connection: Connection, pid: int) -> None:
        killed = waits = False

        def attempt() -> None:
            nonlocal killed, waits
            try:
                waits = processes.signal(connection, pid, number, tree=tree)
            except DiskFull:
                killed = number == signal.SIGKILL
                raise
            except NotFound:
                if not killed:  # else it has ended by what was sent before, and there was room to record that
                    raise

        connection.persist(attempt, after=(DiskFull,))  # after which nothing was done, or what may be done again
        if waits and not session.json:
            session.note(f"{pid} is frozen, so the signal waits until `unios thaw {pid}`; `unios kill -9 {pid}` ends it as it stands")

    return each(session, given.arguments, send, "signalled")


def freeze(session: Session, given: Given) -> int:
    return each(session, given.arguments, processes.freeze, "frozen")


def thaw(session: Session, given: Given) -> int:
    return each(session, given.arguments, processes.thaw, "thawed")


def wait(session: Session, given: Given) -> int:
    timeout_s = given.number("timeout") if "timeout" in given.values else None
    code = 0
    for pid in [pid_of(text) for text in given.arguments]:
        view = processes.wait(session.connection, pid, timeout_s=timeout_s)
        if session.json:
            session.print_json(describe(view))
        if view.state not in processes.ENDED:
            raise CallerError(f"{pid} is still {view.state} after {timeout_s} s")
        if view.state != "exited" and view.reason and not session.json:
            session.note(f"{pid} {view.state}: {view.reason}")
        code = 125 if view.exit_code is None else view.exit_code
    return code


WORDS = {
    "kill": Word(
        kill,
        Option("signal", "-s", "--signal", metavar="SIGNAL", text="Name or number [default: TERM]; also -9, -KILL."),
        Option("tree", "-t", "--tree", text="To every Linux process of the tree, not only to the program."),
        argument=_PIDS,
        least=1,
        prepare=_prepare,
        text="Send a signal to processes, wherever they run.",
    ),
    "wait": Word(
        wait,
        Option("timeout", "--timeout", metavar="SECONDS", number=True, text="Give up after so long."),
        argument=_PIDS,
        least=1,
        text="Wait until processes have ended, whatever happens to their nodes. The exit code is the last one's.",
    ),
    "freeze": Word(freeze, argument=_PIDS, least=1, text="Stop processes where they stand; `thaw` lets them go on."),
    "thaw": Word(thaw, argument=_PIDS, least=1, text="Let frozen processes go on."),
}
