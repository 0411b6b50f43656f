"""A scripted kernel for tests of the client: the shipped wire on a real socket in a UNIOS_HOME, with operations that a test writes.

The real kernel runs in tests/e2e and tests/live; here are the answers that it gives once in a year.
"""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from unios.errors import CallerError, NotFound
from unios.wire.doors import listen_unix
from unios.wire.home import Home
from unios.wire.operations import Connected
from unios.wire.peer import Answer, Call, Peer
from unios.wire.transport import SocketTransport

Operation = Callable[[Call], Awaitable[object]]


class ScriptedKernel:
    """Serves from `start` to `stop`, in a thread of its own. `operations` and `services` (by port) may change meanwhile."""

    def __init__(self, home: Path, name: str = "n1") -> None:
        self.folder = Home(home).node(name)
        self.operations: dict[str, Operation] = {"ports.connect": self._connect}
        self.services: dict[str, Operation] = {}
        self.asked: list[tuple[str, str]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._peers: list[Peer] = []
        self._server: socket.socket | None = None
        self.folder.run.mkdir(parents=True)
        self.folder.node_file.write_text("{}")
        self.start()

    def start(self) -> None:
        self._call(self._start())
        stat = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        (self.folder.run / "kernel.json").write_text(json.dumps({"pid": os.getpid(), "start": int(stat[19])}))

    def stop(self, *, dead: bool = False) -> None:
        """Cut every connection. `dead`: nothing of the node is left that could start a kernel again."""
        if dead:
            (self.folder.run / "kernel.json").unlink(missing_ok=True)
        self._call(self._stop())

    def close(self) -> None:
        self.stop(dead=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        self._server = listen_unix(self.folder.door, mode=0o600)
        self._loop.add_reader(self._server.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._server is not None
        sock, _address = self._server.accept()
        self._serve(sock, self._on_call)

    def _serve(self, sock: socket.socket, handler: Operation) -> None:
        peer = Peer(SocketTransport(sock), handler, role="kernel")
        self._peers.append(peer)
        started = asyncio.ensure_future(peer.start())
        started.add_done_callback(lambda task: task.exception())

    async def _stop(self) -> None:
        if self._server is not None:
            self._loop.remove_reader(self._server.fileno())
            self._server.close()
            self._server = None
        for peer in self._peers:
            peer.close("the scripted kernel died")
        self._peers.clear()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*others, return_exceptions=True)

    async def _on_call(self, call: Call) -> object:
        self.asked.append((call.op, call.node))
        if call.op not in self.operations:
            raise CallerError(f"this kernel has no operation {call.op}")
        return await self.operations[call.op](call)

    async def _connect(self, call: Call) -> object:
        from unios.wire.operations import Connect

        ours, theirs = socket.socketpair()
        name = call.decode(Connect).name
        if name not in self.services:
            raise NotFound(f"nobody listens on port {name}")
        self._serve(ours, self.services[name])
        return Answer(Connected(1), [theirs.detach()])


class Hostile:
    """A listening socket and the thread that accepts from it; `close` ends both."""

    def __init__(self, listener: socket.socket, say: Callable[[socket.socket], None]) -> None:
        self._listener, self._say = listener, say
        self._thread = threading.Thread(target=self._accept, name="hostile-kernel", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=_quietly, args=(self._say, sock), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # who is in `accept` does not hear of `close`
        self._thread.join(20)
        self._listener.close()


def hostile(home: Path, say: Callable[[socket.socket], None], name: str = "n1") -> Hostile:
    """Listen as a kernel that does `say` with each connection, until it is closed."""
    folder = Home(home).node(name)
    folder.run.mkdir(parents=True)
    folder.node_file.write_text("{}")
    server = listen_unix(folder.door, mode=0o600)
    server.setblocking(True)
    return Hostile(server, say)


def _quietly(say: Callable[[socket.socket], None], sock: socket.socket) -> None:
    with sock:
        try:
            say(sock)
        except OSError:
            pass
