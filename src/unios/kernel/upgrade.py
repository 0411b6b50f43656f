"""Upgrade: the nodes of this machine run another installation, one after the other, while what runs on them goes on (decision 0046).

What is remembered in UNIOS_HOME (installation.json): `now` that nodes are started with, `before` that a way back leads to, and `next` while a roll is under way
or has not come to its end. The same asked again goes on where that was. Decides with core/upgrading.py.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unios.core import upgrading
from unios.core.upgrading import Around, BrokenOff, Facts, Failed, Finish, PutBack, Replace, Replaced, Roll, WasPutBack
from unios.errors import CallerError, NodeUnknown, Unavailable, UniosError
from unios.kernel import installations, replacing, runfiles, system
from unios.kernel.system import SQLITE, SystemFile
from unios.wire import installation
from unios.wire.home import Home, NodeFolder
from unios.wire.installation import Installation

Say = Callable[..., None]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def roll(home: Home, *, to: str, back: bool, node: str, check: bool, say: Say) -> None:
    """Have the nodes of this machine, or only `node`, run the installation at `to` ("": this process's), or with `back` the one before.

    `check`: only look whether it could be done. Raises CallerError for what makes no sense, Unavailable if it could not be done: then a node that had been
    begun runs again what it ran, and the text says where the roll stands.
    """
    folders = [folder for folder in home.nodes() if node in ("", folder.name)]
    if not folders:
        raise (
            NodeUnknown(f"{node} is no node of this machine: an upgrade is made on each machine") if node else CallerError("this machine has no node")
        )
    down = [folder.name for folder in folders if runfiles.read(folder.run / "supervisor.json") is None and replacing.begun(folder) is None]
    if down:
        raise Unavailable(f"{', '.join(down)} is not running: `unios up` first, so that it is seen whether it runs with the new one")
    known = installations.remembered(home)
    new = _target(to, back, known)
    facts = installations.probe(new)
    new = installations.marked(new, facts)
    before = {folder.name: _before(folder, new) for folder in folders}
    todo = [folder for folder in folders if before[folder.name] != new or replacing.begun(folder) is not None]
    around = _around(home, folders)
    _check(home, new, facts, around)
    for folder in todo:
        say(progress=f"{folder.name} runs {_release(before[folder.name])}")
    if check or not todo:
        _say_done(say, new, [], [folder.name for folder in folders if folder not in todo], checked=check)
        return
    old = (known.get("now") if "next" in known else None) or before[todo[0].name]
    way_back = not any(before[folder.name].is_at(new) and before[folder.name] != new for folder in todo)
    if not way_back:
        say(warning=f"the files of {new.python} were changed in place: what ran before is not there any more, and there is no way back to it")
    if upgrading.changes_store(facts, around):
        say(warning="the store's file gets a new format: there is no way back once it has")
    installations.remember(home, now=old, before=known.get("before"), next=new)
    _carry_out(home, todo, new, before, way_back=way_back, say=say)
    if not node or all(_runs(folder, new) for folder in home.nodes()):
        installations.remember(home, now=new, before=None if not way_back else known.get("before") if old.is_at(new) else old)
    _say_done(say, new, [folder.name for folder in todo], [folder.name for folder in folders if folder not in todo], checked=False)


def _before(folder: NodeFolder, new: Installation) -> Installation:
    """Return what a node runs, or ran before a replacement that has not come to its end. An older one does not say its release: it is that of its files,
    unless those are by now the new one's."""
    found = replacing.begun(folder) or installations.of_node(folder)
    return found if found.is_at(new) else _known(found)


def _target(to: str, back: bool, known: dict[str, Installation]) -> Installation:
    if not back:
        return installations.at(to) if to else installation.own_place()
    if to:
        raise CallerError("--back leads to what was there before; --to to somewhere else: give one of them")
    found = known.get("now" if "next" in known else "before")
    if found is None:
        raise CallerError("nothing is remembered here that the nodes ran before: there has been no upgrade, or one in place")
    return found


def _check(home: Home, new: Installation, facts: Facts, around: Around) -> None:
    """Raise Unavailable if the installation cannot take over here, by what it says of itself and by a trial."""
    found = upgrading.obstacles(facts, around)
    if found:
        raise Unavailable(f"{new.release} cannot take over here, and nothing was changed: {'; '.join(found)}")
    folder = tempfile.mkdtemp(prefix="unios-trial-")
    try:
        replacing.try_out(Home(Path(folder) / "home"), new)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _around(home: Home, folders: list[NodeFolder]) -> Around:
    file = system.read(home.system_file, SystemFile)
    views = None
    for folder in home.nodes():
        with contextlib.suppress(UniosError, OSError):
            views = replacing.views(folder)
            break
    if views is None:
        raise Unavailable("no node of this machine answers: see `unios status`; an upgrade begins with nodes that are well")
    nodes = {view.name: (view.protocol_min, view.protocol) for view in views if view.state != "left"}
    trees = {tree.pid: tree.protocol for folder in folders for tree in replacing.trees_of(folder)}
    embedded = file.engine == SQLITE and file.has_store
    disk = os.statvfs(home.path)
    return Around(nodes, trees, _format(home.store / "store.db") if embedded else 0, disk.f_bavail * disk.f_frsize)


def _format(path: Path) -> int:
    """Return the format of the embedded store's file; 0 if it cannot be told: then whoever opens it says so."""
    with contextlib.suppress(sqlite3.Error, ValueError, TypeError), contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
        return int(base.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()[0])
    return 0


def _carry_out(home: Home, todo: list[NodeFolder], new: Installation, before: dict[str, Installation], *, way_back: bool, say: Say) -> None:
    """Do what the roll orders. Unavailable if it does not get to its end. A signal lets it end with the node that it is at."""
    folders = {folder.name: folder for folder in todo}
    store = next((folder.name for folder in todo if runfiles.read(folder.run / "store.json") is not None), "")
    decider = Roll(folders, store, way_back=way_back)
    with _heard(lambda: decider.on(BrokenOff())):
        order = decider.begin()
        while not isinstance(order, Finish):
            folder = folders[order.node]
            event = (
                _replaced(home, folder, new, before[folder.name], say)
                if isinstance(order, Replace)
                else _put_back(home, folder, before[folder.name], order, say)
            )
            following = decider.on(event)
            assert following is not None
            order = following
    if order.why:
        raise Unavailable(f"the upgrade stopped: {order.why}; {_stands(home)}. Type it again to go on, or `unios upgrade --back`")


def _replaced(home: Home, folder: NodeFolder, new: Installation, before: Installation, say: Say) -> Replaced | Failed:
    say(progress=f"{folder.name}: {_release(before)} to {new.release}")
    try:
        replacing.replace(home, folder, new, before)
    except (replacing.NotReplaced, OSError) as error:
        return Failed(folder.name, str(error))
    say(ready=folder.name)
    return Replaced(folder.name)


def _put_back(home: Home, folder: NodeFolder, before: Installation, order: PutBack, say: Say) -> WasPutBack:
    say(progress=f"{folder.name}: back to {_release(before)}: {order.why}")
    try:
        replacing.replace(home, folder, before, before)
    except (replacing.NotReplaced, OSError) as error:
        return WasPutBack(folder.name, str(error))
    return WasPutBack(folder.name)


def _runs(folder: NodeFolder, one: Installation) -> bool:
    with contextlib.suppress(UniosError):
        return replacing.begun(folder) is None and _known(installations.of_node(folder)) == one
    return False


def _known(one: Installation) -> Installation:
    """Return an installation with its release: nodes of an older one do not say it."""
    if one.release:
        return one
    with contextlib.suppress(UniosError, OSError):
        return installations.marked(one, installations.probe(one))
    return one


def _release(one: Installation) -> str:
    return _known(one).release or "an unknown release"


def _stands(home: Home) -> str:
    """Return what each node of this machine runs, as a phrase."""
    found = []
    for folder in home.nodes():
        try:
            found.append(f"{folder.name} runs {_release(installations.of_node(folder))}")
        except UniosError:
            found.append(f"{folder.name} does not run")
    return ", ".join(found)


def _say_done(say: Say, new: Installation, done: list[str], had: list[str], *, checked: bool) -> None:
    say(upgraded={"release": new.release, "python": new.python, "path": new.path, "replaced": done, "had": had, "checked": checked})


@contextlib.contextmanager
def _heard(told: Callable[[], Any]) -> Iterator[None]:
    """Call `told` at a signal, and go on."""
    before = {number: signal.signal(number, lambda *_: told()) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
