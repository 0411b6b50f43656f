"""Who asks: the identity of a client, taken from the kernel of Linux and never from the client.

A Unix socket tells the uid and pid that connected. A pid inside a tree's namespace is found again by that
namespace, so that a program of the system is known by its global pid and incarnation.
"""

import os
import pwd
import socket
import struct
import time
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_UCRED = struct.Struct("3i")
UID_NONE: Final = 2**32 - 1
"""What Linux takes for "leave the uid as it is"."""
ACCOUNT_S: Final = 1.0
"""So long what the machine said of a user stands: it reads its files anew for each question, and each start asks. That it knows none is asked again."""
ACCOUNTS_KEPT: Final = 256
_accounts: dict[str, tuple[float, tuple[int, int, list[int], str]]] = {}
"""user -> (until when, the account)"""
_names: dict[int, tuple[float, str]] = {}


class Caller(NamedTuple):
    """`privileged`: may do everything on this node: root, or the user whose node it is. `users`, `machine`: of a kernel that asks over a link, what its
    certificate says; empty for a client of this machine."""

    user: str
    uid: int
    privileged: bool
    node: str
    linux_pid: int = 0
    pid: int = 0
    incarnation: int = 0
    users: tuple[str, ...] = ()
    machine: str = ""


def user_of(uid: int) -> str:
    """Return the user's name; a uid without one is named "#uid"."""
    now = time.monotonic()
    known = _names.get(uid)
    if known is not None and known[0] > now:
        return known[1]
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
    _keep(_names, uid, (now + ACCOUNT_S, name))
    return name


def account_of(user: str) -> tuple[int, int, list[int], str] | None:
    """Return uid, gid, supplementary groups and home of a user here, None if the machine does not know the user.

    Nobody but root is uid 0, whatever the machine or the name says: a node that may speak for everybody but root must not be root by another name.
    """
    if user.startswith("#"):
        return _unnamed(user)
    now = time.monotonic()
    known = _accounts.get(user)
    if known is not None and known[0] > now:
        return known[1]
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        return None
    if entry.pw_uid == 0 and user != user_of(0):
        return None
    found = (entry.pw_uid, entry.pw_gid, os.getgrouplist(user, entry.pw_gid), entry.pw_dir)
    _keep(_accounts, user, (now + ACCOUNT_S, found))
    return found


def _keep(known: dict[K, V], key: K, value: V) -> None:
    if len(known) >= ACCOUNTS_KEPT:
        known.clear()
    known[key] = value


def _unnamed(user: str) -> tuple[int, int, list[int], str] | None:
    try:
        uid = int(user[1:])
    except ValueError:
        return None
    if user != f"#{uid}" or not 0 < uid < UID_NONE:
        return None
    return uid, uid, [], "/"


def pid_namespace_of(linux_pid: int) -> int:
    """Return the inode of a process's pid namespace, 0 if it cannot be read."""
    try:
        return os.stat(f"/proc/{linux_pid}/ns/pid").st_ino
    except OSError:
        return 0


def identify(sock: socket.socket, node: str, tree_of: Callable[[int, int], tuple[int, int]]) -> Caller:
    """Return who connected. `tree_of(linux_pid, namespace)` gives (global pid, incarnation), (0, 0) for a stranger."""
    linux_pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    pid, incarnation = tree_of(linux_pid, pid_namespace_of(linux_pid))
    return Caller(user_of(uid), uid, uid in (0, os.geteuid()), node, linux_pid, pid, incarnation)
