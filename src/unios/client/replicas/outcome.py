"""Outcome: what has come of a call, as bytes: what it returned, or what it raised and where."""

import pickle
import traceback
from typing import Any, Final

from unios.client.messages.port import RemoteTraceback
from unios.client.replicas.config import load
from unios.errors import CallerError, OutcomeUnknown

TEXT_MAX: Final = 16 * 1024
FORGOTTEN: Final = pickle.dumps(("forgotten", None, ""), 5)


def call_of(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Return a call as bytes. CallerError if an argument cannot travel."""
    try:
        return pickle.dumps((method, args, kwargs), 5)
    except Exception as error:
        raise CallerError(f"an argument of {method} cannot be sent: {type(error).__name__}: {error}") from error


def run(target: object, call: bytes) -> bytes:
    """Do a call on an object, whatever comes of it."""
    try:
        method, args, kwargs = load(call)
        value = getattr(target, method)(*args, **kwargs)
        if method == "__iter__":
            value = list(value)  # an iterator is of one process
    except BaseException as error:  # noqa: BLE001 - whatever it raises is its caller's
        return raised(error)
    try:
        return pickle.dumps(("returned", value, ""), 5)
    except Exception as error:  # noqa: BLE001 - pickling runs code of the class
        return raised(CallerError(f"{method} was done, but what it returned cannot be sent: {type(error).__name__}: {error}"))


def raised(error: BaseException) -> bytes:
    """Return the outcome of a call that raised that."""
    text = "".join(traceback.format_exception(error))[-TEXT_MAX:]
    try:
        data = pickle.dumps(("raised", error, text), 5)
        pickle.loads(data)
    except Exception:  # noqa: BLE001 - an exception that cannot be pickled, or not be made again
        return pickle.dumps(("raised", CallerError(f"the object raised an exception that cannot travel:\n{text}"), text), 5)
    return data


def result(outcome: bytes) -> Any:
    """Return what the call returned, or raise what it raised."""
    word, value, text = load(outcome)
    if word == "forgotten":
        raise OutcomeUnknown("the call may have been done; its outcome is no longer kept")
    if word == "raised":
        value.__cause__ = RemoteTraceback(text)
        raise value
    return value
