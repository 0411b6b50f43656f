"""Held: the object itself, in the process of a copy. Belongs to one thread at a time."""

import pickle
from typing import Any

from unios.client.replicas.config import Config, load
from unios.client.replicas.outcome import run
from unios.core.replication import Contents, Do, Keep, Load, Order
from unios.errors import CallerError


class Held:
    """`keeps_state`: the state is kept pickled too, as it is after each write."""

    def __init__(self, config: Config, state: bytes, *, keeps_state: bool) -> None:
        self.config = config
        self._config_bytes = pickle.dumps(config, 5)
        self._state = state
        self._keeps = keeps_state
        self._target: Any = None
        self._is_loaded = False

    @classmethod
    def made(cls, config: Config, call: bytes, *, keeps_state: bool) -> "Held":
        """Return a new object; raise what its constructor raised. CallerError if it has to be pickled and cannot be, or not be made again of that."""
        args, kwargs = load(call)
        target = load(config.kind)(*args, **kwargs)
        state = _pickled(target) if keeps_state or config.copies > 1 else b""
        if state:  # a copy that only keeps states would find that out when it alone is left
            try:
                load(state)
            except Exception as error:
                raise CallerError(f"the object can be copied, but not be made again of the copy: {type(error).__name__}: {error}") from error
        held = cls(config, state, keeps_state=keeps_state)
        held._target, held._is_loaded = target, True
        return held

    @property
    def target(self) -> Any:
        """The object; a copy that only keeps states makes it when it is asked for."""
        if not self._is_loaded:
            self.load()
        return self._target

    def load(self) -> None:
        """Make the object. CallerError if its class cannot be found here."""
        self._target, self._is_loaded = load(self._state), True

    def run(self, call: bytes) -> bytes:
        """Do a call; return its outcome."""
        return run(self.target, call)

    def write(self, call: bytes) -> tuple[bytes, bytes | None]:
        """Do a call that changes the object; return its outcome and the state after it. CallerError if that cannot be pickled: then nothing has changed."""
        outcome = self.run(call)
        if not self._keeps:
            return outcome, None
        try:
            self._state = _pickled(self._target)
        except CallerError as error:
            self._is_loaded = False
            raise CallerError(f"the call was undone: {error}") from error
        return outcome, self._state

    def state(self) -> bytes:
        """Return the state, pickled. CallerError."""
        return self._state if self._keeps else _pickled(self.target)

    def contents(self, outcomes: Any) -> Contents:
        """Return all of it, for a new copy. CallerError."""
        return Contents(self._config_bytes, self.state(), outcomes)

    def carry_out(self, order: Keep | Do) -> None:
        """Carry out what a copy was ordered."""
        if isinstance(order, Keep):
            self._state, self._is_loaded = order.state, False
        else:
            self.run(order.call)


def loaded(order: Order | None, held: Held | None, keeps_state: Any) -> Held | None:
    """Carry an order out; return what is held then. `keeps_state`: of a configuration."""
    if isinstance(order, Load):
        config = load(order.contents.config)
        held = Held(config, order.contents.state, keeps_state=keeps_state(config))
        if not keeps_state(config):
            held.load()  # it does calls itself: if it cannot, it is no copy
        return held
    if order is not None and held is not None:
        held.carry_out(order)
    return held


def _pickled(target: object) -> bytes:
    try:
        return pickle.dumps(target, 5)
    except Exception as error:
        raise CallerError(f"the object cannot be copied to another process: {type(error).__name__}: {error}") from error
