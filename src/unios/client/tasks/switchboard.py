"""Switchboard: the connections of an executor, waited for together. What is said goes out at the next `flush`, all of a connection's at once."""

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterable

from unios.client.tasks.line import Line
from unios.errors import ProtocolError
from unios.wire.parcels import Head, Part

Heard = Callable[[Head, list[Part]], None]


class Switchboard:
    """Belongs to one thread, but for `wake`."""

    def __init__(self) -> None:
        self._lines: dict[int, tuple[Line, Heard, Callable[[], None]]] = {}
        self._dirty: set[Line] = set()
        self._stuck: set[Line] = set()
        """Those that Linux takes no more from at the moment."""
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        self._closing = threading.RLock()
        """Of the two descriptors. Can be had again: what is collected while it is held may wake too."""

    def wake(self) -> None:
        """Make `wait` return. From any thread, and after `close` too."""
        with self._closing:
            if not self._poll.closed:
                os.eventfd_write(self._wake, 1)

    def watch(self, descriptor: int) -> None:
        self._poll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)

    def wait(self, patience_s: float) -> list[tuple[int, int]]:
        """Return what is ready, for `serve` or whoever watches it; below 0: wait for ever."""
        ready = self._poll.poll(patience_s)
        if any(descriptor == self._wake for descriptor, _mask in ready):
            os.eventfd_read(self._wake)
        return ready

    def serve(self, descriptor: int, mask: int) -> None:
        """Take in what a connection has to say, and tell of its end."""
        if descriptor not in self._lines:
            return
        line, heard, over = self._lines[descriptor]
        if mask & select.EPOLLOUT:
            self._dirty.add(line)
        if not mask & ~select.EPOLLOUT:
            return
        try:
            for head, parts in line.receive():
                heard(head, parts)
        except ProtocolError:
            line.over = True
        if line.over:
            self.drop(line)
            over()

    def say(self, line: Line | None, head: Head, parts: Iterable[Part] = ()) -> None:
        """Say it, if there is a connection."""
        if line is not None:
            line.say(head, tuple(parts))
            self._dirty.add(line)

    def flush(self) -> None:
        """Send what Linux takes."""
        for line in self._dirty:
            if line.fileno() < 0:
                continue
            stuck = not line.flush()
            if stuck != (line in self._stuck):
                (self._stuck.add if stuck else self._stuck.discard)(line)
                self._poll.modify(line.fileno(), select.EPOLLIN | (select.EPOLLOUT if stuck else 0))
        self._dirty.clear()

    def flush_now(self) -> None:
        """Send everything, or what is taken within a second of each."""
        for line in self._dirty:
            if line.fileno() >= 0:
                line.sock.settimeout(1.0)
                line.flush()

    def add(self, line: Line, heard: Heard, over: Callable[[], None]) -> None:
        """Wait for a connection too; added again, others hear it from now on."""
        if line.fileno() not in self._lines:
            self.watch(line.fileno())
        self._lines[line.fileno()] = (line, heard, over)

    def drop(self, line: Line) -> None:
        """End a connection. Idempotent."""
        descriptor = line.fileno()
        if descriptor >= 0:
            self.unwatch(descriptor)
            del self._lines[descriptor]
            line.end()
        self._dirty.discard(line)
        self._stuck.discard(line)

    def close(self, *, end: bool) -> None:
        """Close every descriptor; with `end` the connections end for the others too. Idempotent."""
        for line, _heard, _over in self._lines.values():
            if end:
                line.end()
            else:
                line.sock.close()
        self._lines.clear()
        with self._closing if end else contextlib.nullcontext():  # in a fork a thread that is not there may hold it
            if not self._poll.closed:
                self._poll.close()
                os.close(self._wake)
