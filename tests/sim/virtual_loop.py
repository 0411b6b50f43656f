"""asyncio on virtual time: what the product does in coroutines runs in the simulation as it is. Time passes only when nobody has anything to do."""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

from tests.sim.world import Violation, World


class _Jump(selectors.SelectSelector):
    """Waits for nothing: it moves the clock to where the loop wants to wait until."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nobody will ever do anything again")
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock begins at 0."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now_s


class LoopWorld(World):
    """A world in such a loop: `after` and coroutines share one clock. What fails anywhere in it ends the run."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.loop = loop
        self.broken: BaseException | None = None
        super().__init__(seed)
        loop.set_exception_handler(lambda _loop, context: self._break(context.get("exception") or RuntimeError(context["message"])))

    @property
    def now(self) -> float:  # type: ignore[override]
        return self.loop.time() * 1_000

    @now.setter
    def now(self, _value: float) -> None:
        pass

    def _break(self, error: BaseException) -> None:
        self.broken = self.broken or error

    def fail(self, text: str) -> None:
        try:
            super().fail(text)
        except Violation as violation:
            self._break(violation)  # whoever called may be a task that nobody awaits
            raise

    def after(self, delay_ms: float, work: Callable[[], None]) -> None:
        self.loop.call_later(max(0.0, delay_ms) / 1_000, self._do, work)

    def _do(self, work: Callable[[], None]) -> None:
        if self.broken is None:
            try:
                work()
                self.look()
            except Exception as error:  # noqa: BLE001 raised by `run_until`
                self._break(error)

    def run_until(self, end_ms: float) -> None:
        """Let it go on until then. Raises what has failed."""

        async def wait() -> None:
            while self.now < end_ms and self.broken is None:
                await asyncio.sleep(min(0.2, (end_ms - self.now) / 1_000))

        self.loop.run_until_complete(wait())
        if self.broken is not None:
            raise self.broken
