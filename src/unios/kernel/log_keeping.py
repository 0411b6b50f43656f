"""The replicas of logs that this node keeps: the decider of each, its files, and the loop between the two.

A log is opened when it is first asked for. What waits for the disk is done by threads, one commit of a log at a time; what was written is told to whoever waits
for something to read.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from unios.core.log_replica import Commit, Order, Refused, Replica
from unios.errors import DataLost, Unavailable, UniosError
from unios.kernel.blocks import folder_of
from unios.kernel.disk_threads import DiskThreads
from unios.kernel.log_files import Damaged, LogFiles
from unios.kernel.runfiles import complain
from unios.log_limits import LOGS_PER_USER_MAX

if TYPE_CHECKING:
    from unios.kernel.node import Node

T = TypeVar("T")
Result = int | Refused
THREADS = 8


class HeldLog:
    """One log of this node."""

    def __init__(self, keeping: "LogKeeping", name: str, files: LogFiles, replica: Replica) -> None:
        self._keeping, self._name = keeping, name
        self.files, self.replica = files, replica
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: set[tuple[int, int]] = set()

    async def do(self, what: Callable[..., list[Order]], **arguments: Any) -> Result:
        """Have the decider do something, and wait for its answer."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._carry_out(what(answer, **arguments))
        return await answer

    def _carry_out(self, orders: list[Order]) -> None:
        for order in orders:
            if isinstance(order, Commit):
                task = asyncio.get_running_loop().create_task(self._commit(order))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif isinstance(order.token, asyncio.Future) and not order.token.done():
                order.token.set_result(order.result)

    async def _commit(self, commit: Commit) -> None:
        try:
            await self._keeping.threaded(self.files.commit, commit)
        except Damaged as error:
            self._keeping.drop(self)
            self._carry_out(self.replica.failed(str(error)))
        except OSError as error:
            self._carry_out(self.replica.failed(f"the disk of {self._keeping.node.name} says: {error.strerror}"))
        else:
            self._carry_out(self.replica.synced())
            if commit.first:
                for number in await self._keeping.threaded(self.files.trim, commit.first):
                    self.replica.forget(number)
        self.tell()

    def tell(self) -> None:
        """There may be more to read."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def read(self, number: int, of: int, offset: int, closed: int, wait_ms: int) -> list[bytes] | Refused:
        """Return entries; none if there are none within `wait_ms`."""
        until = asyncio.get_running_loop().time() + wait_ms / 1000
        while True:
            upto = self.replica.readable(number=number, of=of, offset=offset, closed=closed)
            if isinstance(upto, Refused):
                return upto
            if upto > offset:
                return await self._read(number, of, offset, upto)
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return []
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return []

    async def _read(self, number: int, of: int, offset: int, upto: int) -> list[bytes] | Refused:
        try:
            return await self._keeping.threaded(self.files.read, number, offset, upto)
        except Damaged as error:
            again = self.replica.readable(number=number, of=of, offset=offset, closed=upto)
            if isinstance(again, Refused):  # trimmed meanwhile
                return again
            if (number, offset) not in self._told:
                self._told.add((number, offset))
                self._keeping.say(
                    f"{self._keeping.node.name}: the copy of log {self._name} is damaged at {offset} and is read from another node: {error}"
                )
            return Refused("failed", offset, str(error))


class LogKeeping:
    """Those of one node."""

    def __init__(self, node: "Node") -> None:
        self.node = node
        self._threads = DiskThreads(THREADS, "logs")
        self._folder = f"{node.folder.path}/logs"
        self._logs: dict[tuple[str, str], asyncio.Task[HeldLog]] = {}

    async def threaded(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what waits for the disk beside the loop."""
        return await self._threads.do(work, *arguments)

    async def held(self, user: str, name: str, *, bounded: bool) -> HeldLog:
        """Return a log of this node, which may have nothing of it. `bounded`: its user may have LOGS_PER_USER_MAX."""
        task = self._logs.get((user, name))
        if task is None or (task.done() and task.exception() is not None):
            if bounded and sum(owner == user for owner, _name in self._logs) >= LOGS_PER_USER_MAX:
                raise Unavailable(f"{self.node.name} keeps {LOGS_PER_USER_MAX} logs of {user}, its bound for one user")
            task = self._logs[user, name] = asyncio.get_running_loop().create_task(self._open(user, name))
        return await asyncio.shield(task)

    async def _open(self, user: str, name: str) -> HeldLog:
        files = LogFiles(f"{self._folder}/{folder_of(user)}/{quote(name, safe='')}")
        try:
            replica = await self.threaded(files.open)
        except OSError as error:
            raise Unavailable(f"the log {name} cannot be read on {self.node.name}: {error.strerror}") from error
        except Damaged as error:
            raise DataLost(f"the copy of log {name} on {self.node.name} is of no use: {error}") from error
        for number, first, end in files.found.damage:
            self.say(f"{self.node.name}: the copy of log {name} has lost {first} to {end} of span {number}; they are read from another node")
        return HeldLog(self, name, files, replica)

    def drop(self, held: HeldLog) -> None:
        """Open it anew when it is asked for next: its files are not as its decider thinks."""
        held.files.close()
        for key, task in list(self._logs.items()):
            if task.done() and task.exception() is None and task.result() is held:
                del self._logs[key]

    def say(self, text: str) -> None:
        """Tell the system."""
        self.node.start(self._say(text))

    async def _say(self, text: str) -> None:
        with contextlib.suppress(UniosError):  # the store is away: it is in this kernel's log
            complain(text)
            await self.node.events.write("store", text)

    def close(self) -> None:
        for task in self._logs.values():
            if task.done() and task.exception() is None:
                task.result().files.close()
        self._threads.close()
