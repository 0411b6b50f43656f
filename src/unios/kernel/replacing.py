"""Replacing: one node's supervisor, guard, kernel, services and store, one after the other, by those of another installation; what runs on it goes on.

Each of them may be killed at any moment, which is all that this relies on: the new supervisor adopts what runs, and starts anew what ends. The inits of running
trees stay as they are. Mechanism only; when and whether is decided in core/upgrading.py.

Order: the store first, since a newer one knows what an older kernel asks; then the guard, the kernel, and the services, which ask the kernel.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Final

from unios.core.holding import MARGIN_MS
from unios.errors import CallerError, Unavailable, UniosError
from unios.kernel import founding, guarded, mount_records, parts, runfiles, supervisor
from unios.kernel.beats import Beats
from unios.kernel.lease_bridge import LeaseBridge
from unios.kernel.runfiles import Running
from unios.mount_limits import MOUNT_GIVE_S
from unios.wire.home import Home, NodeFolder
from unios.wire.installation import Installation
from unios.wire.mounts import ListMounts, MountsView
from unios.wire.operations import Empty, ListProcesses, NodeInfo, NodeView, ProcessView

START_S: Final = 15.0
"""How long a part of the new installation may take to its first beat."""
READY_S: Final = 30.0
"""How long the node may take to be ready, and seen as that by the other nodes of this machine."""
END_S: Final = 4.0
"""How long a part of the old one has to end on SIGTERM."""
LOOK_S: Final = 0.01
LOOK_SLOWLY_S: Final = 0.1
ASK_MS: Final = 2_000
UNDER_WAY: Final = "replacing"
"""In a node's folder `run`: what the node ran before, while it is being replaced."""
KINDS: Final = ("store", "guard", "kernel", *parts.SERVICES, *parts.ON_DEMAND, "member")


class NotReplaced(Exception):
    """The node does not run as it should, and why."""


