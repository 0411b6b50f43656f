"""What a machine knows of its system, and a node of itself, on its own disk: system.json and node.json."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from unios import durable
from unios.errors import DataLost
from unios.undecodable import UNDECODABLE

T = TypeVar("T")
SQLITE: Final = "sqlite"
ETCD: Final = "etcd"


class SystemFile(msgspec.Struct, omit_defaults=True):
    """system.json. `members` and `generation` are what was last seen: enough to find the others while the store is away."""

    id: str
    machine: str
    engine: str
    store_machine: str
    founder: str
    """The machine that has the authority's key."""
    generation: str = ""
    members: dict[str, tuple[str, ...]] = {}
    machines: dict[str, str] = {}
    """node -> machine"""
    left: dict[str, str] = {}
    """node that has left -> its certificate's mark: refused even while the store is away"""
    gateway: bool = False
    """Whether the store's process of this machine is one of many gateways to etcd."""
    moves: int = 0
    """How often the store has gone to another engine."""
    forgone: str = ""
    """The attempt of another machine to have the store in a file of its own, for which this one has no gateway."""

    @property
    def has_store(self) -> bool:
        """Whether a process of this machine answers for the store."""
        return self.gateway if self.engine == ETCD else self.store_machine == self.machine

    def notes(self) -> Iterator[str]:
        """Return what a person should know of where the store is."""
        if self.engine == SQLITE:
            yield (
                f"the store lives on machine {self.store_machine[:12]} alone: while that is away running processes freeze "
                "and nothing can be started; if its disk is lost, so are the records"
            )


class NodeFile(msgspec.Struct, omit_defaults=True):
    """node.json. `listen` and `advertise` as they were asked for; `address` is where links were taken last, `addresses` what others were told."""

    name: str
    users: tuple[str, ...]
    listen: str = "127.0.0.1"
    advertise: str = ""
    address: str = ""
    addresses: tuple[str, ...] = ()
    cores: int = 0
    """How many it offers; 0: all of the machine's."""


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Be the only one of this machine that reads system.json and writes it anew: nodes note members there, and a store that moves its engine. Blocks."""
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def note_engine(path: Path, engine: str, *, gateway: bool = True, machine: str = "", forgone: str | None = None) -> bool:
    """Have system.json say which engine the store has: in a file of `machine` (empty: this one), or etcd, also without a `gateway` here. `forgone`: what the file
    said of that when it was found out; if it says something else by now nothing is noted, and this is False. None: whatever it says. Raises OSError on a full
    disk."""
    with changing(path):
        file = read(path, SystemFile)
        if forgone is not None and file.forgone != forgone:
            return False
        now = (engine, engine == ETCD and gateway, (machine or file.machine) if engine == SQLITE else file.store_machine, "")
        if (file.engine, file.gateway, file.store_machine, file.forgone) != now:
            file.moves += file.engine != engine
            file.engine, file.gateway, file.store_machine, file.forgone = now
            write(path, file)
        return True


def forgo(path: Path, attempt: str) -> bool:
    """Have no gateway on this machine while that attempt is under way; False if the store is in a file of this machine. Raises OSError."""
    with changing(path):
        file = read(path, SystemFile)
        if file.engine == SQLITE and file.has_store:
            return False
        file.gateway, file.forgone = False, attempt
        write(path, file)
        return True


def come_back(path: Path, attempt: str) -> None:
    """Have this machine's gateway begin again, which first has the attempt end that it was given up for. Raises OSError."""
    with changing(path):
        file = read(path, SystemFile)
        if file.forgone == attempt and file.engine == ETCD:
            file.gateway = True
            write(path, file)


def found_left(path: Path, forgone: str, attempt: str) -> None:
    """Note what etcd said to a gateway that begins: by which attempt the store has gone, or is about to; empty: it has not. Raises OSError."""
    with changing(path):
        file = read(path, SystemFile)
        if file.forgone == forgone and file.engine == ETCD and (file.gateway, file.forgone) != (not attempt, attempt):
            file.gateway, file.forgone = not attempt, attempt
            write(path, file)


def read(path: Path, type_: type[T]) -> T:
    """Return what a file holds. DataLost if it is there and makes no sense; FileNotFoundError if it is not there."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except UNDECODABLE as error:
        raise DataLost(f"{path} is damaged ({error}): restore it, or remove the folder and join again") from error


def write(path: Path, value: object) -> None:
    """Write a file durably and at once."""
    durable.place(path, msgspec.json.encode(value), 0o666)
