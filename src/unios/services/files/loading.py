"""Loading: the tree as it was when this node, or another one, owned it last: a snapshot, the log, and what the journal on this node's disk has besides."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from unios.client.aio import Kernel
from unios.client.log import LogReader, LogWriter
from unios.core.files.changes import Changes
from unios.core.files.entry import Began, Entry, decode, encode
from unios.core.files.inode import Owner
from unios.errors import DataLost, NotFound
from unios.services.files import snapshots
from unios.services.files.blocks import connect
from unios.services.files.journal import Journal
from unios.services.files.owning import Owning
from unios.services.files.replicating import Replicating
from unios.services.files.snapshots import RootRecord
from unios.services.files.stage import Stage
from unios.services.files.sweeping import blocks_in
from unios.services.files.volume import NeedBlocks, Volume
from unios.undecodable import UNDECODABLE

LOG: Final = "files"
MODE: Final = 0o1777
"""Of the uppermost directory: everybody may make files there, as in /tmp."""


async def load(kernel: Kernel, root: RootRecord, writer: LogWriter, replicating: Replicating) -> Owning:
    """Return the tree; `writer` has taken the log over. DataLost, UniosError."""
    entries, token = await _logged(kernel, root)
    parts = await asyncio.to_thread(_snapshot, kernel, root)
    loop = asyncio.get_running_loop()

    def begin(token: str) -> None:
        asyncio.run_coroutine_threadsafe(writer.append(encode(Began(token, kernel.folder.name))), loop).result()

    def build() -> Owning:
        return _Building(kernel, replicating).build(root.at, parts, entries, token, begin)

    return await asyncio.to_thread(build)


def _snapshot(kernel: Kernel, root: RootRecord) -> list[Changes]:
    with connect(kernel.folder) as connection:
        return list(snapshots.read(connection, root.blocks))


async def _logged(kernel: Kernel, root: RootRecord) -> tuple[list[Entry], str]:
    """Return what the log has from the snapshot on, and whose journal was the last."""
    entries, token = list[Entry](), root.token
    reader = LogReader(kernel, LOG)
    with contextlib.suppress(NotFound):
        reader.offset = max(root.offset, (await reader.calls.present()).first)
        while found := await reader.read():
            for data in found:
                try:
                    written = decode(data)
                except UNDECODABLE as error:
                    raise DataLost(f"an entry of the log of files makes no sense: {error}") from error
                if isinstance(written, Began):
                    token = written.token
                else:
                    entries.append(written)
    return entries, token


class _Building:
    def __init__(self, kernel: Kernel, replicating: Replicating) -> None:
        self._kernel, self._replicating = kernel, replicating
        self._folder = kernel.folder.path / "files"

    def build(self, at: int, parts: list[Changes], entries: list[Entry], token: str, begin: Callable[[str], None]) -> Owning:
        """Put it together, in a thread."""
        last = max((entry.at for entry in entries), default=0)
        last = max(last, at)
        journal = Journal.find(self._folder, token, last)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        stage = Stage(self._folder / "stage", fresh=journal is None)
        volume = Volume(stage, journal or Journal.begin(self._folder, last), self._replicating.tell)
        owning = Owning(self._kernel, self._replicating, volume)
        owning.read, owning.is_continuous = len(entries), journal is not None
        for part in parts:
            volume.state.apply(part)
        kept = blocks_in(parts)
        for entry in entries:
            _replay(owning, entry, kept if entry.at <= at else None, patches=journal is None)
        if journal is not None:
            volume.recall(journal.read(), last)
            stage.keep_only({staged.slot for _ino, _index, staged in volume.staging.all()})
        else:
            begin(volume.journal.token)
            volume.begin()
            self._tidy_others(volume.journal.token)
        if not volume.state.inodes:
            volume.commit(volume.tree.found(Owner(os.geteuid(), os.getegid()), MODE, time.time_ns()))
        return owning

    def _tidy_others(self, token: str) -> None:
        for folder in [one for one in Path(self._folder).iterdir() if one.is_dir() and one.name != token]:
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()


def _replay(owning: Owning, entry: Entry, kept: set[bytes] | None, *, patches: bool) -> None:
    """`kept`: of an entry that the snapshot has, the blocks of the snapshot. A patch of another block is of no more use: something has come in its place."""
    while True:
        try:
            owning.volume.replay(entry, patches=patches)
        except NeedBlocks as needed:
            if kept is not None and not kept.issuperset(needed.blocks):
                patches = False
                continue
            owning.fetched(needed.blocks)
            continue
        return
