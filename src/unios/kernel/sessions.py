"""Sessions: programs that `exec` opens inside a running tree, as its init makes them: in its namespaces and its group, as its user, under its leash.

The init only forks and reaps. The session's terminal or pipes go to the kernel that asked, and with them the session: like one of ssh it is hung up when
its connection is gone. It never outlives its tree: it is frozen and killed with everything else in it.
"""

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING, Any, Final

from unios.kernel import clone, program, terminal
from unios.kernel.poller import Client
from unios.limits import SESSION_KILL_S, SESSIONS_MAX

if TYPE_CHECKING:
    from unios.kernel.init import Init

_NETWORK: Final = 0x40000000
_REPORT_BYTES_MAX: Final = 4096


class _Session:
    __slots__ = ("client", "id", "ours", "pid", "report", "said", "theirs")

    def __init__(self, client: Client, id_: object, ours: list[int], theirs: list[int], report: int) -> None:
        self.client, self.id, self.ours, self.theirs, self.report = client, id_, ours, theirs, report
        self.pid = 0
        self.said = b""


class Sessions:
    """Those of one tree."""

    def __init__(self, init: "Init") -> None:
        self._init = init
        self._sessions: dict[int, _Session] = {}
        """By the pid of its program."""

    def open(self, client: Client, fields: dict[str, Any]) -> None:
        """Start a program; the answer, with its terminal or its three pipes, goes to `client`, later an event `session` with how it ended."""
        try:
            if self._init.status is not None or self._init.ending or not self._init.started:
                raise program.Refused("not-found", "the program has ended, or has not begun")
            if self._init.state() == "frozen":
                raise program.Refused(
                    "unavailable", f"the process is frozen, and what is opened in it would be too: thaw it first (unios thaw {self._init.job.pid})"
                )
            if len(self._sessions) >= SESSIONS_MAX:
                raise program.Refused("unavailable", f"{SESSIONS_MAX} programs have been opened in it, which is the limit")
            job = program.parse({**fields, "pid": self._init.job.pid, "incarnation": self._init.job.incarnation})
            self._start(client, fields.get("id"), job)
        except program.Refused as refused:
            client.send({"id": fields.get("id"), "error": refused.args[0], "text": refused.args[1]})
        except OSError as error:
            client.send({"id": fields.get("id"), "error": "unavailable", "text": f"it could not be opened: {error.strerror or error}"})

    def _start(self, client: Client, id_: object, job: program.Job) -> None:
        ours, theirs = _stdio(job)
        try:
            report, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            _close(ours, theirs)
            raise
        self._init.disturbed = True
        session = _Session(client, id_, ours, theirs, report)
        try:
            session.pid = os.fork()
        except OSError:
            _close(ours, theirs, [report, write])
            raise
        if session.pid == 0:
            self._become(job, theirs, write)
        os.close(write)
        self._sessions[session.pid] = session
        self._init.poller.add(report, lambda _mask: self._reported(session))

    def _become(self, job: program.Job, stdio: list[int], report: int) -> None:
        try:
            signal.set_wakeup_fd(-1)
            self._init.freezer.join(begun=False)
            tty = os.ttyname(stdio[0]) if job.terminal[0] else ""
            program.become(job._replace(tty=tty), stdio, report, die_with_parent=not self._init.namespaces)
        except OSError as error:
            os.write(report, f"unavailable\nit could not join the tree: {error.strerror}".encode())
        finally:
            os._exit(126)

    def _reported(self, session: _Session) -> None:
        """It has been executed (the pipe has closed), or says why not."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(session.report, _REPORT_BYTES_MAX)
            session.said += data
            if data and len(session.said) < _REPORT_BYTES_MAX:
                return
            self._init.poller.remove(session.report)
            os.close(session.report)
            session.report = -1
            if session.said:
                code, _newline, text = session.said.decode("utf-8", "surrogateescape").partition("\n")
                session.client.send({"id": session.id, "error": code, "text": text})
                session.id = None
            else:
                session.client.send_with({"id": session.id, "ok": True, "session": session.pid}, session.ours)
            _close(session.ours, session.theirs)

    def reaped(self, pid: int, status: int) -> None:
        """A process has been reaped that is not the tree's program."""
        session = self._sessions.pop(pid, None)
        if session is None:
            return
        if session.report >= 0:
            self._reported(session)
        if session.id is not None:
            session.client.send({"event": "session", "session": pid, "status": status})

    def gone(self, client: Client) -> None:
        """Whoever opened it is gone: hang it up, and kill what does not mind."""
        for pid, session in list(self._sessions.items()):
            if session.client is client:
                for number in (signal.SIGHUP, signal.SIGCONT):
                    self._signal(pid, number)
                self._init.poller.after(SESSION_KILL_S, lambda pid=pid: self._signal(pid, signal.SIGKILL))  # type: ignore[misc]

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a session's process group. Raises ProcessLookupError."""
        if pid not in self._sessions:
            raise ProcessLookupError
        self._signal(pid, number)

    def _signal(self, pid: int, number: int) -> None:
        if pid in self._sessions:  # not reaped yet: the number is still its own
            with contextlib.suppress(OSError):
                os.killpg(pid, number)


def _stdio(job: program.Job) -> tuple[list[int], list[int]]:
    """Return the ends that the kernel gets and those that the program gets."""
    if job.terminal[0]:
        master, slave = terminal.open_pair(job.uid, *job.terminal)
        return [master], [slave]
    stdin, out, err = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
    return [stdin[1], out[0], err[0]], [stdin[0], out[1], err[1]]


def _close(*several: list[int]) -> None:
    for descriptors in several:
        for descriptor in descriptors:
            os.close(descriptor)
        descriptors.clear()


def send_socket(init: "Init", client: Client, fields: dict[str, Any]) -> None:
    """Answer with a TCP socket of the network namespace that the tree's program is in. A child makes it: a process changes its namespace for good."""
    init.disturbed = True
    try:
        if os.fork() == 0:
            try:
                _send_socket(init.program_pid, client, fields)
            finally:
                os._exit(0)
    except OSError as error:
        client.send({"id": fields.get("id"), "error": "unavailable", "text": f"its network cannot be entered: {error.strerror}"})


def _send_socket(pid: int, client: Client, fields: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    try:
        clone.enter(f"/proc/{pid}/ns/net", _NETWORK)
        family = socket.AF_INET6 if fields.get("family") == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            client.hand_over({"id": fields.get("id"), "ok": True}, [sock.fileno()])
    except OSError as error:
        text = f"its network cannot be entered: {error.strerror or error}"
        client.hand_over({"id": fields.get("id"), "error": "unavailable", "text": text}, [])
