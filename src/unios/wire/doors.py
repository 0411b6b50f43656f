"""Unix sockets: connect and listen where the path may be longer than the 107 bytes that Linux allows; descriptors that come over one."""

import array
import contextlib
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def _short(path: "Path | str") -> tuple[str, int]:
    parent, name = os.path.split(os.fspath(path))
    folder = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{folder}/{name}", folder


def connect_unix(path: "Path | str", *, timeout_s: float | None = None) -> socket.socket:
    """Return a connected stream socket; OSError as connect(2) gives it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        address, folder = _short(path)
        try:
            sock.connect(address)
        finally:
            os.close(folder)
    except BaseException:
        sock.close()
        raise
    return sock


def listen_unix(path: "Path", *, mode: int, backlog: int = 128) -> socket.socket:
    """Return a listening socket at `path`, replacing what a dead process left there."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        address, folder = _short(path)
        try:
            sock.bind(address)
        finally:
            os.close(folder)
        path.chmod(mode)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def receive_descriptors(sock: socket.socket, size: int, count: int) -> tuple[bytes, list[int]]:
    """Return what was sent, with up to `count` descriptors, which programs that are started from here do not get. OSError.

    Not by socket.recv_fds, which ignores its flags (CPython 3.11): what a program starts, and leaves behind, would hold the connections that it had.
    """
    data, ancillary, _flags, _address = sock.recvmsg(size, socket.CMSG_LEN(4 * count), socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    return data, list(descriptors)
