"""Outcomes: what comes of a request that has ended, for whoever asked. For both twins."""

from typing import Any, Final

from unios.errors import CallerError, fresh, from_wire
from unios.wire.conversations import Asked
from unios.wire.messages import Fault
from unios.wire.values import Value, decode

RAISED: Final = "raised"
"""The code of a Fault that carries the exception which a handler raised."""


class RemoteTraceback(Exception):
    """The cause of an exception that was raised elsewhere: where in the other program that was."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def outcome(asked: Asked) -> Any:
    """Return what came of a request that has ended; raise what it raised."""
    failure = asked.failure
    if failure is None:
        return None if asked.answer is None else decode(asked.answer, trusted=asked.answer.trusted)
    if isinstance(failure, Fault):
        if failure.code == RAISED and asked.answer is not None and asked.answer.trusted:
            raise _raised(failure, asked.answer)
        raise from_wire(failure.code, failure.text) if failure.code != RAISED else CallerError(failure.text)
    raise fresh(failure)


def _raised(fault: Fault, value: Value) -> BaseException:
    """Return the exception that a handler raised, with where it was raised as its cause."""
    try:
        found = decode(value, trusted=value.trusted)
        if isinstance(found, Exception):
            found.__cause__ = RemoteTraceback(fault.text)
            return found
    except Exception:  # noqa: BLE001 - its class is not the one that it was written with
        pass
    return CallerError(f"the handler raised an exception that cannot travel:\n{fault.text}")
