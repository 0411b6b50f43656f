"""Paths by pattern, in folders that others remove meanwhile: `Path.glob` raises where one vanishes under it."""

import glob
from pathlib import Path


def found(folder: Path | str, pattern: str) -> list[Path]:
    """Return what matches below a folder; `**` is any number of folders. What vanishes meanwhile is left out."""
    return [Path(folder, name) for name in glob.glob(pattern, root_dir=folder, recursive=True)]
