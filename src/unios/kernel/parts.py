"""The parts of a node that the supervisor starts: how each comes to life. Mechanism only; when to start is decided elsewhere.

All but the guard are forked from the supervisor, which has imported everything: 5 ms instead of 200. The guard must stay
small (it forks for every process), so it is a fresh interpreter.
"""

import contextlib
import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from setproctitle import setproctitle

from unios.kernel import descriptors, mount_records, owner, precedence, runfiles
from unios.kernel.beats import Beats
from unios.wire.home import Home, NodeFolder
from unios.wire.installation import release

Main = Callable[[NodeFolder, Callable[[], None]], int]
"""(folder, beat) -> exit code."""

SERVICES: Final = ("placement", "recovery")
ON_DEMAND: Final = ("locks", "archive", "files")
"""Services that are started when somebody first wants them: the kernel says so with a file, which is there while one is wanted."""
BY_FILE: Final = (*ON_DEMAND, "member")
"""What runs while a file says that it is wanted. A member of etcd is wanted also after the node was down: its file is its configuration."""
LOG_BYTES_MAX: Final = 1_000_000
MODULES: Final = {
    "kernel": "unios.kernel.node",
    "store": "unios.kernel.storehost",
    "placement": "unios.services.placement",
    "recovery": "unios.services.recovery",
    "locks": "unios.services.locks",
    "archive": "unios.services.archive",
    "files": "unios.services.files.service",
    "member": "unios.kernel.quorum_member",
}
"""By name and not by import: the supervisor starts services, it does not know them."""
GARBAGE: Final = (5_000, 20, 20)
"""New objects before the collector looks at them, and how often before it looks at older ones: each request makes hundreds that are no garbage."""


def warm() -> None:
    """Import what the parts need, so that a fork has it; then keep the collector from touching those pages."""
    for module in MODULES.values():
        importlib.import_module(module)
    release()  # as it is imported: what the files say later is another matter
    gc.collect()
    gc.freeze()


def wanted(folder: NodeFolder, name: str) -> Path:
    """Return the file that says that a part which is not always there is wanted on this node."""
    return folder.path / "etcd" / "member.json" if name == "member" else folder.run / f"{name}.wanted"


def want(folder: NodeFolder, name: str) -> None:
    """Have the supervisor start a service on demand: it looks for the file at its next look, which a signal brings about."""
    with contextlib.suppress(OSError):
        wanted(folder, name).touch(mode=0o600)
        wake(folder)


def is_needed(folder: NodeFolder, name: str) -> bool:
    """Whether a service on demand that has ended in order has something to do all the same: files, as long as there are mounts."""
    return name == "files" and bool(mount_records.read(folder))


def wake(folder: NodeFolder) -> None:
    """Have the supervisor look at once at what is wanted."""
    running = runfiles.read(folder.run / "supervisor.json")
    if running is not None:
        runfiles.kill(running, signal.SIGCHLD)


def open_log(folder: NodeFolder, name: str) -> int:
    """Open the part's log for appending; an overlong one is moved aside first."""
    folder.log.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder.log / f"{name}.log"
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".old.log"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def turn_log(folder: NodeFolder, name: str) -> None:
    """Move what an overlong log has aside while others append to it: what they write in that moment may be lost."""
    path = folder.log / f"{name}.log"
    with contextlib.suppress(OSError):  # a full disk: it is tried again
        if path.stat().st_size > LOG_BYTES_MAX:
            shutil.copyfile(path, path.with_suffix(".old.log"))
            os.truncate(path, 0)


def start(folder: NodeFolder, name: str, beats: Beats) -> int:
    """Start a part; return its pid. Raises OSError: then it does not run.

    What a successor of the supervisor would not know must not run: it waits for a word that comes when its run file is there, and ends without it.
    """
    beats.clear(name)
    word, write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = _exec_guard(folder, word) if name == "guard" else _fork(folder, name, beats, word, write)
        runfiles.write(folder.run / f"{name}.json", pid)
        os.write(write, b"1")
    finally:
        os.close(word)
        os.close(write)
    return pid


def _exec_guard(folder: NodeFolder, word: int) -> int:
    log = open_log(folder, "guard")
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "unios.kernel.guard", "--folder", str(folder.path), "--await-word"],
            stdin=word,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(log)
    child.returncode = 0  # the supervisor reaps by itself
    return child.pid


def _fork(folder: NodeFolder, name: str, beats: Beats, word: int, write: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.close(write)
        if not os.read(word, 1):
            os._exit(0)
        become(folder, name)
        gc.set_threshold(*GARBAGE)
        module = importlib.import_module(MODULES[name])
        code = module.main(folder, lambda: beats.beat(name))
    except BaseException:  # noqa: BLE001 the end of a process: say why, then exit
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def become(folder: NodeFolder, name: str) -> None:
    """Turn a fresh fork into a daemon of its own: session, title, signals, log, no descriptors of its parent, room for many of its own."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    if name in precedence.FIRST:
        precedence.take()
    os.chdir("/")
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    setproctitle(f"unios: {name} {folder.name} {home_of(folder)}")
    log = open_log(folder, name)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    owner.keep_from_tidiers(Home(home_of(folder)))
    descriptors.raise_bound()


def home_of(folder: NodeFolder) -> Path:
    return folder.path.parent.parent
