"""A store's process on a disk that can be looked at."""

import os

from tests.durability.disks import Disk
from tests.durability.syncs import Syncs
from tests.store.engines import SqliteProcess


class OnDisk(SqliteProcess):
    """`syncs` None: nothing stands between it and libc."""

    def __init__(self, disk: Disk, syncs: Syncs | None = None) -> None:
        self._disk = disk
        environment = [f"{name}={value}" for name, value in syncs.environment.items() if name not in os.environ] if syncs else []
        super().__init__(disk.path, wrap=("env", *environment, *disk.wrap))

    def argument(self) -> str:
        return str(self._disk.inside / "store")
