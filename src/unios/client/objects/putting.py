"""Putting: a value becomes an object in the shared memory of this node. What was born there is not copied."""

import pickle
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from unios.client.messages import bringing, memory
from unios.client.objects.counts import COUNTS
from unios.client.objects.reading import watch
from unios.client.objects.ref import Recipe, Ref, collecting
from unios.errors import CallerError
from unios.object_limits import RECIPE_BYTES_MAX
from unios.wire.values import encode

if TYPE_CHECKING:
    import numpy

T = TypeVar("T")


def put(value: T, *, remake: Callable[[], T] | tuple[Any, ...] | None = None) -> Ref[T]:
    """Keep a value for everybody who has the reference; return that. The value is as it is now: what is changed later nobody sees.

    `remake`: a function, or (function, argument, ...), that makes an equal value: called by whoever asks for the object after it was lost with its node.
    A memoryview is put as its bytes. CallerError for what cannot be pickled; Unavailable if there is no room or no system. Buffers of `empty` and `allocate`
    are not copied.
    """
    recipe = _recipe(remake)
    id_ = uuid.uuid4().hex
    try:
        size = store(id_, value)
        return Ref((id_, COUNTS.node, size), recipe, told=True)
    except BaseException:  # a signal's handler may raise when it is kept already: nobody has the reference
        COUNTS.gone(id_)
        raise


def store(id_: str, value: object) -> int:
    """Put a value under an id; return its size in bytes. Idempotent."""
    with collecting() as inside:
        encoded = encode(_View(value) if isinstance(value, memoryview) else value, trusted=True, by_value=True)
    buffers = [_whole(buffer) for buffer in encoded.buffers]
    born = [mapping for mapping in map(memory.mapping_of, buffers) if mapping is not None]
    size = sum(buffer.nbytes for buffer in buffers) + len(memoryview(encoded.body))
    tie = COUNTS.tie()
    data = [pickle.PickleBuffer(buffer) for buffer in (memoryview(encoded.body), *buffers)]
    is_put = bringing.put(id_, data[0].raw(), buffers) if not inside else None
    is_new = id_ not in tie.ids
    tie.ids[id_] = (id_, COUNTS.node, size)  # at once: should the connection be made again, it is said again
    try:
        if tie.call("put", id_, data, [one.known for one in inside], bool(born)):
            watch(id_, born)
            if is_put is not None:
                is_put()
    except BaseException:
        if is_new:
            tie.post(partial(tie.drop, id_))  # the holder may keep it, or will: what is asked is done in its order
        raise
    finally:
        for one in data:
            one.release()
    return size


class _View:
    """A buffer to be put as it is: who gets it has a view of its bytes."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __reduce__(self) -> tuple[Any, ...]:
        return memoryview, (pickle.PickleBuffer(self._view),)


def _whole(buffer: memoryview) -> memoryview:
    """Return a buffer as it is, or a copy if it is a small part of what it lies in: that would be kept with it."""
    mapping = memory.mapping_of(buffer)
    return buffer if mapping is None or buffer.nbytes * 2 >= len(mapping) - 4096 else memoryview(bytearray(buffer))


def _recipe(remake: Callable[[], Any] | tuple[Any, ...] | None) -> Recipe | None:
    if remake is None:
        return None
    recipe: Recipe = remake if isinstance(remake, tuple) else (remake,)
    if not recipe or not callable(recipe[0]):
        raise CallerError("remake is a function, or a tuple of a function and its arguments")
    with collecting():
        try:
            size = len(pickle.dumps(recipe, 5))
        except Exception as error:
            raise CallerError(f"remake cannot be pickled, so nobody else could call it: {type(error).__name__}: {error}") from error
    if size > RECIPE_BYTES_MAX:
        raise CallerError(
            f"remake has {size} bytes with its arguments; the limit is {RECIPE_BYTES_MAX}: put large arguments first and pass their references"
        )
    return recipe


def allocate(nbytes: int) -> memoryview:
    """Return `nbytes` zero bytes in shared memory: put, or sent in a message of this node, they are not copied. MemoryError."""
    return memory.allocate(nbytes)


def empty(shape: "int | tuple[int, ...]", dtype: "numpy.typing.DTypeLike" = float) -> "numpy.ndarray[Any, Any]":
    """Return a new numpy array of zeros in shared memory: put, or sent in a message of this node, it is not copied. Needs numpy."""
    import numpy

    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise CallerError("an array of Python objects cannot lie in shared memory")
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    count = 1
    for size in sizes:
        count *= size
    return numpy.frombuffer(allocate(max(1, count * kind.itemsize)), dtype=kind, count=count).reshape(sizes)
