"""Zygote: forks the inits of trees to come, so that the guard, whose loop answers for all trees, never waits for a fork.

Itself a fork of the guard, of its size and without its descriptors. It serves one socket, one request after the other:

| request | answer |
|---|---|
| group, namespaces | pid, with its pidfd and the guard's end of its control socket; or error |

What it forks are children of the guard, not its own, and it dies with the guard. It remembers nothing: another takes its place at any moment.
"""

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from unios.kernel import cgroups, clone, launcher, mounts, rehearsal, trees_protocol, vacancy
from unios.kernel.hierarchies import Hierarchy

_CONTROL: Final = 3
PASSING: Final = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR)
"""Errors that say nothing about what can be had here: later it may be had again."""


class Groups(NamedTuple):
    """Where the node makes the groups of its trees: to freeze them, and to bound and count what they use."""

    place: cgroups.Place | None
    hierarchies: tuple[Hierarchy, ...] = ()


def start(node_folder: str, groups: Groups) -> tuple[int, socket.socket]:
    """Fork one; return its pidfd and the socket for requests. Raises OSError."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    guard = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        mine.close()
        theirs.close()
        raise
    if pid == 0:
        _become(theirs, "unios-zygote", lambda control: _serve(control, guard, node_folder, groups))
    theirs.close()
    return os.pidfd_open(pid), mine


def _become(control: socket.socket, name: str, work: Callable[[socket.socket], None]) -> NoReturn:
    """In a child that was just forked: keep `control` and stderr and nothing else of the parent's, its lock least of all; then `work`."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
        os.setsid()
        os.chdir("/")
        kept = os.dup(control.fileno()) if control.fileno() == _CONTROL else control.fileno()
        os.dup2(kept, _CONTROL, inheritable=False)
        os.closerange(_CONTROL + 1, os.sysconf("SC_OPEN_MAX"))
        clone.name_process(name)
        work(socket.socket(fileno=_CONTROL))
    finally:
        os._exit(70)


def _serve(control: socket.socket, guard: int, node_folder: str, groups: Groups) -> None:
    clone.die_with_parent()
    rehearsal.run(node_folder, _CONTROL + 1)
    decoder = trees_protocol.Decoder()
    while os.getppid() == guard and (data := control.recv(4096)):
        for frame in decoder.feed(data):
            fields = frame.fields or {}
            _fork(control, node_folder, groups, str(fields["group"]), namespaces=bool(fields["namespaces"]))
    os._exit(0)


def _fork(control: socket.socket, node_folder: str, groups: Groups, group: str, *, namespaces: bool) -> None:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    uid, gid = os.getuid(), os.getgid()
    with mine, theirs:
        try:
            pid, pidfd = clone.clone3(clone.SIBLING | (mounts.flags() if namespaces else 0))
        except OSError as error:
            control.sendall(trees_protocol.encode({"error": error.strerror or str(error), "passing": error.errno in PASSING}))
            return
        if pid == 0:
            _become(theirs, "unios-init", lambda own: _be_spare(own, node_folder, groups, group, (uid, gid), namespaces=namespaces))
        socket.send_fds(control, [trees_protocol.encode({"pid": pid})], [pidfd, mine.fileno()])
        os.close(pidfd)


def _be_spare(control: socket.socket, node_folder: str, groups: Groups, group: str, owner: tuple[int, int], *, namespaces: bool) -> None:
    try:
        if namespaces:
            mounts.settle(*owner)
            if not os.access(launcher.NEXT_PID, os.W_OK):
                raise OSError("this Linux does not let a pid be chosen (CONFIG_CHECKPOINT_RESTORE)")
        else:
            clone.become_subreaper()
    except OSError as error:
        with contextlib.suppress(OSError):
            said = {"ready": False, "namespaces": False, "text": str(error), "passing": error.errno in PASSING}
            control.sendall(trees_protocol.encode(said))
        os._exit(1)
    vacancy.serve(control, node_folder, groups, group, namespaces=namespaces)