def begun(folder: NodeFolder) -> Installation | None:
    """Return what a node ran before a replacement that has not come to its end; None if there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Installation(*map(str, json.loads((folder.run / UNDER_WAY).read_text())))
    return None


def replace(home: Home, folder: NodeFolder, new: Installation, before: Installation) -> None:
    """Have a node run `new`; return when it is ready. Raises NotReplaced; a second call goes on where that was. The other nodes of the machine may run too."""
    trees, seen = running(folder), _ready(home)
    runfiles.place(folder.run / UNDER_WAY, json.dumps(list(before)))
    with LeaseBridge(home, folder):
        _replace_supervisor(folder, new)
        for name in KINDS:
            if name == "files":
                _wait_given(folder)
            _replace_part(home, folder, name)
        _wait(lambda: founding.is_ready(folder), lambda: _failed(folder, "kernel"), READY_S, "its kernel did not register")
        _wait(lambda: _serves(home, folder, seen), lambda: _failed(folder, "kernel"), READY_S, "it did not get ready for the others", LOOK_SLOWLY_S)
    gone = [f"{pid}" for pid, init in trees.items() if runfiles.start_of(init.pid) != init.start and not _has_ended(folder, pid)]
    if gone:
        raise NotReplaced(f"the inits of {', '.join(gone)} are gone")
    runfiles.remove(folder.run / UNDER_WAY)


def running(folder: NodeFolder) -> dict[str, Running]:
    """Return the inits of the trees that run on a node, by PID.INCARNATION."""
    return {tree.name: tree.init for tree in trees_of(folder) if runfiles.start_of(tree.init.pid) == tree.init.start != 0}


def trees_of(folder: NodeFolder) -> list[guarded.Tree]:
    """Return the trees of a node that have not ended, from their folders."""
    try:
        names = os.listdir(folder.trees)
    except FileNotFoundError:
        return []
    found = [guarded.load(str(folder.trees / name)) for name in names]
    return [tree for tree in found if tree is not None and tree.state in ("starting", "running") and not tree.has_exit()]


def _has_ended(folder: NodeFolder, name: str) -> bool:
    path = folder.trees / name
    return not path.exists() or (path / "exit.json").exists()


def _replace_supervisor(folder: NodeFolder, new: Installation) -> None:
    """Kill the old one: on SIGTERM it would end the node. Its guard starts what `restart` names; one of ours beside that could be late, and take the place of
    a third."""
    runfiles.place(folder.run / "restart", json.dumps(supervisor.restart(folder, new)))
    old = runfiles.read(folder.run / "supervisor.json")
    if old is not None:
        runfiles.kill(old, signal.SIGKILL)
        runfiles.wait_gone(old, END_S)
    runfiles.remove(folder.run / "parts")  # what the old one said
    if runfiles.read(folder.run / "guard.json") is None:
        _start_supervisor(folder, new)
    _wait(lambda: _beats(folder, "supervisor", old), lambda: "", START_S, "its supervisor did not begin")


def _start_supervisor(folder: NodeFolder, new: Installation) -> None:
    log = parts.open_log(folder, "supervisor")
    try:
        child = subprocess.Popen(supervisor.restart(folder, new), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/")
    except OSError as error:
        raise NotReplaced(f"{new.python} cannot be started: {error.strerror}") from error
    finally:
        os.close(log)
    child.returncode = 0  # whoever it belongs to by then reaps it


def _replace_part(home: Home, folder: NodeFolder, name: str) -> None:
    """End a part, and wait until the supervisor has started it anew. What does not run on this node is none of its."""
    file = folder.run / f"{name}.json"
    old = runfiles.read(file)
    if old is None and name not in ("guard", "kernel", *parts.SERVICES):
        return
    if old is not None and runfiles.kill(old, signal.SIGTERM) and not runfiles.wait_gone(old, END_S):
        runfiles.kill(old, signal.SIGKILL)
    if name == "store":  # any node of the machine may have it from now on
        _wait(lambda: any(_beats(each, name, old) for each in home.nodes()), lambda: "", START_S, "the store did not begin again")
    elif name not in parts.ON_DEMAND and (name not in parts.BY_FILE or parts.wanted(folder, name).exists()):  # those a version of before may not have
        _wait(
            lambda: _beats(folder, name, old) or (name in parts.BY_FILE and not parts.wanted(folder, name).exists()),
            lambda: _failed(folder, name),
            START_S,
            f"its {name} did not begin again",
        )


def _wait_given(folder: NodeFolder) -> None:
    """Wait until the new kernel has from the service of files what it is to keep mounted: once that ends too it would be mounted anew. What cannot be had
    is given up after a while, and no reason to stop."""
    until = time.monotonic() + MOUNT_GIVE_S + ASK_MS / 1000
    while mount_records.read(folder) and not _holds_mounts(folder) and time.monotonic() < until:
        time.sleep(LOOK_S)


def _holds_mounts(folder: NodeFolder) -> bool:
    try:
        found: MountsView = founding.ask(folder, "mounts.list", ListMounts(), MountsView, timeout_ms=ASK_MS)
    except CallerError:
        return True  # a kernel of before
    except (UniosError, OSError):
        return False
    return all(mount.held for mount in found.mounts)


def _beats(folder: NodeFolder, name: str, old: Running | None) -> bool:
    """Whether a part runs that is not `old`, and has beaten."""
    found = runfiles.read(folder.run / f"{name}.json")
    return found is not None and found != old and Beats(folder.beats).last_ms(name) > 0


def _failed(folder: NodeFolder, name: str) -> str:
    """Return why a part is not even tried at once again, "" if it is well or has died once only."""
    try:
        listed = json.loads((folder.run / "parts").read_text())
        mine = next(part for part in listed if part["name"] == name)
        return f"its {name} keeps dying: {mine['reason']}" if mine["state"] == "waiting" else ""
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return ""


def _ready(home: Home) -> set[str]:
    """Return the names of all nodes of the system that are ready, as the nodes of this machine that answer see it."""
    found: set[str] = set()
    for folder in home.nodes():
        with contextlib.suppress(UniosError, OSError):
            found.update(view.name for view in views(folder) if view.state == "ready")
    return found


def views(folder: NodeFolder) -> tuple[NodeView, ...]:
    """Return the nodes of the system as a node of this machine sees them. UniosError, OSError."""
    listed: tuple[NodeView, ...] = founding.ask(folder, "node.list", Empty(), tuple[NodeView, ...], timeout_ms=ASK_MS)
    return listed


def _serves(home: Home, folder: NodeFolder, seen: set[str]) -> bool:
    """Whether the node has its lease, reads the store, and it and the others that were ready see each other."""
    try:
        info: NodeInfo = founding.ask(folder, "node.info", Empty(), NodeInfo, timeout_ms=ASK_MS)
        founding.ask(folder, "processes.list", ListProcesses(), tuple[ProcessView, ...], timeout_ms=ASK_MS)
        if info.lease_ms <= MARGIN_MS:
            return False
        for each in home.nodes():
            if each.name == folder.name or each.name in seen:
                states = {view.name: view.state for view in views(each)}
                if any(states.get(name) != "ready" for name in {*seen, folder.name} if each is folder or name == folder.name):
                    return False
    except (UniosError, OSError):
        return False
    return True


def _wait(reached: Callable[[], bool], failed: Callable[[], str], seconds: float, what: str, look_s: float = LOOK_S) -> None:
    """Wait until it is so. Raises NotReplaced at the end of the time, or at once with what has failed meanwhile."""
    until = time.monotonic() + seconds
    while not reached():
        why = failed()
        if why:
            raise NotReplaced(why)
        if time.monotonic() > until:
            raise NotReplaced(f"{what} within {seconds:.0f} s")
        time.sleep(look_s)


def try_out(home: Home, one: Installation) -> None:
    """Start a node of an installation in an empty home and take it away again, whatever became of it. Unavailable if it did not get ready: so nothing of the
    system is touched."""
    try:
        _try(home, one, "--nodes", "1")
    except BaseException:
        with contextlib.suppress(UniosError, subprocess.TimeoutExpired):
            _try(home, one, "--down", "--all")  # one that did not get ready in time goes on trying
        raise
    _try(home, one, "--down", "--all")


def _try(home: Home, one: Installation, *words: str) -> None:
    done = subprocess.run(
        [one.python, "-P", "-m", "unios.kernel.boot", "--home", str(home.path), *words],
        env=one.environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=3 * READY_S,
        check=False,
    )
    if done.returncode:
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
        why = next((str(each["text"]) for each in said if "error" in each), "") or done.stderr.decode(errors="replace").strip()[-400:]
        raise Unavailable(f"a node of it that was tried in a folder of its own did not work: {why}")
