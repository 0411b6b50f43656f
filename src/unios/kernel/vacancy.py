"""Vacancy: the life of an init around its trees: makes it and its launcher, says that it is ready, and waits for a job.

Where a job cannot be begun it says why and ends: whoever is asked again gets another init. After a tree that has left nothing behind it offers to
have another one, for the same user; it ends unless the guard names a group for that.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from unios.kernel import init, launcher, program, trees_protocol
from unios.kernel.freezer import Freezer
from unios.kernel.pristine import Pristine
from unios.limits import TREES_PER_INIT_MAX

if TYPE_CHECKING:
    from unios.kernel.zygote import Groups

_LAUNCHER: Final = 5
"""Descriptors up to this one are of the process: stdio, the guard's socket, the mount table, the launcher's socket. Those of a tree come after."""


def receive(control: socket.socket) -> dict[str, Any] | None:
    """Wait for the guard's one frame; None if the guard is gone."""
    decoder = trees_protocol.Decoder()
    while data := control.recv(64 * 1024):
        for frame in decoder.feed(data):
            return frame.fields
    return None


def serve(control: socket.socket, node_folder: str, groups: "Groups", group: str, *, namespaces: bool) -> NoReturn:
    """Be an init, spare first: say ready, wait for a job, serve it to its end; then the next. Never returns."""
    try:
        pristine = Pristine() if namespaces else None
        launched: launcher.Launched | None = None
        before: Freezer | None = None
        for _tree in range(TREES_PER_INIT_MAX):
            freezer = Freezer(groups.place, group, namespaces=namespaces, hierarchies=groups.hierarchies)
            new = launched is None
            launched = _make_launcher(control, freezer, launched, namespaces=namespaces)
            if before is not None and not before.remove():
                break
            before = freezer
            one = _make(control, node_folder, group, freezer, launched, namespaces=namespaces)
            if new:
                one.rehearse()
            reusable = _have_tree(one, control)
            del one
            if not reusable or launched.control.fileno() != _LAUNCHER:
                os._exit(0)
            _leave_tree()
            if pristine is None or not pristine.still(launched.pid) or not (group := _offer(control)):
                break
        if before is not None:
            before.remove()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 the end of a process: leave the cause in the guard's log, and no tree without a leash
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        with contextlib.suppress(BaseException):
            init.refuse(control, "internal", f"{type(error).__name__}: {error}")
        os._exit(70)


def _make_launcher(control: socket.socket, freezer: Freezer, earlier: launcher.Launched | None, *, namespaces: bool) -> launcher.Launched:
    """Return the launcher, new or the one that there is, in the groups of the tree to come."""
    try:
        freezer.prepare()
        return launcher.prepare(freezer, namespaces=namespaces) if earlier is None else launcher.refit(earlier, freezer)
    except OSError as error:
        _cannot(control, error)


def _make(control: socket.socket, node_folder: str, group: str, freezer: Freezer, launched: launcher.Launched, *, namespaces: bool) -> init.Init:
    try:
        return init.Init(node_folder, group, freezer, launched, namespaces=namespaces)
    except OSError as error:
        _cannot(control, error)


def _cannot(control: socket.socket, error: OSError) -> NoReturn:
    text = f"the folder of a process cannot be made: {error.strerror or error}"
    control.sendall(trees_protocol.encode({"ready": False, "text": text}))
    os._exit(1)


def _have_tree(one: init.Init, control: socket.socket) -> bool:
    """Serve one job; return whether the process may have another."""
    fields = None
    with contextlib.suppress(OSError):  # the guard may be gone
        control.sendall(trees_protocol.encode({"ready": True}))
        fields = receive(control)
    if fields is None:
        one.leave()
        os._exit(0)
    try:
        one.take(program.parse(fields), control)
    except program.Refused as refused:
        one.freezer.remove()
        init.refuse(control, *refused.args)
        os._exit(0)
    except OSError as error:
        one.freezer.remove()
        init.refuse(control, "unavailable", f"the tree could not be made: {error}")
        os._exit(0)
    return one.run()


def _leave_tree() -> None:
    """Let go of everything that the tree's objects held: first what closes itself, then the rest."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.collect()
    os.closerange(_LAUNCHER + 1, os.sysconf("SC_OPEN_MAX"))


def _offer(control: socket.socket) -> str:
    """Offer to have another tree; return the group that the guard names for it, "" if it names none."""
    control.setblocking(True)
    with contextlib.suppress(OSError):
        control.sendall(trees_protocol.encode({"event": "vacant"}))
        fields = receive(control)
        if fields is not None:
            return str(fields["group"])
    return ""
