"""Values: Python objects as parts of a parcel and back. A pickle, with large buffers beside it.

Plain pickle does it where it can; what is defined interactively, or in the program itself, goes by cloudpickle, since a worker has another `__main__`.
"""

import pickle
import reprlib
import traceback
import types
from collections.abc import Sequence
from typing import Any, Final

import cloudpickle

from unios.limits import TASK_BUFFER_BYTES_MIN, TASK_BYTES_MAX, TASK_PARTS_MAX
from unios.wire import by_value
from unios.wire.parcels import Part

_EMPTY: Final = types.CellType()
"""What a variable of a closure is that is not bound yet."""


def pack(value: object, what: str, *, copy: bool = False, whole: bool = False) -> list[Part]:
    """Return the parts; with `copy` none of them is memory of the caller's, with `whole` there is one. PicklingError says what of `what` cannot be pickled."""
    buffers: list[pickle.PickleBuffer] = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        if whole:
            return True
        try:
            large = buffer.raw().nbytes >= TASK_BUFFER_BYTES_MIN
        except BufferError:  # not contiguous
            return True
        if large and len(buffers) < TASK_PARTS_MAX - 2:
            buffers.append(buffer)
            return False
        return True

    try:
        body = pickle.dumps(value, protocol=5, buffer_callback=beside)
        plain = b"__main__" not in body
    except Exception:  # noqa: BLE001  whatever a __reduce__ raises: cloudpickle tries next
        plain = False
    if not plain:
        buffers.clear()
        try:
            body = by_value.dumps(value, beside, by_value.Pickler)
        except Exception as error:
            raise pickle.PicklingError(f"{what} cannot be pickled: {_culprit(value, error)}") from error
    parts: list[Part] = [body]
    for buffer in buffers:
        raw = buffer.raw()
        parts.append(bytes(raw) if copy and not isinstance(raw.obj, bytes) else raw)  # what is only read here may be changed by who lent it
    total = sum(map(len, parts))
    if total > TASK_BYTES_MAX:
        raise pickle.PicklingError(f"{what} has {total} bytes when it is pickled; {TASK_BYTES_MAX} is the limit")
    return parts


def unpack(parts: Sequence[Part]) -> Any:
    """Return the value; whatever unpickling raises."""
    if len(parts) == 1:
        return pickle.loads(parts[0])
    return pickle.loads(parts[0], buffers=parts[1:])


def _culprit(value: object, error: Exception) -> str:
    """Return which part of a value it is, and why; found by trying them one by one."""
    path, at = "", value
    for _depth in range(8):
        step = next(((name, part) for name, part in _inside(at) if not _goes(part)), None)
        if step is None:
            break
        path, at = path + step[0], step[1]
    where = f"{path.lstrip('.')} is " if path else ""
    shown = reprlib.repr(at) if path else ""
    return f"{where}{shown}{' (' if shown else ''}{said(error)}{')' if shown else ''}"


def said(error: BaseException) -> str:
    """Return the kind of an exception and what it says, if it can."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  whatever its __str__ raises
        return f"{type(error).__name__}, which cannot say more"


def _goes(value: object) -> bool:
    try:
        cloudpickle.dumps(value, protocol=5)
    except Exception:  # noqa: BLE001
        return False
    return True


def _inside(value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [(f"[{reprlib.repr(key)}]", part) for key, part in list(value.items())[:1_000]]
    if isinstance(value, list | tuple):
        return [(f"[{at}]", part) for at, part in enumerate(value[:1_000])]
    closure = getattr(value, "__closure__", None)
    if closure:
        names = value.__code__.co_freevars  # type: ignore[attr-defined]
        full = [(name, cell) for name, cell in zip(names, closure, strict=False) if cell != _EMPTY]
        return [(f" variable {name}", cell.cell_contents) for name, cell in full]
    fields = getattr(value, "__dict__", None)
    return [(f".{name}", part) for name, part in list(fields.items())[:1_000]] if isinstance(fields, dict) else []


class RemoteTraceback(Exception):
    """Shows, as the cause of a task's exception, where it was raised in the worker."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


def pack_failure(error: BaseException) -> list[Part]:
    """Return an exception as parts, with its traceback as text; one that cannot travel, or cannot be made again, as a PicklingError that says what it said."""
    text = '\n"""\n' + "".join(traceback.format_exception(type(error), error, error.__traceback__)) + '"""'
    error.__traceback__ = None
    try:
        parts = pack((error, text), f"the exception {type(error).__qualname__} that the task raised", copy=True)
        unpack(parts)
    except BaseException as why:  # noqa: BLE001  whatever its class does
        told = f"the exception {type(error).__qualname__} that the task raised cannot be brought back ({said(why)}); it said: {said(error)}"
        parts = pack((pickle.PicklingError(told), text), "an exception")
    return parts


def unpack_failure(parts: Sequence[Part]) -> BaseException:
    """Return the exception with its remote traceback as its cause; one that cannot be made here as a PicklingError."""
    try:
        error, text = unpack(parts)
        assert isinstance(error, BaseException)
    except BaseException as why:  # noqa: BLE001  whatever its class does
        failure = pickle.PicklingError(f"the exception that the task raised cannot be made here: {type(why).__name__}: {why}")
        failure.__cause__ = why
        return failure
    error.__cause__ = RemoteTraceback(text)
    return error
