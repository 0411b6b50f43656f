"""Rehearsal: the zygote goes through the life of an init and of its launcher before it forks the first one.

What a fork writes to is copied page by page, and Python writes also where it only reads: counts, caches of attributes, specialised code, linked
functions. What has been written here is mostly only read after the fork: an init copies fewer pages, and its code is warm. Nothing here has an
effect outside of a scratch folder: there is no group and no process, and nothing is signalled. Where it cannot be done (a full disk) the inits are
made all the same, only more slowly.
"""

import contextlib
import gc
import os
import signal
import socket
from typing import Final

from unios.kernel import clone, guarded, init, launcher, program, trees_protocol, vacancy
from unios.kernel.freezer import Freezer

FOLDER: Final = "rehearsal"
_ROUNDS: Final = 12
"""Python specialises code that has run eight times."""
_TURNS_MAX: Final = 20
_LEASE: Final = b"\xff" * 8 + (1).to_bytes(8, "little")
_FIELDS: Final = {"pid": 2, "incarnation": 1, "argv": ["true"], "env": [["PATH", "/bin:/usr/bin"]], "cwd": "/", "groups": [0]}
_NOWHERE: Final = "/nonexistent/unios"
_NOBODY: Final = 2**22 + 1
"""No process can have this number."""


class _NoFreezer(Freezer):
    """One without a process to stop or to kill."""

    def signal(self, number: int) -> int:
        return 0

    def kill(self) -> None:
        return


def run(node_folder: str, first_descriptor: int) -> None:
    """Go through it, in a process that has no thread, no child and no descriptor from `first_descriptor` on. Leaves no file, descriptor or handler."""
    scratch = f"{node_folder}/{FOLDER}"
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        for _round in range(_ROUNDS):
            _clear(scratch)
            _one(scratch)
    except (OSError, program.Refused):
        pass
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, handler)
        _clear(scratch)
        gc.collect()
        os.closerange(first_descriptor, os.sysconf("SC_OPEN_MAX"))
        gc.freeze()
        clone.give_memory_back()


def _clear(scratch: str) -> None:
    for folder in (f"{scratch}/spares/tree", f"{scratch}/spares", scratch):
        guarded.remove(folder)


def _one(scratch: str) -> None:
    os.makedirs(f"{scratch}/spares", mode=0o700)
    with open(f"{scratch}/lease", "wb") as file:
        file.write(_LEASE)
    with contextlib.suppress(OSError):
        clone.mount(b"none", _NOWHERE.encode(), None, 0)
    guard, control = socket.socketpair()
    theirs, mine = socket.socketpair()
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    launched = launcher.Launched(_NOBODY, mine, pipes[0][1], pipes[1][0], pipes[2][0])
    one = init.Init(scratch, "tree", _NoFreezer(None, "tree", namespaces=False), launched, namespaces=False)
    guard.sendall(trees_protocol.encode(_FIELDS))
    one.take(program.parse(vacancy.receive(control) or {}), control)
    _launch(theirs)
    one.poller.turn()
    os.write(pipes[1][1], b"output")
    for descriptor in (pipes[0][0], pipes[1][1], pipes[2][1]):
        os.close(descriptor)
    theirs.sendall(trees_protocol.encode({"status": 0}))
    theirs.close()
    turns = 0
    while not one.finished() and turns < _TURNS_MAX:
        one.turn()
        turns += 1
    one.tell_end()


def _launch(control: socket.socket) -> None:
    """What a launcher does, for a program that there is not."""
    job = launcher.receive(control)
    assert job is not None
    program.find(job)
    try:
        launcher.spawn(_NOWHERE, job, ())
    except program.Refused:
        control.sendall(trees_protocol.encode({"program": os.getpid()}))
