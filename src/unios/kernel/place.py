"""Where a node is: by that the kernel that comes back after its death is told from one that runs in a copy of its folder, with the same identity."""

import hashlib
from pathlib import Path
from typing import Final

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def place_of(folder: Path) -> str:
    """Return a name of this folder on this machine since it was started; "" where Linux does not say. A copy has another one, and so has a machine that was
    started anew: the lease from before has ended by then, or soon does."""
    try:
        found = folder.stat()
        return hashlib.sha256(f"{BOOT_ID.read_text()}:{found.st_dev}:{found.st_ino}".encode()).hexdigest()[:16]
    except OSError:
        return ""


def twin_text(name: str) -> str:
    """Return what is told to one who comes as a node that is there already."""
    return (
        f"a kernel with the identity of {name} is there already, in another place: was its folder copied? "
        f"Only one of them can be {name}: give the copy a UNIOS_HOME of its own and let it join with a token (`unios join`); "
        f"if it is the copy that runs, stop that first. If nobody copied it, it was stolen: `unios leave --expel {name}`"
    )
