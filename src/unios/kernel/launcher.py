"""Launcher: the program's parent, in the group of the tree. Made with the spare, so that a start forks no interpreter.

It becomes the program's user, enters its folder and starts it by posix_spawn, which borrows this process's memory for a moment
instead of copying it: 0.4 ms instead of 2.7. Then it waits and tells the init how the program ended. After that it may have another program of the same
user, in other groups, if it still is what it was (kernel/pristine.py). It is frozen and killed with the tree, and decides nothing. When it is killed the
init is the program's parent; when it is stopped the init lets it go on, or kills it.

From the init: the job, as `parse` gave it; before another one an empty message that brings stdin, stdout and stderr. To the init: `program` (its pid)
or `error` and `text`; then `status`, as waitpid gave it; then `vacant`, if it may have another.
"""

import contextlib
import fcntl
import marshal
import os
import signal
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

from unios.kernel import clone, descriptors, pristine, program, trees_protocol
from unios.kernel.freezer import Freezer

NEXT_PID: Final = "/proc/sys/kernel/ns_last_pid"
PID: Final = 2
"""Its number where there is a namespace; no job has that."""
_CONTROL: Final = 3
_STDIO: Final = (4, 5, 6)
_ERROR_BYTES: Final = 2000
_HEAD: Final = struct.Struct(">I")
_SIGNALS: Final = [int(number) for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
"""All that can be handled: each of them is the default again for the program, whatever this process or one above it ignores."""


class Launched(NamedTuple):
    """A launcher that waits for its job, and the init's ends of the pipes whose other ends it has."""

    pid: int
    control: socket.socket
    stdin: int
    out: int
    err: int


def prepare(freezer: Freezer, *, namespaces: bool) -> Launched:
    """Fork one into the tree's group. Raises OSError.

    To be called as the first thing in an init's life: of what either of them writes to after the fork Linux makes a second copy.
    """
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    stdin, out, err = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
    stdio = (stdin[0], out[1], err[1])
    if namespaces:
        clone.write_kernel_file(NEXT_PID, str(PID - 1))  # an init that has had a tree would give it the next one, which may be that of a job
    pid, joined = _fork(freezer)
    if pid == 0:
        _be(theirs, stdio, freezer, joined=joined, namespaces=namespaces)
    theirs.close()
    for descriptor in stdio:
        os.close(descriptor)
    return Launched(pid, mine, stdin[1], out[0], err[0])


def encode(job: program.Job) -> bytes:
    """Return what the launcher is sent: its init has checked the job, and nobody else can write to it."""
    body = marshal.dumps(tuple(job))
    return _HEAD.pack(len(body)) + body


def refit(launched: Launched, freezer: Freezer) -> Launched:
    """Have a launcher that says it is vacant stand by for another program, in the groups of `freezer`. Raises OSError."""
    stdin, out, err = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
    stdio = [stdin[0], out[1], err[1]]
    freezer.join(launched.pid, begun=False)
    launched.control.setblocking(True)
    socket.send_fds(launched.control, [_HEAD.pack(0)], stdio)
    for descriptor in stdio:
        os.close(descriptor)
    return Launched(launched.pid, launched.control, stdin[1], out[0], err[0])


def receive(control: socket.socket) -> program.Job | None:
    """Wait for the job; None if the init is gone. Descriptors that came before it are the standard ones now."""
    length = 0
    while not length:
        head, descriptors, _flags, _address = socket.recv_fds(control, _HEAD.size, len(_STDIO))
        for target, source in zip(_STDIO, descriptors, strict=False):
            os.set_inheritable(source, False)  # it may be its own target already
            if source != target:
                os.dup2(source, target, inheritable=False)
                os.close(source)
        if len(head) < _HEAD.size:
            return None
        (length,) = _HEAD.unpack(head)
    body = control.recv(length, socket.MSG_WAITALL)
    return program.Job(*marshal.loads(body)) if len(body) == length else None


def _fork(freezer: Freezer) -> tuple[int, bool]:
    """Fork, into the group if that can be done (version 2, Linux 5.7): to be moved there later takes a grace period of the kernel, often 10 ms."""
    group = freezer.open_group()
    if group >= 0:
        with contextlib.suppress(OSError):
            pid, pidfd = clone.clone3(0, 0, group)
            if pid:
                os.close(group)
                os.close(pidfd)
            return pid, True
        os.close(group)
    return os.fork(), False


def _be(control: socket.socket, stdio: Sequence[int], freezer: Freezer, *, joined: bool, namespaces: bool) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not namespaces:
            clone.die_with_parent()  # where there is a namespace it dies with that
        freezer.join(begun=joined)
        descriptors.give_back()
        _arrange([control.fileno(), *stdio])
        clone.name_process("unios-launcher")
        _Launcher(socket.socket(fileno=_CONTROL), namespaces=namespaces).run()
    finally:
        os._exit(70)


def _arrange(descriptors: list[int]) -> None:
    """Move the descriptors to 3, 4, 5 and so on, and close all others but stderr."""
    out_of_the_way = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64) for descriptor in descriptors]
    for target, source in enumerate(out_of_the_way, _CONTROL):
        os.dup2(source, target, inheritable=False)
    os.closerange(_CONTROL + len(descriptors), os.sysconf("SC_OPEN_MAX"))


