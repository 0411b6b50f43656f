"""The process of a holder: `python -m unios.client.objects NODE SYSTEM`, started by starting.py. At most one of a user on a node: the second ends at once."""

import contextlib
import fcntl
import os
import resource
import sys
import tempfile
from typing import Final

from unios.client.objects.holder import Holder
from unios.client.objects.spilling import disk_of
from unios.errors import UniosError
from unios.limits import DESCRIPTORS_MAX
from unios.object_limits import OBJECTS_DISK_BYTES_MAX, OBJECTS_MEMORY_SHARE
from unios.wire.home import default_home

_DISK: Final = "/var/tmp"


def main(node: str, system: str) -> int:
    """Keep objects until nobody needs them. Exit codes: 0, or the error's."""
    folder = folder_of(node, system)
    lock = locked(folder)
    if lock < 0:
        return 0
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, files), hard))
        memory = bytes_of("UNIOS_OBJECTS_MEMORY", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // OBJECTS_MEMORY_SHARE)
        disk = bytes_of("UNIOS_OBJECTS_DISK", OBJECTS_DISK_BYTES_MAX)
        spills = disk_of(folder)
        if not spills:
            print(f"objects: neither {folder} nor /var/tmp is on a disk: nothing is spilled", file=sys.stderr)
            disk = 0
        Holder(node, spills, memory_bytes_max=memory, disk_bytes_max=disk, files_max=max(soft, files)).serve()
    except UniosError as error:
        print(f"objects: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        with contextlib.suppress(OSError):
            os.unlink(f"{folder}/lock")
            os.rmdir(folder)
        os.close(lock)
    return 0


def folder_of(node: str, system: str) -> str:
    """Return the folder of this holder's lock, made if need be: in the node's own if this user may write there, else in /var/tmp. It is this user's only.

    Two programs must find the same one, or there would be two holders: so TMPDIR, which each may have set otherwise, is asked last.
    """
    parent = f"{default_home()}/nodes/{node}"
    if not os.access(parent, os.W_OK):
        parent = _DISK if os.access(_DISK, os.W_OK) else tempfile.gettempdir()
    folder = f"{parent}/objects-{os.geteuid()}-{system[:12]}-{node}"
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & 0o170077 != 0o040000:
        raise SystemExit(f"objects: {folder} is not a folder of this user alone: remove it")
    return folder


def locked(folder: str) -> int:
    """Return the descriptor of the folder's lock, -1 if another holder has it."""
    descriptor = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(f"{folder}/lock").st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return -1


def bytes_of(name: str, otherwise: int) -> int:
    """Return the number in a variable of the environment. Ends the process if it is none."""
    text = os.environ.get(name, "")
    if not text:
        return otherwise
    if not text.isdecimal():
        raise SystemExit(f"objects: {name}={text} is no number of bytes")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
