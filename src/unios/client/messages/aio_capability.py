"""AsyncCapability: a capability as its holder uses it in asyncio, the twin of `capabilities.Capability`. Belongs to one loop."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from unios.client.messages.aio_port import AsyncPort
from unios.client.messages.capabilities import Capability, _wanted


class AsyncCapability:
    """What `unios.aio.capability(given)` returns: the same right, for `await`. In a message it arrives as a `Capability`, whoever sends it."""

    def __init__(self, given: Capability) -> None:
        self._given = given
        self._port = AsyncPort(given._port.name).options(timeout=given._timeout)

    def __repr__(self) -> str:
        return repr(self._given)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._given.__reduce__()

    async def __aenter__(self) -> "AsyncCapability":
        await self._port.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._port.__aexit__(*exc)

    def close(self) -> None:
        """End the connection; the right stays. Idempotent."""
        self._port.close()

    def options(self, *, timeout: float | None = None) -> "AsyncCapability":
        """Return the same with a deadline of so many seconds for each call."""
        return AsyncCapability(self._given.options(timeout=timeout))

    async def call(self, op: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call, as `AsyncPort.call`. Denied as by `Capability.call`."""
        return await self._port.call("invoke", self._given._maker, self._given._secret, op, *args, **kwargs)

    def stream(self, op: str, /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Call what yields, as `AsyncPort.stream`. It ends as that of `Capability.stream`."""
        return self._port.stream("items", self._given._maker, self._given._secret, op, *args, **kwargs)

    async def derive(
        self, *, operations: Iterable[str] | None = None, seconds: float | None = None, uses: int | None = None, user: str = ""
    ) -> "AsyncCapability":
        """Return a new one that can do what this one can and no more. Terms and errors as of `Capability.derive`."""
        made = await self._port.call("derive", self._given._maker, self._given._secret, _wanted(operations, seconds, uses, user))
        return AsyncCapability(self._given.with_secret(made))

    async def revoke(self) -> int:
        """Revoke it and all that was derived from it; return how many. What that means, and OutcomeUnknown, as of `Capability.revoke`."""
        port = self._port.options(timeout=self._given._timeout, idempotent=True)
        return int(await port.call("revoke", self._given._maker, self._given._secret))
