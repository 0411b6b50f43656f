"""Exit notes: an init tells its kernel of the program's end straight away, by datagram. A short cut: the guard tells it too, and surely.

A note that is lost, comes twice, or finds no kernel does no harm. A full queue drops it: nobody ever waits here.
"""

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from unios.kernel import trees_protocol

NAME: Final = "exits"
_NOTE_BYTES_MAX: Final = 64 * 1024
_NOTES_AT_ONCE: Final = 64
"""Then whatever else the kernel has to do has its turn."""


def _is_exit(fields: dict[str, Any]) -> bool:
    return fields.get("event") == "exit" and isinstance(fields.get("pid"), int) and isinstance(fields.get("incarnation"), int)


class Sender:
    """That of one init. Raises OSError if there is no such folder."""

    def __init__(self, node_folder: str) -> None:
        self._folder = os.open(node_folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def send(self, event: dict[str, Any]) -> None:
        """Send the note if there is somebody to take it."""
        with contextlib.suppress(OSError):
            self._sock.sendto(trees_protocol.encode(event), f"/proc/self/fd/{self._folder}/{NAME}")

    def close(self) -> None:
        self._sock.close()
        os.close(self._folder)


class Receiver:
    """That of one kernel: `on_event` gets each note. Whoever may write to the socket (mode 0600) may as well write exit.json."""

    def __init__(self, node_folder: str, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._path = f"{node_folder}/{NAME}"
        self._on_event = on_event
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        folder = os.open(node_folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        old = os.umask(0o177)
        try:
            self.sock.bind(f"/proc/self/fd/{folder}/{NAME}")
        finally:
            os.umask(old)
            os.close(folder)

    def readable(self) -> None:
        """Take the notes that are there, so many at a time; what is none is passed over."""
        for _note in range(_NOTES_AT_ONCE):
            try:
                data = self.sock.recv(_NOTE_BYTES_MAX)
                frames = trees_protocol.Decoder().feed(data)
            except trees_protocol.Garbage:
                continue
            except OSError:
                return
            for frame in frames:
                if frame.fields is not None and _is_exit(frame.fields):
                    self._on_event(frame.fields)

    def close(self) -> None:
        self.sock.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
