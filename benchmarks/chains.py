"""Chains: the processes through which ours passes bytes, each with the shortest loop in Python that does the same to them, and nothing else.

What they reach is what a machine of few processors leaves to any such path (docs/decisions/0036): no credit, no sequences, no other work, no byte that
survives a process, no answer done once. Every process is forked, and ends with its input.
"""

import contextlib
import fcntl
import mmap
import os
import select
import socket
import ssl
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Final

from benchmarks import call_limits
from benchmarks.call_limits import WORD, echo, other, ping, swallow, transfer
from unios.wire.tls import client_context, server_context

PIECE: Final = 384 * 1024
_PIPE_BYTES: Final = 256 * 1024
_SOCKET_BYTES: Final = 208 * 1024
_SEGMENT_BYTES: Final = 4 * 1024 * 1024
_SET_PIPE_SIZE: Final = 1031
_WAKE_BYTES: Final = 8


class _Tls:
    """One end over memory buffers, which cost less than a TLS socket (decision 0025). Blocking."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._in, self._out, server_side=server_side)
        self._cipher, self._plain = memoryview(bytearray(PIECE + 32 * 1024)), memoryview(bytearray(PIECE + 64 * 1024))
        while True:
            try:
                self._ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._in.write(sock.recv(16 * 1024))
        self._flush()

    def _flush(self) -> None:
        if data := self._out.read():
            self.sock.sendall(data)

    def send(self, data: memoryview) -> None:
        self._ssl.write(data)
        self._flush()

    def receive(self, take: Callable[[memoryview], object]) -> bool:
        """Read once and hand on what that completes; False at the end."""
        count = self.sock.recv_into(self._cipher)
        if not count:
            return False
        self._in.write(self._cipher[:count])
        self.rest(take)
        return True

    def rest(self, take: Callable[[memoryview], object]) -> None:
        """Hand on what has been read and not yet been handed on: some may have come with the end of the handshake."""
        plain, got = self._plain, 0
        with contextlib.suppress(ssl.SSLWantReadError):
            while read := self._ssl.read(16 * 1024, plain[got:]):
                got += int(read)
                if got > PIECE:
                    take(plain[:got])
                    got = 0
        if got:
            take(plain[:got])


def _contexts(home: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority, nodes = home / "ca" / "ca.crt", home / "nodes"
    return (
        client_context(authority, nodes / "n2" / "node.crt", nodes / "n2" / "node.key"),
        server_context(authority, nodes / "n1" / "node.crt", nodes / "n1" / "node.key"),
    )


class _Processes:
    """Forked, each with the descriptors that it is given and no other of the chain's."""

    def __init__(self) -> None:
        self._ends: dict[str, int] = {}
        self._pids: list[int] = []

    def pipe(self, reader: str, writer: str) -> None:
        self._ends[reader], self._ends[writer] = os.pipe()

    def pair(self, one: str, other_one: str) -> None:
        for name, sock in zip((one, other_one), socket.socketpair(), strict=True):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
            self._ends[name] = sock.detach()

    def start(self, work: Callable[..., object], *names: str) -> None:
        pid = os.fork()
        if pid:
            self._pids.append(pid)
            return
        try:
            for name, descriptor in self._ends.items():
                if name not in names:
                    os.close(descriptor)
            work(*(self._ends[name] for name in names))
        except OSError:
            pass  # another one ended before
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)

    def keep(self, name: str) -> int:
        """Return the one end that stays with the caller, and close the others here."""
        kept = self._ends.pop(name)
        for descriptor in self._ends.values():
            os.close(descriptor)
        self._ends.clear()
        return kept

    def wait(self) -> None:
        for pid in self._pids:
            os.waitpid(pid, 0)


# a program's output to a reader on another node


def output(home: Path, size: int) -> float:
    """Return bytes a second from a program's pipe into files, from there over TLS, through a client, into a pipe that is read here."""
    client, server = _contexts(home)
    processes = _Processes()
    processes.pipe("of the program", "program")
    processes.pipe("told", "tells")
    processes.pair("out", "client")
    processes.pipe("reader", "of the client")
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory(dir=home) as folder:
        address = listener.getsockname()
        processes.start(lambda out: (os.dup2(out, 1), os.execvp("head", ["head", "-c", str(size), "/dev/zero"])), "program")
        processes.start(lambda pipe, tells: _keep(pipe, Path(folder), tells), "of the program", "tells")
        processes.start(lambda told: _send_files(_Tls(socket.create_connection(address), client, server_side=False), Path(folder), told), "told")
        processes.start(lambda out: _pass_on(_Tls(listener.accept()[0], server, server_side=True), out), "out")
        processes.start(_copy, "client", "of the client")
        reader = processes.keep("reader")
        got, began, buffer = 0, 0.0, bytearray(_PIPE_BYTES)
        while count := os.readv(reader, [buffer]):
            began = began or time.perf_counter()
            got += count
        took = time.perf_counter() - began
        os.close(reader)
        processes.wait()
    if got != size:
        raise RuntimeError(f"{got} of {size} bytes came through the bare chain")
    return got / took


