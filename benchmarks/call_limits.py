"""What calls are held against where nothing is in between: raw sockets with a length before each message, between two Python processes, blocking."""

import contextlib
import os
import pickle
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from unios.wire.tls import client_context, server_context

LENGTH = struct.Struct(">I")
WORD = bytes(64)
BULK_BYTES = 100_000_000
PIECE = 64 * 1024
READ = 64 * 1024


def frame_of(data: bytes) -> bytes:
    return LENGTH.pack(len(data)) + data


def unframed(stream: socket.socket) -> bytes:
    """Return one message; EOFError at the end."""
    data = stream.recv(READ)
    while len(data) < 4 or len(data) < 4 + LENGTH.unpack_from(data)[0]:
        more = stream.recv(READ)
        if not more:
            raise EOFError
        data += more
    return data[4:]


def echo(stream: socket.socket) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            stream.sendall(frame_of(unframed(stream)))


def swallow(stream: socket.socket) -> None:
    """Read BULK_BYTES and say so, again and again."""
    buffer = bytearray(PIECE)
    with contextlib.suppress(OSError):
        while True:
            left = BULK_BYTES
            while left:
                got = stream.recv_into(buffer, min(left, PIECE))
                if not got:
                    return
                left -= got
            stream.sendall(b"!")


@contextlib.contextmanager
def other(work: Callable[[], None]) -> Iterator[None]:
    """A forked process that does the work, until the connection to it ends."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.waitpid(pid, 0)


@contextlib.contextmanager
def unix_echo(*, values: bool = False) -> Iterator[Callable[[], object]]:
    """Yield a call of 64 bytes over a Unix socket; with `values` both ways are pickled, as ours are, and name what is called."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        ours.close()
        (echo_values if values else echo)(theirs)

    with other(serve), ours:
        theirs.close()
        yield lambda: (ping_values if values else ping)(ours)


def echo_values(stream: socket.socket) -> None:
    """Call what is named with what comes, and answer."""
    operations = {"echo": lambda word: word}
    with contextlib.suppress(EOFError, OSError):
        while True:
            number, operation, args = pickle.loads(unframed(stream))
            stream.sendall(frame_of(pickle.dumps((number, True, operations[operation](*args)), 5)))


def ping_values(stream: socket.socket) -> None:
    """Call once by name. RuntimeError if something else comes back."""
    stream.sendall(frame_of(pickle.dumps((1, "echo", (WORD,)), 5)))
    if pickle.loads(unframed(stream)) != (1, True, WORD):
        raise RuntimeError("another answer came than was sent")


def ping(stream: socket.socket) -> None:
    """Call once. RuntimeError if something else comes back."""
    stream.sendall(frame_of(WORD))
    if len(unframed(stream)) != len(WORD):
        raise RuntimeError("another answer came than was sent")


@contextlib.contextmanager
def tls(home: Path, work: Callable[[ssl.SSLSocket], None]) -> Iterator[ssl.SSLSocket]:
    """Yield a TLS connection over loopback to a process that does `work`, with the contexts that links have."""
    authority, nodes = home / "ca" / "ca.crt", home / "nodes"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            context = server_context(authority, nodes / "n1" / "node.crt", nodes / "n1" / "node.key")
            work(context.wrap_socket(_quick(listener.accept()[0]), server_side=True))

        with other(serve):
            context = client_context(authority, nodes / "n2" / "node.crt", nodes / "n2" / "node.key")
            with context.wrap_socket(_quick(socket.create_connection(listener.getsockname()))) as stream:
                yield stream


def _quick(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextlib.contextmanager
def tls_echo(home: Path) -> Iterator[Callable[[], object]]:
    """Yield a call of 64 bytes over TLS."""
    with tls(home, echo) as stream:
        yield lambda: ping(stream)


@contextlib.contextmanager
def tls_bulk(home: Path) -> Iterator[Callable[[], object]]:
    """Yield a transfer of BULK_BYTES over TLS, until the other side says that it has all."""
    with tls(home, swallow) as stream:
        yield lambda: transfer(stream, PIECE)


def transfer(stream: socket.socket, piece_bytes: int) -> None:
    """Send BULK_BYTES in such pieces and wait until `swallow` says that it has all. RuntimeError if it does not."""
    piece, left = bytes(piece_bytes), BULK_BYTES
    while left:
        stream.sendall(piece[: min(left, piece_bytes)])
        left -= min(left, piece_bytes)
    if stream.recv(1) != b"!":
        raise RuntimeError("the other side did not get all")
