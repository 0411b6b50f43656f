"""The asyncio twins of Lock, Event, Semaphore and Queue: the same things of the same names, waited for without blocking the loop.

Who waits is a task: a deadlock between tasks is found and named like one between threads. A cancelled wait leaves nothing behind. Where `threading` has
`blocking` and `timeout`, these have `timeout` (s; 0: do not wait).
"""

import asyncio
import contextlib
import pickle
import queue
from typing import Any

from unios.client.connection import Connection
from unios.client.synchronisation import exchange, memory, semaphore
from unios.client.synchronisation import lock as blocking
from unios.client.synchronisation.named import Named, is_yes, patience
from unios.client.synchronisation.pending import OnToken, Pending, ignore
from unios.client.synchronisation.session import WITHDRAWN_S
from unios.wire.synchronising import TIMED, YES, Answer, Ask, Token


class _TaskPending(Pending):
    """A question that a task waits to have answered."""

    __slots__ = ("future", "loop")

    def __init__(self, ask: Ask, on_token: OnToken) -> None:
        super().__init__(ask, on_token)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self._settled)

    def _settled(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _Async:
    """What the twins have in common."""

    def __init__(self, thing: Named) -> None:
        self._thing = thing
        self.name = thing.name

    def __repr__(self) -> str:
        return f"unios.{type(self).__name__}({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._thing.__reduce__()[1]

    async def _ask(
        self, op: str, *, timeout: float | None = None, size: int = 1, spec: int = 0, data: bytes = b"", on_token: OnToken = ignore
    ) -> Answer | None:
        waits_not, timeout_s = patience(True, timeout)
        flags = waits_not | (TIMED if timeout_s is not None else 0)
        if self._thing._session is None:
            await asyncio.to_thread(lambda: self._thing.session)  # the first use may have to start a system
        session = self._thing.session
        pending = _TaskPending(Ask(0, op, self._thing.kind, self.name, _actor(), size, spec, flags, data=data), on_token)
        try:
            session.begin(pending)
            session.listen()
            try:
                async with asyncio.timeout(timeout_s):
                    await asyncio.shield(pending.future)
            except TimeoutError:
                session.withdraw(pending)
                try:
                    async with asyncio.timeout(WITHDRAWN_S):
                        await asyncio.shield(pending.future)
                except TimeoutError:
                    return session.give_up(pending)
        except BaseException:
            session.abandon(pending)
            raise
        return pending.result()


def _actor() -> str:
    task = asyncio.current_task()
    return f"{task.get_name()[: memory.NAME_MAX]}, task {id(task):x}" if task is not None else "no task"


class AsyncLock(_Async):
    """See Lock."""

    def __init__(self, name: str, via: Connection | None = None) -> None:
        self._lock = blocking.Lock(name, via)
        super().__init__(self._lock)

    @property
    def token(self) -> Token | None:
        return self._lock.token

    async def acquire(self, timeout: float | None = None) -> bool:
        """Take the lock; False if it takes longer than `timeout` s."""
        return is_yes(await self._ask("take", timeout=timeout, on_token=self._lock._taker()))

    def release(self) -> None:
        """Let the next have it. RuntimeError if this object does not hold it, LeaseLost if its lease had ended meanwhile."""
        self._lock.release()

    def check(self) -> Token:
        """Return the token if the lock is held still as far as this process can know; else raise LeaseLost or RuntimeError."""
        return self._lock.check()

    async def locked(self) -> bool:
        return is_yes(await self._ask("locked"))

    async def __aenter__(self) -> Token:
        await self.acquire()
        assert self.token is not None
        return self.token

    async def __aexit__(self, *_exc: object) -> None:
        self.release()


class _EventName(Named):
    kind = "event"


class AsyncEvent(_Async):
    """See Event."""

    def __init__(self, name: str, via: Connection | None = None) -> None:
        super().__init__(_EventName(name, via))

    async def set(self) -> None:
        await self._ask("set")

    async def clear(self) -> None:
        await self._ask("clear")

    async def is_set(self) -> bool:
        return is_yes(await self._ask("is_set"))

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; False at the timeout (s)."""
        if timeout is not None and timeout <= 0:
            return await self.is_set()
        return is_yes(await self._ask("wait", timeout=timeout))


class AsyncSemaphore(_Async):
    """See Semaphore."""

    def __init__(self, name: str, value: int = 1, via: Connection | None = None) -> None:
        super().__init__(semaphore.Semaphore(name, value, via))
        self._value = value

    async def acquire(self, timeout: float | None = None) -> bool:
        """Take a unit; False if there is none within `timeout` s."""
        return is_yes(await self._ask("take", timeout=timeout, spec=self._value))

    async def release(self, n: int = 1) -> None:
        """Give `n` units back."""
        if n < 1:
            raise ValueError("n must be one or more")
        await self._ask("release", size=n, spec=self._value)

    async def __aenter__(self) -> bool:
        return await self.acquire()

    async def __aexit__(self, *_exc: object) -> None:
        await self.release()


class AsyncQueue(_Async):
    """See Queue; with the exceptions of `queue`, as there."""

    def __init__(self, name: str, maxsize: int = 0, via: Connection | None = None) -> None:
        super().__init__(exchange.Queue(name, maxsize, via))
        self.maxsize = max(maxsize, 0)

    async def put(self, item: Any, timeout: float | None = None) -> None:
        """Put an item in; queue.Full if there is no room within `timeout` s. OutcomeUnknown: see Queue.put."""
        data = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        if not is_yes(await self._ask("put", timeout=timeout, spec=self.maxsize, data=data)):
            raise queue.Full

    async def get(self, timeout: float | None = None) -> Any:
        """Take the oldest item out; queue.Empty if there is none within `timeout` s."""
        answer = await self._ask("get", timeout=timeout, spec=self.maxsize)
        if answer is None or answer.outcome != YES:
            raise queue.Empty
        return pickle.loads(answer.data)

    async def task_done(self) -> None:
        await self._ask("done", spec=self.maxsize)

    async def join(self) -> None:
        """Wait until all that was put in is dealt with."""
        await self._ask("join", spec=self.maxsize)

    async def qsize(self) -> int:
        answer = await self._ask("size", spec=self.maxsize)
        return answer.value if answer is not None else 0
