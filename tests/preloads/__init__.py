"""Libraries in C that tests load before libc: a wall clock that jumps (clock.c), and syncs that fail, lie or are written down (syncs.c).

They are compiled where a test wants one; `missing` says why that cannot be.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Literal

Name = Literal["clock", "syncs"]


def missing() -> str:
    """Return why nothing can be compiled here, or nothing."""
    return "" if shutil.which("cc") else "needs a C compiler (cc)"


def built(name: Name, folder: Path) -> Path:
    """Return the library, compiled into that folder if it is not there yet."""
    library = folder / f"{name}.so"
    if not library.exists():
        source = Path(__file__).parent / f"{name}.c"
        done = subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source, "-ldl"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return library
