"""Mounting a descriptor of /dev/fuse on a folder, and taking it away, by mount(2) and umount2(2): for root, and for whoever has a mount namespace of his own."""

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from unios.errors import CallerError, Denied, NotFound, Unavailable, UniosError

DEVICE: Final = "/dev/fuse"
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8
_READ_BYTES: Final = 1 << 20


def mount(folder: Path, *, allow_other: bool = True, device: str = DEVICE) -> int:
    """Mount, and return the descriptor, which the first reader begins with; the mount goes when the last one who has it closes it.

    Linux checks modes and owners itself (default_permissions). `allow_other`: others than this user may enter. Raises Unavailable if this Linux has no
    FUSE, Denied, NotFound, CallerError for what is no folder.
    """
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _no_device(device, error) from error
    try:
        options = f"fd={descriptor},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()},default_permissions,max_read={_READ_BYTES}"
        data = (options + (",allow_other" if allow_other else "")).encode()
        if _libc().mount(b"unios", os.fsencode(folder), b"fuse.unios", MS_NOSUID | MS_NODEV, data):
            raise _refused(folder, ctypes.get_errno())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unmount(folder: Path) -> bool:
    """Take it away at once, also while somebody is in it: he keeps what he has open. Return whether something was mounted there. Raises Denied."""
    if not _libc().umount2(os.fsencode(folder), MNT_DETACH | UMOUNT_NOFOLLOW):
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOENT):
        return False
    raise Denied(f"{folder} cannot be unmounted: {os.strerror(number)}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _no_device(device: str, error: OSError) -> UniosError:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return Unavailable(f"this Linux has no FUSE ({device}: {error.strerror}): `modprobe fuse`, or give the container that device")
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
    if number == errno.ENOTCONN:
        return Unavailable(f"{folder} is a mount that nobody serves any more: `umount {folder}` first")
    return Unavailable(f"{folder} cannot be mounted on: {said}")
