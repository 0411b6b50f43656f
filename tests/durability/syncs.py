"""What a program's syncs are to do: tests/preloads/syncs.c, asked for from outside while the program runs."""

import os
from pathlib import Path
from typing import Literal

from tests import preloads

Mode = Literal["through", "pretend", "fail", "die", "sync-and-die"]


class Syncs:
    """Of all programs that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        self._library = preloads.built("syncs", folder)
        self._control = folder / "syncs"
        self._trace = folder / "syncs.trace"
        self.become("through")

    def become(self, mode: Mode, *, kind: str = "any", times: int = 0, part: str = "-") -> None:
        """From now on. `times`: so often in each process, 0 always; `part`: only of what has that in its path."""
        new = self._control.with_suffix(".new")
        new.write_text(f"{mode} {kind} {times} {part}\n")
        new.replace(self._control)

    @property
    def environment(self) -> dict[str, str]:
        mine = {"LD_PRELOAD": str(self._library), "SYNCS": str(self._control), "SYNCS_TRACE": str(self._trace)}
        return {**os.environ, **mine}

    def unsynced(self, folder: str, seen: Path) -> set[str]:
        """Return what is in `folder` and whose name was made after its own folder was last synced: a strict disk may lose it when the power goes. Names that
        are gone do not count. `seen`: where that folder is for this process."""
        owed: set[str] = set()
        for line in self._trace.read_text().splitlines():
            what, _space, path = line.partition(" ")
            if what == "made":
                owed.add(os.path.normpath(path))
            else:
                owed = set() if path == "*" else {one for one in owed if os.path.dirname(one) != path}
        names = {os.path.relpath(one, folder) for one in owed if one.startswith(folder + "/")}
        return {name for name in names if os.path.lexists(seen / name)}


def is_passing(name: str) -> bool:
    """Whether nobody needs that name after a power cut."""
    return "incoming" in name or name.endswith((".lock", "-shm"))
