"""Journals: where a process of a node notes what its deciders were told and ordered, if the node has a folder `journal`. core/journal.py replays them."""

import os

from unios.core.journal import Journal
from unios.wire.home import NodeFolder


def open_journal(folder: NodeFolder, name: str) -> Journal | None:
    """Return the journal of the calling process, None if none is kept."""
    path = folder.path / "journal"
    if not path.is_dir():
        return None
    descriptor = os.open(path / f"{name}.{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(line: bytes) -> None:
        os.write(descriptor, line)

    return Journal(write)
