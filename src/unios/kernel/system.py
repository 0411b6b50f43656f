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

    @property
    def has_store(self) -> bool:
        """Whether a process of this machine answers for the store."""
        return self.gateway if self.engine == ETCD else self.store_machine == self.machine


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


def note_engine(path: Path, engine: str, *, gateway: bool = True) -> None:
    """Have system.json say which engine the store has: that of this machine, or, of etcd, also without a `gateway` here. Raises OSError on a full disk."""
    with changing(path):
        file = read(path, SystemFile)
        now = (engine, engine == ETCD and gateway, file.machine if engine == SQLITE else file.store_machine)
        if (file.engine, file.gateway, file.store_machine) != now:
            file.moves += file.engine != engine
            file.engine, file.gateway, file.store_machine = now
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
