"""Unix sockets in the file system: connect and listen where the path may be longer than the 107 bytes that Linux allows."""

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
