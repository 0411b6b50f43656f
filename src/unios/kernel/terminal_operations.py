"""The kernel's operations on terminals and sessions: terminal, attach, exec, reach, offsets. As all on processes they may be asked of any node.

Rights: the process's user, and whoever is privileged here. A terminal and what was typed belong to the tree's init and survive this kernel; sessions of
`exec` and connections of `reach` belong to this kernel and end with it.
"""

import asyncio
import contextlib
import os
import pwd
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from unios.core.processes import ENDED, LIVE, ProcessRecord
from unios.errors import CallerError, NotFound, Unavailable, UniosError
from unios.kernel import relaying, spawning, terminal, time_index
from unios.kernel.callers import Caller
from unios.kernel.output_stream import OutputStream
from unios.kernel.process_operations import ProcessOperations
from unios.kernel.session_peer import SessionPeer
from unios.kernel.tree_input import TreeInput
from unios.kernel.trees import Trees
from unios.limits import CHUNK_BYTES, FORWARDS_PER_USER_MAX, TERMINAL_NUDGE_S
from unios.wire.operations import Empty, Follow
from unios.wire.peer import Call
from unios.wire.segments import StreamReader
from unios.wire.terminals import AskOffsets, AskTerminal, Attach, Execute, Offsets, Reach, Said, TerminalView, Typed


