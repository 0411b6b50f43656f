"""Processes of the benchmark of calls: who answers, and who calls under an event loop and is told when, so that he can be measured in turns with others.

`python -m benchmarks.call_parts serve NODE`, `... serve-twin NODE PORT` answer; `... uvloop PROCESSOR`, `... uvloop-values PROCESSOR`, `... asyncio PROCESSOR`
(of who answers),
`... twin NODE PORT` read a number of calls a line and print a line of seconds for each call.
Standard library only where another Python may run it (`uvloop`).
"""

import asyncio
import json
import os
import pickle
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

NAME = "benchmark/calls"
LENGTH = struct.Struct(">I")
WORD = bytes(64)


def serve(node: str) -> None:
    """Answer blocking calls on a node until the input ends."""
    from unios.client.messages.server import Server

    with Server(NAME, {"echo": lambda word: word, "size": len}, node=node):
        print("ready", flush=True)
        sys.stdin.read()


def loop_runner() -> Callable[[Any], Any]:
    """Return what runs a coroutine: uvloop if it is there."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    run: Callable[[Any], Any] = uvloop.run
    return run


async def serve_twin(node: str, name: str) -> None:
    """Answer with the asyncio twin until the input ends."""
    from unios.client.messages import aio

    async def echo(word: object) -> object:
        return word

    server = await aio.listen(name, {"echo": echo}, node=node)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.close()


async def twin(node: str, name: str) -> None:
    """Call with the asyncio twin when told."""
    from unios.client.messages import aio

    port = await aio.connect(name, node=node)
    await _told(lambda: port.call("echo", WORD))
    port.close()


async def _told(call: Callable[[], Awaitable[object]]) -> None:
    """Call as often as each line of the input says, and print how long each call took."""
    for _ in range(200):
        await call()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        taken = []
        for _ in range(int(line)):
            began = time.perf_counter()
            await call()
            taken.append(time.perf_counter() - began)
        print(json.dumps(taken), flush=True)


class _Echo(asyncio.Protocol):
    """Frames come back: to the server's end as `turn` makes them, to the client's end as the answer."""

    def __init__(self, turn: Callable[[bytes], bytes], answered: Callable[[bytes], None] | None = None) -> None:
        self._turn, self._answered, self._data = turn, answered, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= 4 and len(self._data) >= 4 + LENGTH.unpack_from(self._data)[0]:
            end = 4 + LENGTH.unpack_from(self._data)[0]
            body, self._data = self._data[4:end], self._data[end:]
            if self._answered is None:
                self.transport.write(_framed(self._turn(body)))  # type: ignore[attr-defined]
            else:
                self._answered(body)


class _EndsWith(_Echo):
    """The process ends with its connection."""

    def connection_lost(self, _exc: BaseException | None) -> None:
        os._exit(0)


def _framed(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


def _same(body: bytes) -> bytes:
    return body


def _called(body: bytes) -> bytes:
    operation, args, kwargs = pickle.loads(body)
    return pickle.dumps({"echo": lambda word: word}[operation](*args, **kwargs), 5)


def loop_echo(run: Callable[[Any], Any], answerer: int, *, values: bool) -> None:
    """Both ends under an event loop, in two processes, over a Unix socket; he who answers is on processor `answerer`. `values`: as ours, any value goes
    along, else bytes as they are."""
    ours, theirs = socket.socketpair()

    async def answer() -> None:
        os.sched_setaffinity(0, {answerer})
        ours.close()
        await asyncio.get_running_loop().create_unix_connection(lambda: _EndsWith(_called if values else _same), sock=theirs)
        await asyncio.Event().wait()

    async def ask() -> None:
        theirs.close()
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[bytes]] = []
        transport, _protocol = await loop.create_unix_connection(lambda: _Echo(_same, lambda body: waiting.pop().set_result(body)), sock=ours)

        async def call() -> None:
            future: asyncio.Future[bytes] = loop.create_future()
            waiting.append(future)
            transport.write(_framed(pickle.dumps(("echo", (WORD,), {}), 5) if values else WORD))
            answer = await future
            if values:
                pickle.loads(answer)

        await _told(call)
        transport.close()

    run(answer() if os.fork() == 0 else ask())


def main() -> None:
    match sys.argv[1:]:
        case ["serve", node]:
            serve(node)
        case ["serve-twin", node, name]:
            loop_runner()(serve_twin(node, name))
        case ["twin", node, name]:
            loop_runner()(twin(node, name))
        case ["uvloop", processor]:
            loop_echo(loop_runner(), int(processor), values=False)
        case ["uvloop-values", processor]:
            loop_echo(loop_runner(), int(processor), values=True)
        case ["asyncio", processor]:
            loop_echo(asyncio.run, int(processor), values=True)


if __name__ == "__main__":
    main()
