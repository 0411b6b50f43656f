"""Mounting a descriptor of /dev/fuse on a folder, and taking it away, by mount(2) and umount2(2): for root, and for whoever has a mount namespace of his own."""

import ctypes
import errno
import os
import re
from pathlib import Path
from typing import Final

from unios.errors import CallerError, Denied, NotFound, Unavailable, UniosError

DEVICE: Final = "/dev/fuse"
KIND: Final = "fuse.unios"
SOURCE: Final = "unios"
LINKS_MAX: Final = 40
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8
_READ_BYTES: Final = 1 << 20


def mount(folder: Path, *, allow_other: bool = True, device: str = DEVICE, source: str = SOURCE) -> int:
    """Mount, and return the descriptor, which the first reader begins with; the mount is dead when the last one who has it closes it, until `unmount`.

    Linux checks modes and owners itself (default_permissions). `allow_other`: others than this user may enter. `source`: what the list of mounts, and df,
    call it; printable, without blanks. Raises Unavailable if this Linux has no
    FUSE, or there is a mount of ours already, dead or not; Denied, NotFound, CallerError for what is no folder.
    """
    folder = place(folder)
    if kind_of(folder) == KIND:
        raise Unavailable(f"{folder} is mounted already: unmount it first")
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _no_device(device, error) from error
    try:
        options = f"fd={descriptor},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()},default_permissions,max_read={_READ_BYTES}"
        data = (options + (",allow_other" if allow_other else "")).encode()
        if _libc().mount(source.encode(), os.fsencode(folder), KIND.encode(), MS_NOSUID | MS_NODEV, data):
            raise _refused(folder, ctypes.get_errno())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unmount(folder: Path, *, source: str = "") -> bool:
    """Take it away at once, also while somebody is in it: he keeps what he has open. Return whether something of ours was mounted there. Raises Denied.

    `source`: only what is called so.
    """
    folder = place(folder)
    kind, found = _mounts().get(str(folder), ("", ""))
    if kind != KIND or source not in ("", found):
        return False
    if not _libc().umount2(os.fsencode(folder), MNT_DETACH | UMOUNT_NOFOLLOW):
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOENT):
        return False
    raise Denied(f"{folder} cannot be unmounted: {os.strerror(number)}")


def place(folder: Path) -> Path:
    """Return where a folder is, without symbolic links. What is mounted there already is not entered: nobody may serve it."""
    for _ in range(LINKS_MAX):
        folder = folder.parent.resolve() / folder.name if folder.name not in ("", "..") else folder.resolve()
        if kind_of(folder) or not folder.is_symlink():
            return folder
        folder = folder.parent / os.readlink(folder)
    raise CallerError(f"{folder} is one of too many symbolic links")


def reached(folder: Path) -> Path:
    """Return where a folder is, as `place`, without a step into a mount of ours: who keeps it alive would wait for himself.

    Raises CallerError for what is in one or above one, or is no place to mount on; Denied, Unavailable.
    """
    there = _mounts()
    done, left, links = Path("/"), list(reversed(folder.parts[1:])), 0
    while left:
        part = left.pop()
        at = done.parent if part == ".." else done / part
        if there.get(str(at), ("", ""))[0] == KIND:
            if left:
                raise CallerError(f"{folder} is in {at}, which unios has mounted itself")
        elif to := _link(at):
            links += 1
            if links > LINKS_MAX:
                raise CallerError(f"{folder} is one of too many symbolic links")
            left += reversed([part for part in to.parts if part != "/"])
            at = Path("/") if to.is_absolute() else done
        done = at
    if done.parent == done:
        raise CallerError("nothing can be mounted on /")
    within = next((path for path, (kind, _source) in there.items() if kind == KIND and Path(path).parent.is_relative_to(done)), "")
    if within:
        raise CallerError(f"{folder} is above {within}, which unios has mounted")
    return done


def _link(path: Path) -> Path | None:
    """Return what a symbolic link says, None if that is none."""
    try:
        return Path(os.readlink(path))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
            return None
        if error.errno in (errno.EPERM, errno.EACCES):
            raise Denied(f"{path} may not be looked at ({error.strerror})") from error
        raise Unavailable(f"{path} cannot be looked at: {error.strerror}") from error


def kind_of(folder: Path) -> str:
    """Return of what kind the file system is that is mounted right there, the uppermost if there are several; "" if none is."""
    return _mounts().get(str(folder), ("", ""))[0]


def source_of(folder: Path) -> str:
    """Return what a mount of ours is called that is right there, as `mount` was told; "" if there is none."""
    kind, source = _mounts().get(str(folder), ("", ""))
    return source if kind == KIND else ""


def _mounts() -> dict[str, tuple[str, str]]:
    """Return of each place on which something is mounted the kind and source of the uppermost."""
    found = {}
    for line in os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).split("\n"):  # other ends of lines are parts of names
        before, dash, after = line.partition(" - ")
        if dash:
            kind, source = after.split(" ")[:2]
            found[_unescaped(before.split(" ")[4])] = (kind, source)
    return found


def _unescaped(path: str) -> str:
    """Return a path of mountinfo as it is: there blanks and the like are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _no_device(device: str, error: OSError) -> UniosError:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return Unavailable(f"this Linux has no FUSE ({device}: {error.strerror}): `modprobe fuse`, or give the container that device")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return Unavailable(f"{device} cannot be opened: {error.strerror}")
    return Denied(f"{device} may not be opened ({error.strerror}): files can be mounted by root here, or after `chmod 666 {device}`")


def _refused(folder: Path, number: int) -> UniosError:
    said = os.strerror(number)
    if number == errno.ENOENT:
        return NotFound(f"there is no folder {folder}")
    if number == errno.ENOTDIR:
        return CallerError(f"{folder} is no folder")
    if number == errno.ENODEV:
        return Unavailable("this Linux has no FUSE: `modprobe fuse`")
    if number in (errno.EPERM, errno.EACCES):
        return Denied(f"{folder} may not be mounted on ({said}): that takes root, or a mount namespace of one's own")
    return Unavailable(f"{folder} cannot be mounted on: {said}")
