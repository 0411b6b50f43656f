"""Getting: the value of an object, read in place where its memory is on this node, made again after a loss where there is a recipe."""

import mmap
from collections.abc import Sequence
from typing import Any, TypeVar, overload

import msgspec

from unios.client.messages import bringing
from unios.client.messages.port import deadline_of
from unios.client.objects.counts import COUNTS
from unios.client.objects.putting import store
from unios.client.objects.reading import watch, watch_brought
from unios.client.objects.ref import Ref
from unios.client.objects.tie import Gone, Tie
from unios.counted import counted
from unios.errors import CallerError, DataLost, OutcomeUnknown, Unavailable
from unios.wire.values import Value, decode

T = TypeVar("T")


@overload
def get(refs: Ref[T], timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[Ref[T]], timeout: float | None = None) -> list[T]: ...
def get(refs: "Ref[Any] | Sequence[Ref[Any]]", timeout: float | None = None) -> Any:
    """Return the object of a reference, or a list of those of several. On a node its memory is read in place, as a private view: to write to it changes a copy.

    `timeout`: TimeoutError after so many seconds. DataLost if it is gone with its node and nothing makes it again; Unavailable if there is no room for it here.
    """
    deadline = deadline_of(timeout)
    if isinstance(refs, Ref):
        return _get(refs, deadline)
    if isinstance(refs, str | bytes) or not isinstance(refs, Sequence) or not all(isinstance(ref, Ref) for ref in refs):
        raise CallerError("get takes a reference, as put returns it, or a list of them")
    return [_get(ref, deadline) for ref in refs]


def _get(ref: Ref[Any], deadline: float | None) -> Any:
    try:
        return _read(ref, deadline)
    except Gone as error:
        if ref.recipe is None:
            raise DataLost(f"{describe(ref)} is lost: the holder of objects on this node, {COUNTS.node}, has ended") from error
    except DataLost:
        if ref.recipe is None:
            raise
    except OutcomeUnknown as error:  # it was only read
        raise Unavailable(f"{describe(ref)} cannot be got now: {error}") from error
    function, *arguments = ref.recipe
    value = function(*arguments)
    store(ref.id, value)
    return value


def _read(ref: Ref[Any], deadline: float | None) -> Any:
    tie = COUNTS.tie()
    brought = bringing.take(ref.id)
    if brought is not None:
        watch_brought(ref.id, brought[1].obj)  # type: ignore[arg-type]  # a mapping: it came by descriptor
        return decode(Value(msgspec.Raw(brought[0]), [brought[1]]), trusted=True)
    while True:
        found = _ask(tie, ref, deadline)
        if found is not None:
            break
        tie.wait("bring", ref.known, deadline=deadline)
    is_marked, data = found
    body, *buffers = (memoryview(one) for one in data)
    if is_marked:
        watch(ref.id, [buffer.obj for buffer in buffers if isinstance(buffer.obj, mmap.mmap)])
    return decode(Value(msgspec.Raw(body), buffers), trusted=True)


def _ask(tie: Tie, ref: Ref[Any], deadline: float | None) -> Any:
    """Ask for an object; if it has not been said yet that it is referred to, that is said with it."""
    unsaid = tie.take_unsaid(ref.id)
    if unsaid is None:
        return tie.call("get", ref.known, deadline=deadline)
    try:
        return tie.call("get", *unsaid, deadline=deadline)
    except BaseException:
        tie.hold(*unsaid)
        raise


def describe(ref: Ref[Any]) -> str:
    """Return what a sentence calls an object."""
    return f"the object {ref.id[:8]} of {counted(ref.nbytes, 'byte')}, put on node {ref.node},"