class TerminalOperations(ProcessOperations):
    """Serves those of `processes.*` that a person at a terminal needs."""

    _reached: Counter[str] = Counter()
    """How many connections of `reach` are open, by user."""

    async def terminal(self, caller: Caller, call: Call) -> object:
        """What the terminal of a process is; resizes, nudges or hangs it up first."""
        body = call.decode(AskTerminal)
        return await self._at_home(caller, call, body.pid, lambda record: self._terminal(record, body))

    async def _terminal(self, record: ProcessRecord, body: AskTerminal) -> TerminalView:
        if record.state in ENDED:
            raise NotFound(f"process {record.pid} has ended")
        init = await self._init(record)
        told = await init.ask("terminal", rows=body.rows, columns=body.columns, nudge=body.nudge, hang_up=body.hang_up)
        ends = self._ends(record.pid, record.incarnation)
        return TerminalView(int(told["rows"]), int(told["columns"]), str(told["modes"]).encode(), record.incarnation, *ends)

    def _folder(self, pid: int, incarnation: int) -> str:
        return os.fspath(self._node.folder.trees / f"{pid}.{incarnation}")

    def _ends(self, pid: int, incarnation: int) -> tuple[int, int]:
        folder = self._folder(pid, incarnation)
        return StreamReader(folder, "out").end(), StreamReader(folder, "err").end()

    async def offsets(self, caller: Caller, call: Call) -> object:
        """Where the output of a time and later begins."""
        body = call.decode(AskOffsets)
        return await self._at_home(caller, call, body.pid, lambda record: self._offsets(record, body.since_ms))

    async def _offsets(self, record: ProcessRecord, since_ms: int) -> Offsets:
        if record.state in LIVE:
            await spawning.settled(self._node, record.pid, record.incarnation)
        if (record.pid, record.incarnation) not in self._node.trees.trees:
            raise NotFound(f"no output of process {record.pid} is kept on {self._node.name}")
        at_ms = since_ms if since_ms >= 0 else time.time_ns() // 1_000_000 + since_ms
        found = time_index.read(self._folder(record.pid, record.incarnation)).since(at_ms)
        return Offsets(record.incarnation, *(found or self._ends(record.pid, record.incarnation)))

    # attach

    async def attach(self, caller: Caller, call: Call) -> object:
        """The output of an incarnation as it comes, and what is typed, until either has an end."""
        body = call.decode(Attach)
        return await self._at_home(caller, call, body.pid, lambda record: self._attach(record, call, body))

    async def _attach(self, record: ProcessRecord, call: Call, body: Attach) -> object:
        incarnation = body.incarnation or record.incarnation
        if incarnation == record.incarnation and record.state in LIVE:
            await spawning.settled(self._node, record.pid, incarnation)
        if (record.pid, incarnation) not in self._node.trees.trees:
            raise NotFound(f"no output of incarnation {incarnation} of process {record.pid} is kept on {self._node.name}")
        follow = Follow(record.pid, incarnation, body.out, body.err, hold=body.hold)
        await _first_of(
            OutputStream(self._node, record.pid, incarnation, follow, call).run(),
            self._typing(record.pid, incarnation, call, body),
        )
        return Empty()

    async def _typing(self, pid: int, incarnation: int, call: Call, body: Attach) -> None:
        """Pass on what is typed until there are no more items; what the process does not take is dropped."""
        async with self._typist(pid, incarnation, hang_up=body.hang_up) as typist:
            while (typed := await call.receive(Typed)) is not None:
                if typist is not None:
                    await typist.pass_on(typed)

    @contextlib.asynccontextmanager
    async def _typist(self, pid: int, incarnation: int, *, hang_up: bool) -> "AsyncIterator[_Typist | None]":
        try:
            typist = _Typist(self._node.trees, pid, incarnation)
        except Unavailable:  # it has ended: what is left of its output is sent all the same
            yield None
            return
        try:
            await typist.begin(hang_up=hang_up)
            yield typist
            await typist.leave()
        except Unavailable:
            if not typist.is_over:
                raise  # its init does not answer: the asker tries again
            await asyncio.get_running_loop().create_future()  # it has ended: the output says when
        finally:
            typist.close()

    # sessions

    async def exec(self, caller: Caller, call: Call) -> object:
        """Open a program in the namespaces of a running process."""
        body = call.decode(Execute)
        return await self._at_home(caller, call, body.pid, lambda record: self._exec(record, call, body))

    async def _exec(self, record: ProcessRecord, call: Call, body: Execute) -> object:
        if record.state in ENDED:
            raise NotFound(f"process {record.pid} has ended")
        await spawning.settled(self._node, record.pid, record.incarnation)
        known, spec = await self._node.records.read_both(record.pid)
        job = self._node.carrying.placed(
            known, spec, spawning.job_of(self._node, known, spec, await self._node.devices.of(record.pid, record.incarnation))
        )
        added = [[os.fsdecode(name), os.fsdecode(value)] for name, value in body.env]
        argv = [os.fsdecode(argument) for argument in body.argv] or [_shell_of(int(job["uid"]))]
        cwd = os.fsdecode(body.cwd) or job["cwd"]
        window = [body.rows, body.columns] if body.rows > 0 else [0, 0]
        wanted = {**job, "argv": argv, "env": [*job["env"], *added], "cwd": cwd, "terminal": window}
        async with SessionPeer(self._node.folder.trees / f"{record.pid}.{record.incarnation}" / "sock") as peer:
            descriptors = await peer.open({name: value for name, value in wanted.items() if name not in ("pid", "incarnation")})
            await _Conversation(peer, descriptors, call).run()
        return Empty()

    # connections

    async def reach(self, caller: Caller, call: Call) -> object:
        """A TCP connection to a port that the process listens on."""
        body = call.decode(Reach)
        if not 0 < body.port < 65_536:
            raise CallerError(f"there is no TCP port {body.port}")
        return await self._at_home(caller, call, body.pid, lambda record: self._reach(caller, record, call, body.port))

    async def _reach(self, caller: Caller, record: ProcessRecord, call: Call, port: int) -> object:
        if record.state in ENDED:
            raise NotFound(f"process {record.pid} has ended")
        if not caller.privileged and self._reached[caller.user] >= FORWARDS_PER_USER_MAX:
            raise Unavailable(f"{caller.user} has {FORWARDS_PER_USER_MAX} connections to processes of {self._node.name}, which is the limit")
        self._reached[caller.user] += 1
        try:
            with await self._connected(record, port) as sock:
                await call.send(b"")
                await relaying.relay_asked(sock, call)
        finally:
            self._reached[caller.user] -= 1
            self._reached += Counter()  # drops what is 0
        return Empty()

    async def _connected(self, record: ProcessRecord, port: int) -> socket.socket:
        """Return a connection to the port, on the loopback of the network that the process is in; by version 4, else 6."""
        await spawning.settled(self._node, record.pid, record.incarnation)
        failure = "nobody listens"
        for family, host in ((4, "127.0.0.1"), (6, "::1")):
            sock = await self._socket(record, family)
            try:
                async with asyncio.timeout(5):
                    await asyncio.get_running_loop().sock_connect(sock, (host, port))
            except OSError as error:  # a timeout is one
                sock.close()
                failure = failure if family == 6 else (error.strerror or "it does not answer")
                continue
            except BaseException:
                sock.close()
                raise
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        raise Unavailable(f"port {port} of process {record.pid} cannot be reached: {failure}")

    async def _socket(self, record: ProcessRecord, family: int) -> socket.socket:
        """Return a socket in the process's network; its init makes it where that is not the node's."""
        tree = self._node.trees.trees.get((record.pid, record.incarnation))
        if tree is not None and _network_of(tree.init_pid, record.pid) == _network_of():
            sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            return sock
        async with SessionPeer(self._node.folder.trees / f"{record.pid}.{record.incarnation}" / "sock") as peer:
            return await peer.socket(family)


