"""The store's process: serves one folder's database on the Unix socket `sock` in it. One process per folder: `lock` decides.

Requests: store.transact, store.watch, store.grant, store.renew, store.end, store.compact, store.statistics (store/requests.py). The socket belongs to
the folder's owner; who else may use the store is the kernels' business.
"""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from unios.durable import make_folders
from unios.errors import CallerError, ProtocolError, UniosError
from unios.ids import Generation
from unios.limits import BEAT_MS, WATCH_CALM_MS_MAX
from unios.store.host import StoreHost
from unios.store.model import Delete, Put, Range, Revision, Transaction
from unios.store.rated import Rated
from unios.store.requests import CompactRequest, Dumped, Health, LeaseRequest, RestoreRequest, WatchRequest
from unios.store.sqlite import Compact, Grant, SqliteEngine
from unios.store.switch import Mover, Side, Switch
from unios.store.tally import Tally, about, part
from unios.store.watchers import Push, Watcher
from unios.wire import chained
from unios.wire.beating import beat_while_turning
from unios.wire.doors import listen_unix
from unios.wire.peer import Call, Peer
from unios.wire.ticks import keep_step
from unios.wire.transport import SocketTransport

FILE: Final = "store.db"
RESTORE_BYTES_MAX: Final = 256 * 1024 * 1024
STEP_S: Final = 0.01
"""So long after the kernels' ticks the store has its own: renewals wake it before."""


class Requests:
    """What a store's process answers."""

    def __init__(self, host: StoreHost, restores: "Restores | None" = None) -> None:
        """`restores`: those that have begun with the engine whose place it takes."""
        self.host = self._host = host
        self.tally = host.tally
        self.restores = self._restores = restores or Restores()

    async def handle(self, call: Call) -> object:
        """Serve one request."""
        host = self._host
        match call.op:
            case "store.transact":  # at_once had to leave it: the asker does not read
                return await host.do(decoded(call, host.tally))
            case "store.watch":
                return await watch(host, call)
            case "store.grant":
                return await host.do(Grant(call.decode(LeaseRequest).ttl_ms))
            case "store.renew":
                host.tally.asked("renew", size_of(call))
                return host.renew(call.decode(LeaseRequest).lease)
            case "store.end":
                return await host.end(call.decode(LeaseRequest).lease)
            case "store.compact":
                return await host.do(Compact(call.decode(CompactRequest).revision))
            case "store.statistics":
                return await host.statistics()
            case "store.health":
                return Health()
            case "store.dump":
                return await send_all(host.dump(), call)
            case "store.restore":
                return await self._restores.take(call, host.restore)
        raise CallerError(f"the store has no operation {call.op[:80]}")

    def at_once(self, call: Call) -> bool:
        """Serve without a task what is asked most: a transaction, which waits for the engine alone, and a renewal, which waits for nothing."""
        match call.op:
            case "store.transact":
                self._host.submit(decoded(call, self._host.tally), call.answer)
            case "store.renew":
                self._host.tally.asked("renew", size_of(call))
                call.answer(self._host.renew(call.decode(LeaseRequest).lease))
            case _:
                return False
        return True


def size_of(call: Call) -> int:
    return len(memoryview(call.body))


def decoded(call: Call, tally: Tally) -> Transaction:
    """Return the transaction that is asked for, counted."""
    transaction = call.decode(Transaction)
    writes = any(not isinstance(one, Range) for one in (*transaction.then, *transaction.otherwise))
    tally.asked(f"{'transact' if writes else 'range'} {about(transaction)}", size_of(call))
    return transaction


async def send_all(pages: AsyncIterator[Dumped], call: Call) -> object:
    """Serve store.dump."""
    async for page in pages:
        await call.send(page)
    return None


class Restores:
    """The changes of restores that have come so far, by who asks."""

    def __init__(self) -> None:
        self._parts: WeakKeyDictionary[Peer, list[Put | Delete]] = WeakKeyDictionary()

    async def take(self, call: Call, restore: Callable[[tuple[Put | Delete, ...]], Awaitable[object]]) -> object:
        """Serve store.restore. Raises CallerError if it is more than RESTORE_BYTES_MAX."""
        request = call.decode(RestoreRequest)
        parts = self._parts.setdefault(call.peer, [])
        parts += request.operations
        if sum(len(one.key) + (len(one.value) if isinstance(one, Put) else 0) for one in parts) > RESTORE_BYTES_MAX:
            del self._parts[call.peer]
            raise CallerError(f"a restore changes at most {RESTORE_BYTES_MAX} bytes of records")
        if not request.last:
            return 0
        del self._parts[call.peer]
        return await restore(tuple(parts))


