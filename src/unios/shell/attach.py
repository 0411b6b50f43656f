"""`unios attach`, and `run -t`: a process's terminal at one's own, from any node.

What a closed terminal does is chosen for `run -t`: it ends the program, as with ssh, or detaches from it, as with tmux. An attached watcher that goes ends
nothing. Signals to `run -t` go to the program; to `attach` they mean detach.
"""

import signal
from collections.abc import Callable

from unios.client import processes
from unios.client.attachment import Attachment, hang_up
from unios.client.connection import PASSING
from unios.errors import NotFound, UniosError
from unios.shell import keys
from unios.shell.local import LocalTerminal
from unios.shell.ps import describe
from unios.shell.session import Session, write
from unios.shell.signals import pid_of
from unios.shell.words import Given, Option, Word
from unios.wire.operations import ProcessView, Submitted

FAILED = 125
HUNG_UP = 129
_PATIENCE_S = 5.0

DETACH_KEYS = Option(
    "detach_keys",
    "--detach-keys",
    metavar="KEYS",
    text="Keys that detach, as in ctrl-p,ctrl-q [default: Ctrl-\\ twice within a second]; none for none.",
)


def detach_keys(given: Given) -> bytes:
    return keys.parse(given.text("detach_keys") or keys.DEFAULT)


def attach(session: Session, given: Given) -> int:
    pid = pid_of(given.arguments[0])
    chosen = detach_keys(given)
    with LocalTerminal(session, chosen, watching=given.flag("read_only")) as local:
        _speak_through(session, local)
        view = Attachment(session.connection, pid, local).run()
    return 0 if local.gone else _ending(session, pid, view)


class _Owner(LocalTerminal):
    """The terminal of who has started the program: signals are passed on to it, but for the one of a closed terminal."""

    pid = 0
    hung_up = False

    def on_signals(self) -> None:
        caught, self.caught = self.caught, []
        for number in caught:
            if number == signal.SIGHUP:
                self.left = self.hung_up = True
            else:
                self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        connection = self._session.connection.again()
        try:
            processes.signal(connection, self.pid, number, timeout_s=_PATIENCE_S)
        except NotFound:
            pass
        except UniosError as error:
            self.note(f"the signal could not be passed on: {error}")
        finally:
            connection.close()


def _speak_through(session: Session, local: LocalTerminal) -> None:
    """What is to be told while the terminal is raw comes on a line of its own."""
    if session.connection.tell is not None:
        session.connection.tell = local.note


class Staying:
    """The terminal of a process, from its submission until it ends or is left: one that is closed between the two is not missed."""

    def __init__(self, session: Session, given: Given) -> None:
        self._session, self._ends = session, given.text("on_hangup") != "detach"
        self._local = _Owner(session, detach_keys(given), typing=not given.flag("no_stdin"))
        self.submitted: Submitted | None = None

    def run(self, submit: Callable[[], Submitted], explain: Callable[[Submitted], None]) -> int:
        """Submit it, say what is to be said of that, and stay; return the exit code. What is raised before `submitted` is there is of the submission."""
        session = self._session
        with self._local as local:
            submitted = self.submitted = submit()
            local.pid = submitted.pid
            explain(submitted)
            _speak_through(session, local)
            begun = ProcessView(submitted.pid, submitted.state, submitted.node, "", (), submitted.incarnation)
            view = Attachment(session.connection, submitted.pid, local, hang_up=self._ends, hold=True).run(begun)
            if local.hung_up and self._ends:
                return _hang_up(session, submitted.pid)
        return 0 if local.gone or local.hung_up else _ending(session, submitted.pid, view)


def _hang_up(session: Session, pid: int) -> int:
    """The terminal is gone: so is the program's. Should nobody answer, the init does the same by itself after a while. What waits has neither: it ends."""
    connection = session.connection.again()
    try:
        if processes.view(connection, pid).state == "pending":
            processes.signal(connection, pid, signal.SIGHUP, timeout_s=_PATIENCE_S)
        else:
            hang_up(connection, pid, timeout_s=_PATIENCE_S)
    except (NotFound, *PASSING):
        pass
    finally:
        connection.close()
    return HUNG_UP


def _ending(session: Session, pid: int, view: ProcessView | None) -> int:
    if view is None:
        if session.json:
            session.print_json({"pid": pid, "detached": True})
        else:
            session.note(f"detached from {pid}; `unios attach {pid}` comes back to it")
        return 0
    if session.json:
        import msgspec

        write(2, msgspec.json.encode(describe(view)) + b"\n")
    elif view.reason:
        session.note(view.reason)
    return FAILED if view.exit_code is None else view.exit_code


WORDS = {
    "attach": Word(
        attach,
        DETACH_KEYS,
        Option("read_only", "-r", "--read-only", text="Only watch: nothing that is typed is passed on."),
        argument="PID",
        least=1,
        one=True,
        no_json="attach shows a terminal, which is not JSON; `unios logs PID --json` shows what the process wrote",
        text="Be at the terminal of a process, from any node; several may. Ctrl-\\ twice detaches. The exit code is the program's.",
    )
}