def _keep(pipe: int, folder: Path, tells: int) -> None:
    """Move what a program writes into files, and tell how much there is."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, _SET_PIPE_SIZE, _PIPE_BYTES)
    end, into = 0, -1
    while True:
        if end % _SEGMENT_BYTES == 0:
            if into >= 0:
                os.close(into)
            into = os.open(folder / str(end // _SEGMENT_BYTES), os.O_CREAT | os.O_WRONLY, 0o600)
        moved = os.splice(pipe, into, min(_PIPE_BYTES, _SEGMENT_BYTES - end % _SEGMENT_BYTES))
        if not moved:
            return
        end += moved
        os.write(tells, end.to_bytes(_WAKE_BYTES, "big"))
        if moved < _PIPE_BYTES // 2:
            time.sleep(0.0002)  # as an init's pump rests


def _send_files(tls: _Tls, folder: Path, told: int) -> None:
    buffer = memoryview(bytearray(PIECE))
    at, end, source = 0, 0, -1
    while True:
        if at == end:
            news = os.read(told, _WAKE_BYTES * 4096)
            if not news:
                break
            end = int.from_bytes(news[-_WAKE_BYTES:], "big")
        if at % _SEGMENT_BYTES == 0:
            if source >= 0:
                os.close(source)
                os.unlink(folder / str(at // _SEGMENT_BYTES - 1))
            source = os.open(folder / str(at // _SEGMENT_BYTES), os.O_RDONLY)
        count = os.preadv(source, [buffer[: min(PIECE, end - at, _SEGMENT_BYTES - at % _SEGMENT_BYTES)]], at % _SEGMENT_BYTES)
        tls.send(buffer[:count])
        at += count
    tls.sock.shutdown(socket.SHUT_WR)
    tls.sock.recv(1)


def _pass_on(tls: _Tls, out: int) -> None:
    with socket.socket(fileno=out) as sock:
        while tls.receive(sock.sendall):
            pass


def _copy(source: int, into: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.fcntl(into, _SET_PIPE_SIZE, _PIPE_BYTES)
    while os.splice(source, into, PIECE):
        pass


# a call and its answer between two nodes


@contextlib.contextmanager
def _relayed(home: Path, work: Callable[[socket.socket], object]) -> Iterator[socket.socket]:
    """Yield a Unix socket to a process that does `work`, by way of two that relay over TLS."""
    client, server = _contexts(home)
    processes = _Processes()
    processes.pair("caller", "near")
    processes.pair("far", "answerer")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        processes.start(lambda near: _relay(_Tls(socket.create_connection(address), client, server_side=False), near), "near")
        processes.start(lambda far: _relay(_Tls(listener.accept()[0], server, server_side=True), far), "far")
        processes.start(lambda answerer: work(socket.socket(fileno=answerer)), "answerer")
        with socket.socket(fileno=processes.keep("caller")) as caller:
            yield caller
        processes.wait()


def _relay(tls: _Tls, near: int) -> None:
    buffer = memoryview(bytearray(PIECE))
    with socket.socket(fileno=near) as sock:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(tls.sock, select.POLLIN)
        tls.rest(sock.sendall)
        while True:
            for descriptor, _mask in poll.poll():
                if descriptor == near:
                    count = sock.recv_into(buffer)
                    if not count:
                        return
                    tls.send(buffer[:count])
                elif not tls.receive(sock.sendall):
                    return


@contextlib.contextmanager
def far_echo(home: Path) -> Iterator[Callable[[], object]]:
    """Yield a call of 64 bytes by way of two relays."""
    with _relayed(home, echo) as stream:
        yield lambda: ping(stream)


@contextlib.contextmanager
def far_bulk(home: Path) -> Iterator[Callable[[], object]]:
    """Yield a transfer of BULK_BYTES by way of two relays, until the other side says that it has all."""
    with _relayed(home, swallow) as stream:
        yield lambda: transfer(stream, PIECE)


@contextlib.contextmanager
def far_object(home: Path) -> Iterator[Callable[[], object]]:
    """Yield a transfer of BULK_BYTES out of shared memory, by way of two relays, into shared memory that is new each time, as an object's is."""
    with _relayed(home, _take_in) as stream, _shared(call_limits.BULK_BYTES) as filled:
        filled[:] = b"\x01" * len(filled)
        yield lambda: _give(stream, filled)


@contextlib.contextmanager
def _shared(size: int) -> Iterator[mmap.mmap]:
    descriptor = os.memfd_create("chain")
    try:
        os.truncate(descriptor, size)
        with mmap.mmap(descriptor, size) as memory:
            yield memory
    finally:
        os.close(descriptor)


def _give(stream: socket.socket, filled: mmap.mmap) -> None:
    with memoryview(filled) as whole:
        for at in range(0, len(whole), PIECE):
            stream.sendall(whole[at : at + PIECE])
    if stream.recv(1) != b"!":
        raise RuntimeError("the other side did not get all")


def _take_in(stream: socket.socket) -> None:
    """Read BULK_BYTES into new shared memory and say so, again and again."""
    with contextlib.suppress(OSError):
        while True:
            with _shared(call_limits.BULK_BYTES) as memory, memoryview(memory) as whole:
                got = 0
                while got < len(whole):
                    count = stream.recv_into(whole[got : got + PIECE])
                    if not count:
                        return
                    got += count
                stream.sendall(b"!")


# a call on one node


@contextlib.contextmanager
def connection_echo() -> Iterator[Callable[[], object]]:
    """Yield a call of 64 bytes over the standard library's connection, which as ours carries any value."""
    ours, theirs = Pipe()

    def serve() -> None:
        ours.close()
        _echo_values(theirs)

    with other(serve), ours:
        theirs.close()
        yield lambda: _call_values(ours)


def _echo_values(connection: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            operation, args, kwargs = connection.recv()
            connection.send(_OPERATIONS[operation](*args, **kwargs))


_OPERATIONS: Final = {"echo": lambda word: word}


def _call_values(connection: Connection) -> None:
    connection.send(("echo", (WORD,), {}))
    if len(connection.recv()) != len(WORD):
        raise RuntimeError("another answer came than was sent")