def _network_of(init_pid: int = 0, pid: int = 0) -> int:
    """Return the network namespace of a tree's program, by its init's pid here and its own in the tree; without them this process's. 0: unknown."""
    root = f"/proc/{init_pid}/root" if init_pid else ""
    try:
        return os.stat(f"{root}/proc/{pid or 'self'}/ns/net").st_ino
    except OSError:
        return 0


async def _first_of(*works: Any) -> None:
    """Run them until the first has ended; raise what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    for result in done:
        if isinstance(result, Exception):
            raise result


class _Typist:
    """One who types: a connection of his own to the tree's init, which knows by it that he is still there."""

    def __init__(self, trees: Trees, pid: int, incarnation: int) -> None:
        self._input = TreeInput(trees, pid, incarnation)

    async def begin(self, *, hang_up: bool) -> None:
        await self._input.init.ask("type", hang_up=hang_up)

    async def pass_on(self, typed: Typed) -> None:
        """Do what was done at the terminal; waits while the program takes nothing in."""
        if typed.rows > 0:
            await self._input.init.ask("terminal", rows=typed.rows, columns=typed.columns, nudge=typed.nudge)
        if typed.data and not self._input.closed:
            await self._input.write(typed.data)

    @property
    def is_over(self) -> bool:
        """Whether the tree has ended, and the connection with it."""
        return self._input.is_over

    async def leave(self) -> None:
        """Go for good: nothing shall be hung up."""
        await self._input.init.ask("type", hang_up=False)

    def close(self) -> None:
        self._input.close()


def _shell_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_shell or "/bin/sh"
    except KeyError:
        return "/bin/sh"


class _Conversation:
    """Between a session's terminal or pipes and whoever asked for it; ends when its program has ended and what it said has been sent."""

    def __init__(self, peer: SessionPeer, descriptors: list[int], call: Call) -> None:
        self._peer, self._call = peer, call
        self._stdin = descriptors[0]
        self._outputs = {"out": descriptors[0]} if len(descriptors) == 1 else {"out": descriptors[1], "err": descriptors[2]}
        self._is_terminal = len(descriptors) == 1
        self._moved = self._sending = 0
        """Chunks that were sent, and that wait for a slow reader."""

    async def run(self) -> None:
        typing = asyncio.ensure_future(self._typing())
        reading = [asyncio.ensure_future(self._reading(name, descriptor)) for name, descriptor in self._outputs.items()]
        try:
            code = await self._peer.exit_code()
            pending, moved = set(reading), -1
            while pending and (self._sending or moved != self._moved):  # what it left running may hold the other end for ever, and say nothing
                moved = self._moved
                pending = (await asyncio.wait(reading, timeout=0.2))[1]
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
            await self._call.send(Said("exit", exit_code=code))
        finally:
            for task in (typing, *reading):
                task.cancel()
            await asyncio.gather(typing, *reading, return_exceptions=True)
            for descriptor in {self._stdin, *self._outputs.values()} - {-1}:
                os.close(descriptor)

    async def _reading(self, name: str, descriptor: int) -> None:
        while True:
            await _ready(descriptor, write=False)
            try:
                data = os.read(descriptor, CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError:  # EIO: nobody has the terminal open any more
                return
            if not data:
                return
            self._sending += 1
            await self._call.send(Said(name, data))
            self._sending -= 1
            self._moved += 1

    async def _typing(self) -> None:
        with contextlib.suppress(UniosError, OSError):
            while (typed := await self._call.receive(Typed)) is not None:
                if typed.nudge and typed.rows > 0 and self._is_terminal:
                    terminal.set_size(self._stdin, typed.rows + 1, typed.columns)
                    await asyncio.sleep(TERMINAL_NUDGE_S)
                if typed.rows > 0 and self._is_terminal:
                    terminal.set_size(self._stdin, typed.rows, typed.columns)
                if typed.signal:
                    await self._peer.signal(typed.signal)
                if self._stdin < 0:
                    continue  # its stdin has ended; signals still come
                await self._write(typed.data)
                if typed.end and not self._is_terminal:
                    os.close(self._stdin)
                    self._stdin = -1

    async def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._stdin, rest) :]
            except BlockingIOError:
                await _ready(self._stdin, write=True)


async def _ready(descriptor: int, *, write: bool) -> None:
    """Wait until `descriptor` can be read or written; on a duplicate, since one that is watched cannot be watched again."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    own = os.dup(descriptor)
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    try:
        add(own, ready)
        await future
    finally:
        remove(own)
        os.close(own)
