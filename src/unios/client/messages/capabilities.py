"""Capabilities of a port: what its owner hands out instead of the port, to be weakened, passed on and revoked. docs/messages.md.

The table (core/capabilities.py) is in the process that listens and is asked for each call and for each item of a stream. So `revoke` has been heard by all who
could serve when that process has answered; if it cannot be reached nothing is acknowledged.
"""

import hashlib
import inspect
import secrets
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from unios.client.messages.port import Items, Port, _travelled
from unios.client.messages.server import Handlers, caller, function_of
from unios.core.capabilities import Capabilities as Table
from unios.core.capabilities import Terms
from unios.errors import CallerError, Denied, OutcomeUnknown
from unios.limits import PORT_NAME_BYTES_MAX
from unios.undecodable import UNDECODABLE

SECRET_BYTES: Final = 20
Wanted = tuple[list[str] | None, float | None, int | None, str]
"""As it travels: operations, seconds, uses, user."""


def _name(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _terms(wanted: Any) -> Terms:
    """Return what was asked for. CallerError for what makes no sense."""
    try:
        operations, seconds, uses, user = msgspec.convert(wanted, Wanted, strict=True)
        until = None if seconds is None else _now_ms() + int(seconds * 1000)
    except (msgspec.MsgspecError, OverflowError, ValueError) as error:
        raise CallerError(f"these are no terms of a capability: {error}") from error
    return Terms(None if operations is None else frozenset(operations), until, uses, user)


class Capabilities(Mapping[str, Callable[..., Any]]):
    """What to `listen` with in front of an object: its operations are served to those who show a capability, and to nobody else.

    It belongs to this process: a successor that listens under the name knows none of what was handed out here.
    """

    def __init__(self, target: Handlers) -> None:
        self._target = target
        self._maker = uuid.uuid4().hex
        self._table = Table()
        self._lock = threading.Lock()
        self._served: dict[str, Callable[..., Any]] = {
            "invoke": self._invoke,
            "items": self._items,
            "derive": self._derive,
            "revoke": self._revoke,
        }
        """What callers can call; `mint` they cannot."""

    def __getitem__(self, op: str) -> Callable[..., Any]:
        return self._served[op]

    def __iter__(self) -> Iterator[str]:
        return iter(self._served)

    def __len__(self) -> int:
        return len(self._served)

    def mint(
        self, port: str, *, operations: Iterable[str] | None = None, seconds: float | None = None, uses: int | None = None, user: str = ""
    ) -> "Capability":
        """Return a new capability for the port under whose name this is listened with. Terms as in `Capability.derive`. CallerError, Unavailable."""
        secret = secrets.token_hex(SECRET_BYTES)
        with self._lock:
            self._table.mint(_name(secret), _terms(_wanted(operations, seconds, uses, user)), _now_ms())
        return Capability(port, self._maker, secret)

    def take_back(self, given: "Capability") -> int:
        """Revoke one that was made here, and all that was derived from it; return how many. As `Capability.revoke`, by the owner himself."""
        return self._revoke(given._maker, given._secret)

    def _invoke(self, maker: str, secret: str, op: str, /, *args: Any, **kwargs: Any) -> Any:
        """Do `op` of the target. Denied if the capability does not let this caller."""
        self._admit(maker, secret, op)
        return function_of(self._target, op)(*args, **kwargs)

    def _items(self, maker: str, secret: str, op: str, /, *args: Any, **kwargs: Any) -> Iterator[Any] | AsyncIterator[Any]:
        """The same as a stream: the capability is looked at again before each item."""
        self._admit(maker, secret, op)
        found = function_of(self._target, op)(*args, **kwargs)
        held, user = _name(secret), caller().user
        if inspect.isawaitable(found) or hasattr(found, "__aiter__"):
            return self._each_later(found, held, user)
        return self._each(found, held, user)

    def _derive(self, maker: str, secret: str, wanted: Any) -> str:
        """Return the secret of a weaker one."""
        self._is_mine(maker)
        made, terms = secrets.token_hex(SECRET_BYTES), _terms(wanted)
        with self._lock:
            self._table.derive(_name(secret), _name(made), terms, caller().user, _now_ms())
        return made

    def _revoke(self, maker: str, secret: str) -> int:
        """Take it out, and all that was derived from it: nothing that is asked for with one of them after the answer is done. Who knows it may."""
        if maker != self._maker:
            raise OutcomeUnknown(
                "who gave out this capability does not listen under that name any more; while that program runs it may serve those who are "
                "connected to it: end it to be sure"
            )
        with self._lock:
            return self._table.revoke(_name(secret))

    def _is_mine(self, maker: str) -> None:
        if maker != self._maker:
            raise Denied("this capability was given out by a program that does not listen here any more: ask for another one")

    def _admit(self, maker: str, secret: str, op: str) -> None:
        self._is_mine(maker)
        with self._lock:
            self._table.admit(_name(secret), op, caller().user, _now_ms())

    def _check(self, held: str, user: str) -> None:
        with self._lock:
            self._table.holds(held, user, _now_ms())

    def _each(self, found: Any, held: str, user: str) -> Iterator[Any]:
        try:
            for item in found:
                self._check(held, user)
                yield item
        finally:
            if inspect.isgenerator(found):
                found.close()

    async def _each_later(self, found: Any, held: str, user: str) -> AsyncIterator[Any]:
        if inspect.isawaitable(found):
            found = await found
        if not hasattr(found, "__aiter__"):
            for item in found:
                self._check(held, user)
                yield item
            return
        try:
            async for item in found:
                self._check(held, user)
                yield item
        finally:
            if inspect.isasyncgen(found):
                await found.aclose()


class Capability:
    """A right to some operations of a port, for whoever holds it. It may be an argument or an answer of any call, to any user and node; what it can do goes with it.

    It is a secret: who gets hold of it may do what it lets him, unless it names another user.
    """

    def __init__(self, port: str, maker: str, secret: str, timeout: float | None = None) -> None:
        self._port: Port = _travelled(port, timeout, False)
        self._maker, self._secret, self._timeout = maker, secret, timeout

    def __repr__(self) -> str:
        return f"<unios capability of port {self._port.name!r}>"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Capability, (self._port.name, self._maker, self._secret, self._timeout)

    def __enter__(self) -> "Capability":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the right stays. Idempotent."""
        self._port.close()

    def options(self, *, timeout: float | None = None) -> "Capability":
        """Return the same with a deadline of so many seconds for each call."""
        return Capability(self._port.name, self._maker, self._secret, timeout)

    def call(self, op: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call, as `Port.call`. Denied if the capability does not let you, or does no more."""
        return self._port.call("invoke", self._maker, self._secret, op, *args, **kwargs)

    def stream(self, op: str, /, *args: Any, **kwargs: Any) -> Items:
        """Call what yields, as `Port.stream`. It ends with Denied when the capability is revoked or over; what was made by then arrives."""
        return self._port.stream("items", self._maker, self._secret, op, *args, **kwargs)

    def derive(
        self, *, operations: Iterable[str] | None = None, seconds: float | None = None, uses: int | None = None, user: str = ""
    ) -> "Capability":
        """Return a new one that can do what this one can and no more: only `operations`, for so many `seconds`, for so many calls (which count here too), for
        that `user` alone. Denied, CallerError, Unavailable."""
        made = self._port.call("derive", self._maker, self._secret, _wanted(operations, seconds, uses, user))
        return self.with_secret(made)

    def with_secret(self, made: str) -> "Capability":
        """Return one of the same maker that it has just derived."""
        return Capability(self._port.name, self._maker, made, self._timeout)

    def revoke(self) -> int:
        """Revoke it and all that was derived from it; return how many (0: it was none any more). When this returns no call that is made afterwards with one of them,
        from any node, is done; calls that had begun go on to their end.

        OutcomeUnknown: who serves them did not confirm by the deadline, or is not he who gave them out: they may still be served; do it again.
        """
        return int(self._port.options(timeout=self._timeout, idempotent=True).call("revoke", self._maker, self._secret))


def _wanted(operations: Iterable[str] | None, seconds: float | None, uses: int | None, user: str) -> Wanted:
    if isinstance(operations, str):
        raise CallerError("operations are a list of names, not one")
    return (None if operations is None else list(operations), None if seconds is None else float(seconds), uses, user)


def written(value: object) -> bytes | None:
    """Return a capability as it travels to another user, None for anything else."""
    value = getattr(value, "_given", value)  # of one for asyncio
    return msgspec.msgpack.encode((value._port.name, value._maker, value._secret)) if isinstance(value, Capability) else None


def read(data: bytes) -> Capability:
    """Return the capability. ValueError for what is none."""
    try:
        name, maker, secret = msgspec.msgpack.decode(data, type=tuple[str, str, str])
    except UNDECODABLE as error:
        raise ValueError(f"this is no capability: {error}") from error
    if not name.isprintable() or len(name.encode(errors="replace")) > PORT_NAME_BYTES_MAX:
        raise ValueError("this is no name of a port")
    return Capability(name, maker, secret)