class Watched(Protocol):
    """What is watched: a store's host, or a gateway."""

    tally: Tally

    async def watch(self, prefix: str, after: Revision | None, *, calm_ms: int = 0, push: Push | None = None) -> Watcher: ...

    def unwatch(self, watcher: Watcher) -> None: ...


async def watch(host: Watched, call: Call) -> object:
    """Serve store.watch: tell what happens until the asker goes, or its watcher is cut off."""
    request = call.decode(WatchRequest)
    calm_ms = max(0, min(request.calm_ms, WATCH_CALM_MS_MAX))
    host.tally.asked(f"watch {part(request.prefix)}", size_of(call))
    watcher = await host.watch(request.prefix, request.after, calm_ms=calm_ms, push=call.send_now)
    try:
        while True:
            for message in (await watcher.next()).messages():
                await call.send(message)
    finally:
        host.unwatch(watcher)


class Answering(Protocol):
    """What answers requests; `at_once`: without a task, False if it left this one."""

    @property
    def tally(self) -> Tally: ...

    async def handle(self, call: Call) -> object: ...

    def at_once(self, call: Call) -> bool: ...


class Server:
    """Takes connections at the socket."""

    def __init__(self, folder: Path, requests: Answering) -> None:
        self._requests = Rated(requests)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = listen_unix(folder / "sock", mode=0o600)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _address = self._listener.accept()
            peer = Peer(SocketTransport(sock), self._requests.handle, role="store", at_once=self._requests.at_once)
            task = asyncio.get_running_loop().create_task(_serve(peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        for task in self._tasks:
            task.cancel()


async def _serve(peer: Peer) -> None:
    try:
        with contextlib.suppress(UniosError, ProtocolError):
            await peer.start()
            await peer.closed()
    finally:
        peer.close("the store stops")


async def serve(
    folder: Path, beat: Callable[[], None], stop: asyncio.Event, *, durable: bool = True, check: bool = False, mover: Mover | None = None
) -> None:
    """Serve `folder` until `stop`; its lock must be held. DataLost if its file is damaged."""
    engine = SqliteEngine(folder / FILE, Generation(os.urandom(8).hex()), durable=durable, check=check)
    await tend(folder, side_of(engine), beat, stop, mover)


def side_of(engine: SqliteEngine, restores: Restores | None = None) -> Side:
    """Return it as what stands behind a socket."""
    host = StoreHost(engine, lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000)

    async def close() -> None:
        host.close()

    return Side(Requests(host, restores), host.run, close)


async def tend(
    folder: Path,
    side: Side,
    beat: Callable[[], None],
    stop: asyncio.Event,
    mover: Mover | None = None,
) -> None:
    """Answer at `folder` while what stands behind it runs, until `stop`; then close that. `mover`: puts something else there."""
    switch = Switch(side, mover)
    server = Server(folder, switch)
    loop = asyncio.get_running_loop()
    end_beats = beat_while_turning(BEAT_MS / 1000, beat)
    work, stopping = loop.create_task(switch.run()), loop.create_task(stop.wait())
    try:
        await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        for task in (work, stopping):
            task.cancel()
        end_beats()
        server.close()
        await switch.close()
        with contextlib.suppress(FileNotFoundError):
            (folder / "sock").unlink()


def take_lock(folder: Path) -> int | None:
    """Return the descriptor that holds the folder's lock, None if another process has it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def main(folder: Path, beat: Callable[[], None], *, durable: bool = True, check: bool = False, mover: Mover | None = None) -> int:
    """Be the store of `folder` until SIGTERM; 0, at once if it has one. `durable` false: no power cut need be outlived. `check`: see SqliteEngine."""
    keep_step(STEP_S)
    if durable:
        make_folders(folder)
    return be_store(folder, lambda stop: serve(folder, beat, stop, durable=durable, check=check, mover=mover))


def be_store(folder: Path, work: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Do `work`, under the folder's lock, until SIGTERM sets its event; 0, at once if another process has the lock."""
    import signal

    lock = take_lock(folder)
    if lock is None:
        return 0

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await work(stop)

    chained.run(run())
    os.close(lock)
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(Path(sys.argv[1]), lambda: None))