def _status(ended: os.waitid_result) -> int:
    """Return what waitpid would have given."""
    if ended.si_code == os.CLD_EXITED:
        return int(ended.si_status) << 8
    return int(ended.si_status) | (0x80 if ended.si_code == os.CLD_DUMPED else 0)


def spawn(path: str, job: program.Job, stdio: Sequence[int]) -> int:
    """Return the pid of the program, which has been executed. Raises Refused."""
    moves: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(stdio)]
    if job.tty:  # the first terminal that the leader of a new session opens controls it
        moves = [(os.POSIX_SPAWN_OPEN, 0, job.tty, os.O_RDWR, 0), (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
    try:
        return os.posix_spawn(path, job.argv, job.env, file_actions=moves, setsid=True, setsigmask=(), setsigdef=_SIGNALS)
    except OSError as error:
        raise program.refusal(path, error) from error


class _Launcher:
    def __init__(self, control: socket.socket, *, namespaces: bool) -> None:
        self._control, self._namespaces = control, namespaces

    def run(self) -> NoReturn:
        before, owner = pristine.inherited(identity=False), None
        while job := receive(self._control):
            if owner not in (None, (job.uid, job.gid, job.groups)):
                self._refuse("unavailable", "the launcher is another user's")
            owner, groups = (job.uid, job.gid, job.groups), pristine.groups()
            self._have(job)
            os.umask(0o022)
            os.chdir("/")
            if not self._namespaces or pristine.inherited(identity=False) != before or pristine.groups() != groups:
                break
            self._tell({"vacant": True})
        os._exit(0)

    def _have(self, job: program.Job) -> None:
        """Start the program and tell how it ended."""
        try:
            pid = self._start(job)
        except program.Refused as refused:
            self._refuse(*refused.args)
        except OSError as error:
            self._refuse("unavailable", f"the program could not be prepared: {error.strerror or error}")
        self._tell({"program": pid})
        os.closerange(_STDIO[0], _STDIO[-1] + 1)  # so that its end of a pipe is the program's alone
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # should this process be killed now, the init reaps it and nothing is lost
        if ended is not None:
            self._tell({"status": _status(ended)})
            os.waitpid(pid, 0)

    def _tell(self, fields: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._control.sendall(trees_protocol.encode(fields))

    def _refuse(self, code: str, text: str) -> NoReturn:
        self._tell({"error": code, "text": text[:_ERROR_BYTES]})
        os._exit(0)

    def _start(self, job: program.Job) -> int:
        """Return the pid of the program, which has been executed. Raises Refused or OSError."""
        if not job.stdin:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, _STDIO[0], inheritable=False)
            os.close(null)
        pid = self._fork(job) if job.limits or not self._namespaces else self._spawn(job)
        if self._namespaces and pid != job.pid:
            os.kill(pid, signal.SIGKILL)
            raise program.Refused("unavailable", f"Linux gave the program pid {pid} and not {job.pid}")
        return pid

    def _spawn(self, job: program.Job) -> int:
        program.prepare(job)
        return spawn(program.find(job), job, _STDIO)

    def _fork(self, job: program.Job) -> int:
        """Start it the slow way: with limits that this process could not live in, or with a death signal, the only leash where there is no namespace."""
        read, write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            program.become(job, _STDIO, write, die_with_parent=not self._namespaces)
        os.close(write)
        with os.fdopen(read, "rb") as report:
            told = report.read().decode("utf-8", "surrogateescape")
        if told:
            os.waitpid(pid, 0)
            code, _newline, text = told.partition("\n")
            raise program.Refused(code, text)
        return pid
