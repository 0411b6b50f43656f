"""Hosts the store's process of a machine: the supervisor starts it here; what it does is in store/server.py, or with etcd in store/etcd/server.py.

A store that has been there and whose file is gone is not begun anew without a word: the system would forget all that it runs.
That of an embedded system syncs nothing: the power cut that could lose something takes the system's owner, and so all of it.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from unios.errors import DataLost, Unavailable, UniosError
from unios.kernel import cluster, owner, parts, runfiles, system
from unios.kernel.moving import Mover, following
from unios.kernel.system import SystemFile
from unios.store import left, returned, server, wal
from unios.wire.home import Home, NodeFolder

if TYPE_CHECKING:
    from unios.store.etcd.gateway import Gateway, Settles

LOOK_S: Final = 0.05
LOST: Final = "lost"
"""The file that is there as long as the store cannot begin, and will not by itself; it says why."""


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Serve the store of this machine; 0 if another process does already. A failure is left in the file `failed`, one that a person must mend also in
    LOST."""
    home = Home(parts.home_of(folder))
    failed, lost = home.store / "failed", home.store / LOST
    try:
        lost.unlink(missing_ok=True)
        if (found := which(home)) is not None:
            failed.unlink(missing_ok=True)
            return _gateway(home, found, beat)
        check(home)
        has_failed = failed.exists()  # perhaps since its file is damaged: that would come up when the page is read, again and again
        failed.unlink(missing_ok=True)
        return server.main(home.store, beat, durable=not owner.is_owned(home), check=has_failed, mover=Mover(home))
    except UniosError as error:
        runfiles.place(failed, str(error))
        if isinstance(error, DataLost):
            runfiles.place(lost, str(error))
        print(error, file=sys.stderr)
        return error.exit_code


def _gateway(home: Home, found: cluster.Cluster, beat: Callable[[], None]) -> int:
    from unios.store.etcd import server as gateway  # in this process alone: it loads grpcio, 14 MB, whose threads outlive no fork

    mover, settles = Mover(home, system.ETCD), _settles(home)
    if not found.managed:
        return gateway.main(home.store, cluster.address_of(home, found), beat, mover=mover, settles=settles)
    while not found.members:  # the kernel of the first node has it started; no beat yet, as what comes then takes a while
        time.sleep(LOOK_S)
        found = cluster.read(home) or found
    return gateway.main(home.store, cluster.address_of(home, found), beat, following(home), found.quota_bytes, mover, settles)


def _settles(home: Home) -> "Settles":
    """Return what is made sure of first: that no attempt to move the store back, of this machine or of one that it has lost sight of, is under way."""

    async def settle(gateway: "Gateway") -> None:
        known = system.read(home.system_file, SystemFile)  # under the lock: a gateway that was given up before it had that is none
        gone = ""
        if known.has_store:
            await gateway.stay(known.machine)
            gone = await gateway.come_back() if known.forgone else await gateway.left()
            try:
                await asyncio.to_thread(system.found_left, home.system_file, known.forgone, gone)
            except OSError as error:
                raise Unavailable(f"what etcd says of the store's moves cannot be noted: {error}") from error
        if gone or not system.read(home.system_file, SystemFile).has_store:
            print(
                f"this machine has no gateway to etcd any more, for attempt {gone or known.forgone} of another to have the store",
                file=sys.stderr,
                flush=True,
            )
            os.kill(os.getpid(), signal.SIGTERM)
            raise Unavailable("this machine's gateway has been given up")

    return settle


def which(home: Home) -> cluster.Cluster | None:
    """Return the etcd of this machine's gateway, None if the system has the embedded engine, whatever else lies in the store's folder. Raises DataLost."""
    known = system.read(home.system_file, SystemFile)
    if known.engine != system.ETCD:
        if not known.has_store:
            raise Unavailable(f"the store is on another machine, {known.store_machine[:12]}")
        if left.left_for(home.store / server.FILE) != system.ETCD:
            return None
        _make_sure(home)
        _note(home, system.ETCD)
    elif _has_returned(home, known.moves):
        _note(home, system.SQLITE)
        return None
    found = cluster.read(home)
    if found is None:
        raise DataLost(
            f"{home.store / cluster.FILE} is gone, which says where the etcd is that keeps the records, and lets this machine in; nothing of the records is "
            "lost by that: copy it from another machine of the system that has it, or `unios leave` and join again"
        )
    return found


def _has_returned(home: Home, moves: int) -> bool:
    try:
        return returned.has_returned(home.store / server.FILE, moves)
    except OSError as error:
        raise _unsure(home, error) from error


def _make_sure(home: Home) -> None:
    """What the file says, perhaps by a commit that only the page cache has, is on the disk when this returns. Raises Unavailable."""
    try:
        wal.make_sure(str(home.store / server.FILE))
    except OSError as error:
        raise _unsure(home, error) from error


def _unsure(home: Home, error: OSError) -> Unavailable:
    return Unavailable(f"the store's file {home.store / server.FILE} cannot be brought to the disk: {error.strerror}")


def _note(home: Home, engine: str) -> None:
    """The store was moved, and its process died before it could say so; on a full disk the next one says it."""
    with contextlib.suppress(OSError):
        system.note_engine(home.system_file, engine)


def check(home: Home) -> None:
    """Raise DataLost if the store's file has been there and is gone."""
    known = system.read(home.system_file, SystemFile).generation
    if known and not (home.store / server.FILE).exists():
        raise DataLost(
            f"the store's file {home.store / 'store.db'} is gone, and with it the records of the system: with a backup `unios store restore "
            "FILE --yes` makes it anew; else remove UNIOS_HOME on every machine and begin anew"
        )
