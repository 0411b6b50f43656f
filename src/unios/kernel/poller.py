"""The loop of guard and init: descriptors, timers and socket clients on one epoll, one thread, no asyncio (a fork of it costs thrice as much).

A callback that must not run any more is simply not called: removal takes effect at once, also for events already fetched.
"""

import contextlib
import errno
import heapq
import itertools
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from unios.kernel import trees_protocol
from unios.limits import ACCEPT_REST_MS, TREE_CLIENTS_MAX, TREE_PEER_QUEUE_BYTES_MAX

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
_CHUNK: Final = 256 * 1024
_READ: Final = 64 * 1024
"""Below the size from which malloc makes a mapping for each buffer."""

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)

Callback = Callable[[int], None]


class Poller:
    """Runs callbacks. `before` is called after every wait and before each callback: an init looks at its lease there."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._cancelled: set[int] = set()
        self._numbers = itertools.count(1)
        self._before = before

    def add(self, descriptor: int, callback: Callback, mask: int = READ) -> None:
        self._epoll.register(descriptor, mask)
        self._callbacks[descriptor] = callback

    def change(self, descriptor: int, mask: int) -> None:
        self._epoll.modify(descriptor, mask)

    def remove(self, descriptor: int) -> None:
        """Forget `descriptor`; idempotent. To be called before it is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)

    def after(self, seconds: float, callback: Callable[[], None]) -> int:
        """Call `callback` once in `seconds`; return a number for `cancel`."""
        number = next(self._numbers)
        heapq.heappush(self._timers, (time.monotonic() + seconds, number, callback))
        return number

    def cancel(self, number: int) -> None:
        """Drop a timer that has not fired yet."""
        if any(timer[1] == number for timer in self._timers):
            self._cancelled.add(number)

    def turn(self) -> None:
        """Wait for the next events or timer and run their callbacks."""
        timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1
        try:
            events = self._epoll.poll(timeout)
        except InterruptedError:
            events = []
        self._before()
        for descriptor, mask in events:
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                callback(mask)
                self._before()
        while self._timers and self._timers[0][0] <= time.monotonic():
            _at, number, due = heapq.heappop(self._timers)
            if number in self._cancelled:
                self._cancelled.discard(number)
            else:
                due()
                self._before()


class Client:
    """One connected socket that speaks frames. Whatever is wrong with it closes it and nothing else."""

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        on_frame: Callable[["Client", trees_protocol.Frame], None],
        on_close: Callable[["Client"], None] = lambda _client: None,
    ) -> None:
        sock.setblocking(False)
        self._poller, self._sock, self._on_frame, self._on_close = poller, sock, on_frame, on_close
        self._decoder = trees_protocol.Decoder()
        self._waiting = bytearray()
        self._reading = True
        self._mask = READ
        self.open = True
        self.fds: list[int] = []
        """Descriptors that came along; whoever expects them takes them out."""
        poller.add(sock.fileno(), self._ready)

    @property
    def behind(self) -> bool:
        """Whether it has not read yet what it was sent."""
        return bool(self._waiting)

    def send(self, fields: dict[str, Any]) -> None:
        """Send a JSON frame now or as soon as the peer reads; a peer too far behind is closed."""
        self.send_bytes(trees_protocol.encode(fields))

    def send_bytes(self, frame: bytes) -> None:
        if not self.open:
            return
        self._waiting += frame
        self._flush()
        # One frame may be large (a spec): what counts is what piled up behind it.
        if self.open and len(self._waiting) > TREE_PEER_QUEUE_BYTES_MAX + len(frame):
            self.close()

    def send_with(self, fields: dict[str, Any], descriptors: list[int]) -> None:
        """Send a JSON frame with descriptors, which stay the caller's; a peer that has not taken yet what came before is closed."""
        if self._waiting or not self.hand_over(fields, descriptors):
            self.close()

    def hand_over(self, fields: dict[str, Any], descriptors: list[int]) -> bool:
        """Send so, without the loop: also for a fork of its process. Return whether it has gone out."""
        frame = trees_protocol.encode(fields)
        with contextlib.suppress(OSError):
            return socket.send_fds(self._sock, [frame], descriptors) == len(frame)
        return False

    def pause(self, *, reading: bool) -> None:
        """Stop or resume reading from it."""
        self._reading = reading
        self._watch()

    def close(self) -> None:
        """Close it and tell the owner; idempotent."""
        if not self.open:
            return
        self.open = False
        self._poller.remove(self._sock.fileno())
        self._sock.close()
        for descriptor in self.fds:
            os.close(descriptor)
        self.fds.clear()
        self._on_close(self)

    def detach(self) -> socket.socket:
        """Give the socket up without closing it; the owner is not told. What has not been sent or read yet is dropped."""
        self.open = False
        self._poller.remove(self._sock.fileno())
        return self._sock

    def _watch(self) -> None:
        mask = (READ if self._reading else 0) | (WRITE if self._waiting else 0)
        if self.open and mask != self._mask:
            self._mask = mask
            self._poller.change(self._sock.fileno(), mask)

    def _flush(self) -> None:
        try:
            while self._waiting:
                with memoryview(self._waiting) as view:
                    sent = self._sock.send(view[:_CHUNK])
                del self._waiting[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._waiting.clear()
            self.close()
            return
        self._watch()

    def _ready(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
        if self.open and mask & ~WRITE:
            self._read()

    def _read(self) -> None:
        try:
            data, fds, _flags, _address = socket.recv_fds(self._sock, _READ, 2)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        for descriptor in fds:
            os.set_inheritable(descriptor, False)
        self.fds += fds
        if not data:
            self.close()
            return
        try:
            for frame in self._decoder.feed(data):
                if self.open:
                    self._on_frame(self, frame)
        except trees_protocol.Garbage:
            self.close()


def listen(folder: int, name: str) -> socket.socket:
    """Return a listening socket `name` (mode 0600) in the folder with descriptor `folder`, however long its path; a stale one is replaced."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    old = os.umask(0o177)
    try:
        sock.bind(f"/proc/self/fd/{folder}/{name}")
    finally:
        os.umask(old)
    sock.listen(TREE_CLIENTS_MAX)
    return sock


def serve(poller: Poller, listener: socket.socket, clients_now: Callable[[], int], taken: Callable[[socket.socket], None]) -> None:
    """Hand each client that comes to `taken`; one over the bound is closed. Without a descriptor to be had it rests: the waiting client would wake it for ever."""

    def begin() -> None:
        poller.add(listener.fileno(), ready)

    def ready(_mask: int) -> None:
        try:
            sock, _address = listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                poller.remove(listener.fileno())
                poller.after(ACCEPT_REST_MS / 1000, begin)
            return
        if clients_now() >= TREE_CLIENTS_MAX:
            sock.close()
        else:
            taken(sock)

    begin()


def connect(path: str) -> socket.socket:
    """Return a socket connected to the one at `path`, however long. Raises OSError."""
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{descriptor}/{name}")
    except OSError:
        sock.close()
        raise
    finally:
        os.close(descriptor)
    return sock
