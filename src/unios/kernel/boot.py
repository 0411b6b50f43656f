"""Boot: starts, joins, supervises and sweeps the nodes of a machine. `unios up` and `unios down` run this module.

Speaks JSON lines on stdout: {"ready": NAME} per node, {"progress": TEXT}, or {"error": CODE, "text": SENTENCE}. It imports everything once and forks a
supervisor per node, so that three nodes cost little more than one.
"""

import argparse
import contextlib
import errno
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Sized
from pathlib import Path
from typing import Any, Final

from unios import errors
from unios.errors import CallerError, DataLost, Unavailable, UniosError
from unios.kernel import founding, owner, parts, runfiles, storehost, supervisor, sweep, system, unfinished
from unios.wire.home import Home, NodeFolder

READY_S: Final = 30.0
"""A node that has not registered by then has failed to start."""
REFUSED_S: Final = 3.0


def say(**fields: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(fields), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Do what the options say; 0 if it was done."""
    options = _options(argv)
    home = Home(Path(options.home).absolute())
    try:
        if options.supervise:
            return _supervise(home.node(options.supervise))
        if options.down:
            return _down(home, options)
        if options.upgrade:
            return _upgrade(home, options)
        with unfinished.heard():
            return _embed(home, options) if options.owner else _up(home, options)
    except UniosError as error:
        code, text = errors.to_wire(error)
        say(error=code, text=text)
        return error.exit_code
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            say(error="unavailable", text=f"the disk of this machine that UNIOS_HOME ({home.path}) is on is full: make room there and type it again")
            return Unavailable.exit_code
        say(error="unavailable", text=f"{error.strerror or error} ({error.filename})" if error.filename else str(error))
        return Unavailable.exit_code


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m unios.kernel.boot", description=__doc__)
    parser.add_argument("--home", required=True)
    parser.add_argument("--nodes", type=int, default=0, help="how many nodes this machine shall have")
    parser.add_argument("--name", default="", help="of the only new node")
    parser.add_argument("--listen", default="", help="ADDRESS[:PORT] where links are taken")
    parser.add_argument("--advertise", default="", help="ADDRESS[:PORT] that other machines use, if it is another")
    parser.add_argument("--store-address", default="", help="HOST:PORT where a node of the store's machine is reached now")
    parser.add_argument("--store", action="store_true", help="read from stdin the address of the etcd that shall keep a new system's records")
    parser.add_argument("--cores", type=int, default=-1, help="how many each node offers from its next start on; 0: all of the machine's")
    parser.add_argument("--join", action="store_true", help="read a token from stdin and join its system")
    parser.add_argument("--supervise", default="", metavar="NODE", help="be that node's supervisor")
    parser.add_argument("--owner", type=int, default=0, metavar="PID", help="the system ends with this process, which starts it; its home is new")
    parser.add_argument("--down", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--node", default="", help="of this machine: only that")
    parser.add_argument("--upgrade", action="store_true", help="have the nodes run another installation, one after the other; by default this one")
    parser.add_argument("--to", default="", metavar="PATH", help="that installation: an interpreter, a virtual environment or a checkout")
    parser.add_argument("--back", action="store_true", help="the one that was there before the last upgrade")
    parser.add_argument("--check", action="store_true", help="only say whether it could be done")
    return parser.parse_args(argv)


def _supervise(folder: NodeFolder) -> int:
    if not folder.node_file.exists():
        return 0
    os.umask(0o077)
    parts.warm()
    if _is_late(folder):
        return 0
    _detach(folder)
    return supervisor.main(folder)


def _is_late(folder: NodeFolder) -> bool:
    """Whether a supervisor of another installation is to run by now: an upgrade, or its way back, has changed what `restart` says since this one was started."""
    try:
        named = json.loads((folder.run / "restart").read_text())
    except (OSError, ValueError):
        return False
    return bool(named != supervisor.restart(folder))


def _up(home: Home, options: argparse.Namespace) -> int:
    os.umask(0o077)
    founding.prepare(home)
    with _lock(home), unfinished.noted(home, say, joins=options.join):
        parts.warm()
        fresh = not home.system_file.exists()
        if options.join:
            started = founding.join(home, sys.stdin.readline().strip(), options.name, options.listen, options.advertise, say)
        elif fresh:
            store = sys.stdin.readline().strip() if options.store else ""
            started = founding.found(home, options.nodes or 1, options.name, options.listen, options.advertise, store)
        else:
            if options.store:
                founding.check_store(home, sys.stdin.readline().strip())
            started = home.nodes()
            founding.check_name(started, options.name)
            founding.readdress(home, started, options.listen, options.advertise, options.store_address)
        _offer_cores(started, options.cores)
        _start_all(started)
        missing = options.nodes - len(started)
        if missing > 0:
            token = founding.token_of(started[0])
            tokens = [token, *(founding.token_of(started[0]) for _ in range(missing - 1))]
            more = [founding.join(home, each, "", options.listen, "", say)[0] for each in tokens]
            _offer_cores(more, options.cores)
            _start_all(more)
    return 0


def _embed(home: Home, options: argparse.Namespace) -> int:
    """Start a system of its own for a program. Broken off, or without the program, nothing of it stays."""
    os.umask(0o077)
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, unfinished.SIGNALS)  # until there is something that takes the home away again
    owned = owner.claim(home, options.owner)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        home.nodes_folder.mkdir(0o700)
        with _lock(home):
            parts.warm()
            started = founding.found(home, options.nodes or 1, "", "", "")
            _offer_cores(started, options.cores)
            _start_all(started, owned)
    except BaseException:
        unfinished.deafen()
        owner.take_away(home)
        raise
    owner.tidy(home)
    return 0


def _down(home: Home, options: argparse.Namespace) -> int:
    """Stop one node or all. All: an `up` that is under way is broken off, and one that was killed is taken back."""
    if not options.all:
        return sweep.down(home, options.node, say)
    unfinished.break_off(home)
    sweep.down(home, None, say)
    unfinished.end(home)
    return 0


def _upgrade(home: Home, options: argparse.Namespace) -> int:
    if owner.is_owned(home):
        raise CallerError("an embedded system ends with its program, whose next start is its upgrade")
    from unios.kernel import upgrade  # not for every supervisor

    os.umask(0o077)
    with _lock(home):
        upgrade.roll(home, to=options.to, back=options.back, node=options.node, check=options.check, say=say)
    return 0


def _offer_cores(folders: list[NodeFolder], cores: int) -> None:
    """Let the nodes offer so many cores once they start; below 0: as they did."""
    for folder in folders if cores >= 0 else []:
        file = system.read(folder.node_file, system.NodeFile)
        file.cores = cores
        system.write(folder.node_file, file)


@contextlib.contextmanager
def _lock(home: Home) -> Any:
    """Two `up` at once do one thing after the other."""
    descriptor = os.open(home.path / "boot.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _start_all(folders: list[NodeFolder], owned: owner.Owner | None = None) -> None:
    if not folders:
        raise CallerError("this machine has no node (any more): join a system with a token, or choose another UNIOS_HOME")
    started = [folder for folder in folders if runfiles.read(folder.run / "supervisor.json") is None]
    lost = Home(parts.home_of(folders[0])).store / storehost.LOST
    before = _version(lost)
    for folder in folders:
        _start(folder)
    waiting = {folder.name: folder for folder in folders}
    deadline = time.monotonic() + READY_S
    while waiting:
        for name, folder in list(waiting.items()):
            if founding.is_ready(folder):
                del waiting[name]
                say(ready=name)
        unfinished.check()
        if owned is not None:
            owned.look()
            if owned.gone:
                raise unfinished.BrokenOff
        if waiting and _version(lost) not in (before, None) and (why := runfiles.text(lost)):  # the nodes stay: the store is made anew through them
            raise DataLost(f"{', '.join(waiting)} cannot get ready: {why}; {_goes_on(waiting)}")
        _raise_failure(started, list(waiting.values()), deadline)
        time.sleep(0.005)


def _raise_failure(started: list[NodeFolder], waiting: list[NodeFolder], deadline: float) -> None:
    """Raise why one of `waiting` has failed; then what was started for it is stopped, and what ran before runs on."""
    for folder in waiting:
        failed = folder.run / "failed"
        if failed.exists():
            fields = json.loads(failed.read_text())
            sweep.kill(started)
            raise errors.from_wire(fields["error"], f"{folder.name} could not start: {fields['text']}")
        refused = _refused(folder)
        if refused:
            sweep.kill([folder])
            raise Unavailable(f"{folder.name} is kept out of its system: {refused}")
    if waiting and time.monotonic() > deadline:
        names = ", ".join(folder.name for folder in waiting)
        logs = waiting[0].log
        store = runfiles.text(Home(parts.home_of(waiting[0])).store / "failed")
        raise Unavailable(
            f"{names} did not get ready within {READY_S:.0f} s{f': {store}' if store else ''}; what was said is in {logs}; {_goes_on(waiting)}"
        )


def _goes_on(waiting: Sized) -> str:
    return f"{'it goes' if len(waiting) == 1 else 'they go'} on trying: `unios status` says how that stands, `unios down` ends it"


def _version(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from one that was put in its place; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _refused(folder: NodeFolder) -> str:
    """Return what keeps a node out that does not pass by itself, once that has stood for a while: another member might take it in."""
    try:
        file = folder.run / "why"
        return file.read_text() if time.time() - file.stat().st_mtime > REFUSED_S else ""
    except OSError:
        return ""


def _start(folder: NodeFolder) -> None:
    """Fork the node's supervisor, unless one is there."""
    folder.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not founding.is_ready(folder):
        (folder.run / "ready").unlink(missing_ok=True)
    for name in ("failed", "why"):
        (folder.run / name).unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    code = 70
    try:
        if os.fork():
            os._exit(0)
        _detach(folder)
        code = supervisor.main(folder)
    finally:
        os._exit(code)


def _detach(folder: NodeFolder) -> None:
    parts.become(folder, "supervisor")


if __name__ == "__main__":
    sys.exit(main())
