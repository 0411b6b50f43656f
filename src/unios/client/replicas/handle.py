"""Handle: what a program has of a long-lived object: its methods, called as if it were here."""

import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unios.client.replicas.cached import Cached
from unios.client.replicas.caller import Caller
from unios.client.replicas.config import SPECIAL, Config, know_main
from unios.client.replicas.outcome import call_of, result
from unios.core.strategies import STRATEGIES


class Handle:
    """Calls the methods of an object, whatever its strategy; threads may share it, and it may be sent to other processes, which connect by the name.

    A method raises what it raised there. DataLost: the last copy was lost with its node. OutcomeUnknown: no answer came within the handle's timeout.
    """

    def __init__(self, caller: Caller, config: Config) -> None:
        know_main()
        self._caller, self._config = caller, config
        self._reads = STRATEGIES[config.strategy].reads
        self._pid = os.getpid()
        self._making = threading.Lock()
        self._cached: Cached | None = None

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_") or method not in self._config.methods:
            raise AttributeError(f"{self._config.name} has no method {method!r}: a handle has the public methods of its object, and no attributes")

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(method, args, kwargs)

        call.__name__ = method
        return call

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            raise AttributeError(f"{name} of {self._config.name} cannot be set: a handle has the public methods of its object, and no attributes")
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted(self._config.methods)

    def __repr__(self) -> str:
        return (
            f"<unios object {self._config.name}: {self._config.strategy}, {self._config.copies} {'copy' if self._config.copies == 1 else 'copies'}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _travelled, (self._config, self._caller.timeout)

    def _call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = call_of(method, args, kwargs)
        if self._reads == "caller":
            return result(self._call_cached(method, call))
        if method not in self._config.reads:
            return result(self._caller.write(call))
        return result(self._caller.read_near(call) if self._reads == "nearest" else self._caller.read(call))

    def _call_cached(self, method: str, call: bytes) -> bytes:
        with self._making:
            if self._cached is None or self._pid != os.getpid():
                self._cached, self._pid = Cached(self._caller, self._config.lease_ms, self._config.token), os.getpid()
                weakref.finalize(self, self._cached.close)
            cached = self._cached
        if method in self._config.reads:
            return cached.read(call)
        return self._caller.write(call, cached.session, cached.drop())


def handle_of(caller: Caller, config: Config) -> Handle:
    """Return a handle with the special methods that the object's class has."""

    def special(name: str) -> Any:
        def method(self: Handle, *args: Any) -> Any:
            return self._call(name, args, {})

        method.__name__ = name
        return method

    def iterate(self: Handle) -> Iterator[Any]:
        return iter(self._call("__iter__", (), {}))

    names = {name: iterate if name == "__iter__" else special(name) for name in SPECIAL & config.methods}
    return type("Handle", (Handle,), names)(caller, config) if names else Handle(caller, config)


def close(handle: Handle) -> None:
    """End a handle's connections; the object lives on."""
    if handle._cached is not None:
        handle._cached.close()
    handle._caller.close()


def caller_of(handle: Handle) -> Caller:
    """Return what stands behind a handle."""
    return handle._caller


def _travelled(config: Config, timeout: float | None, home: "Path | str | None" = None) -> Handle:
    return handle_of(Caller(config.name, home=home, timeout=timeout), config)
