"""Journals: where a process of a node notes what its deciders were told and ordered, if the node has a folder `journal`. core/journal.py replays them."""

import contextlib
import os

from unios.core.journal import Journal
from unios.wire.home import NodeFolder


def open_journal(folder: NodeFolder, name: str) -> Journal | None:
    """Return the journal of the calling process, None if none is kept, or none can be. What does not fit on the disk ends it, and nothing else."""
    path = folder.path / "journal"
    if not path.is_dir():
        return None
    try:
        descriptor = os.open(path / f"{name}.{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    return Journal(_Lines(descriptor).write)


class _Lines:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, line: bytes) -> None:
        """Append a line; after the first that was not written whole no more: a journal with a hole does not replay."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if os.write(self._descriptor, line) == len(line):
                return
        os.close(self._descriptor)
        self._descriptor = -1
