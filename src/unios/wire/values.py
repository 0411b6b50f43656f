"""Values: Python objects as bodies of messages.

Between processes of one user they are pickles (protocol 5; memoryviews travel too), large buffers beside them uncopied. A pickle is a program, so from
another user's process none is read: then a value is msgpack (None, numbers, text, bytes, lists, dictionaries, dates; a tuple arrives as a list), and what
others have said of `PLAIN`. What does not fit is refused with a sentence.

In messages functions and classes go by their names. What is kept for others (objects) brings along what they would not find: by_value.py.
"""

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from unios.errors import CallerError, Denied, ProtocolError
from unios.limits import MESSAGE_BYTES_MAX, MESSAGE_BYTES_STRANGER_MAX
from unios.wire import plain_count

BESIDE_BYTES: Final = 32 * 1024
"""A buffer of so many bytes travels beside its pickle, and so does a pickle that is itself so large as PICKLE_BYTES."""
PICKLE_BYTES: Final = 256 * 1024
PLAIN_OBJECTS_MAX: Final = 1_000_000
"""In a value of another user: one byte of it can be an object of 64."""
PLAIN: Final[dict[int, tuple[Callable[[Any], bytes | None], Callable[[bytes], Any]]]] = {}
"""Objects that travel to another user's process too, by the code of their msgpack extension: how one is written (None: it is none of these) and read.
Whoever reads trusts nothing in it: ValueError for what is none. client/messages says it of ports."""
_encoder: Final = msgspec.msgpack.Encoder()
_bytes: Final = msgspec.msgpack.Decoder(memoryview).decode
_encode: Final = _encoder.encode
_dumps, _loads = pickle.dumps, pickle.loads
made: Final = tuple.__new__
"""Makes a named tuple in half the time."""
_PICKLED: Final = (0xC4, 0xC5, 0xC6)
"""msgpack's bytes: a body that is just that is a pickle."""
_BESIDE: Final = msgspec.Raw(b"\xc4\x00")
"""The pickle is the first of the buffers."""
_PLAIN_BESIDE: Final = msgspec.Raw(b"\xa0")
"""The msgpack is the only one."""
_MAIN: Final = b"\x8c\x08__main__"
"""How a pickle names that module, of which each program has another one."""


_UNPICKLABLE: Final = (pickle.PicklingError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError, OverflowError)
"""What pickle raises for what it cannot write, and classes that refuse: RuntimeError, as a lock of multiprocessing. What else one raises, or a signal's handler
(as TimeoutError), goes on as it is."""
_UNREADABLE: Final = (pickle.UnpicklingError, TypeError, ValueError, EOFError, LookupError, RecursionError, MemoryError, OverflowError)
"""What pickle raises for what is no pickle. What a class or a signal's handler raises meanwhile goes on as it is."""


class Value(NamedTuple):
    """A body, and the large buffers beside it. `trusted`: it came from a process of the same user; whoever receives it says so, and only then it is unpickled."""

    body: msgspec.Raw
    buffers: Sequence[memoryview] = ()
    trusted: bool = False

    @property
    def is_fixed(self) -> bool:
        """Whether nobody can change it any more: what lies beside it cannot be written to."""
        return all(buffer.readonly for buffer in self.buffers)

    def fixed(self, is_fixed: Callable[[memoryview], bool] = lambda buffer: buffer.readonly) -> "Value":
        """Return a value that nobody can change; copies each buffer that could be."""
        if self.is_fixed:
            return self
        return self._replace(buffers=[buffer if is_fixed(buffer) else memoryview(bytes(buffer)) for buffer in self.buffers])


class _Pickler(pickle.Pickler):
    """Takes memoryviews too; slower to be made than pickle.dumps."""

    def reducer_override(self, obj: Any) -> Any:
        return (memoryview, (pickle.PickleBuffer(obj),)) if type(obj) is memoryview else NotImplemented


NOTHING: Final = Value(msgspec.Raw(b"\xc4\x04" + pickle.dumps(None, 5)))
NOTHING_PLAIN: Final = Value(msgspec.Raw(b"\xc0"))


def encode(value: object, *, trusted: bool, by_value: bool = False) -> Value:
    """Return a value for the wire; `trusted`: the other side is of the same user. CallerError if it cannot travel.

    `by_value`: functions and classes that nobody else finds by name come along; what of them cannot be pickled goes by its name, as without it.
    """
    if not trusted:
        return _encode_plain(value)
    buffers: list[memoryview] = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:
            return True  # not in one piece: into the pickle
        if raw.nbytes < BESIDE_BYTES:
            return True
        buffers.append(raw)
        return False

    try:
        try:  # once, if that can be: what it writes may count, as references to objects do
            data = _dumps(value, 5, buffer_callback=beside)
        except TypeError:  # perhaps for a memoryview, as allocate() returns: pickle has no way for those
            buffers.clear()
            file = io.BytesIO()
            _Pickler(file, 5, buffer_callback=beside).dump(value)
            data = file.getvalue()
        if by_value and _may_name_the_program(value, data):
            data, buffers = _by_value(value, beside, buffers) or (data, buffers)
    except _UNPICKLABLE as error:
        found = _by_value(value, beside, buffers) if by_value and not isinstance(error, MemoryError | OverflowError | RecursionError) else None
        if found is None:
            raise CallerError(f"this cannot be sent: {type(error).__name__}: {error}") from error
        data, buffers = found
    size = len(data)
    if not buffers and size < PICKLE_BYTES:  # most
        return made(Value, (msgspec.Raw(_encode(data)), (), False))
    if (total := size + sum(buffer.nbytes for buffer in buffers)) > MESSAGE_BYTES_MAX:
        raise CallerError(f"this cannot be sent: it has {total} bytes, and the limit is {MESSAGE_BYTES_MAX}")
    if size >= PICKLE_BYTES:
        return Value(_BESIDE, [memoryview(data), *buffers])
    return Value(msgspec.Raw(_encode(data)), buffers)


def _by_value(value: object, beside: Callable[[pickle.PickleBuffer], bool], buffers: list[memoryview]) -> tuple[bytes, list[memoryview]] | None:
    """Return the pickle by value, and the buffers that `beside` has put into `buffers`, which are emptied before; None, and they are as before, if it cannot be."""
    from unios.wire import by_value

    # What is raised is let go here: in a cycle of an exception and a frame with memoryviews CPython 3.11's collector frees one that another still refers to.
    before = buffers.copy()
    buffers.clear()
    try:
        return by_value.dumps(value, beside), buffers
    except _UNPICKLABLE:
        buffers[:] = before
        return None


def _may_name_the_program(value: object, data: bytes) -> bool:
    """Return whether the pickle of a value may refer to something by its name in `__main__`: where it does, and where its data happen to look so."""
    return type(value) not in (bytes, bytearray, str) and _MAIN in data


def _plain(value: Any) -> msgspec.msgpack.Ext:
    for code, (write, _read) in PLAIN.items():
        if (data := write(value)) is not None:
            return msgspec.msgpack.Ext(code, data)
    raise NotImplementedError(f"a {type(value).__name__} is no plain value")


def _of_plain(code: int, data: memoryview) -> Any:
    if code not in PLAIN:
        raise ValueError(f"there is no value of kind {code}")
    return PLAIN[code][1](bytes(data))


_plain_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_plain)
_plain_decoder: Final = msgspec.msgpack.Decoder(tuple[str, Any], ext_hook=_of_plain)


def _makes_too_many(document: memoryview) -> bool:
    return len(document) > PLAIN_OBJECTS_MAX and plain_count.is_over(document, PLAIN_OBJECTS_MAX)


def _encode_plain(value: object) -> Value:
    try:
        data = _plain_encoder.encode(["v", value])
    except (NotImplementedError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CallerError(f"this cannot be sent to another user's process: {error}") from error
    if len(data) < PICKLE_BYTES:
        return Value(msgspec.Raw(data))
    if len(data) > MESSAGE_BYTES_STRANGER_MAX:
        raise CallerError(f"this cannot be sent to another user's process: it has {len(data)} bytes, and the limit is {MESSAGE_BYTES_STRANGER_MAX}")
    if _makes_too_many(memoryview(data)):
        raise CallerError(
            f"this cannot be sent to another user's process: it has more than {PLAIN_OBJECTS_MAX} objects, which is the limit between users"
        )
    return Value(_PLAIN_BESIDE, [memoryview(data)])


def decode(value: Value, *, trusted: bool) -> Any:
    """Return the object. Denied for a pickle of another user, ProtocolError for what is no value, CallerError if the class cannot be found here.

    `trusted` must be what held for the connection that it came over, not for the one that there is now.
    """
    body, buffers, _trusted = value
    data: memoryview | bytes = b""
    if trusted:
        try:
            data = _bytes(body)
        except msgspec.MsgspecError:
            pass
    if not data:  # it is none, or lies beside
        view = memoryview(body)
        if not len(view) or view[0] not in _PICKLED:
            return _decode_plain(value)
        data, buffers = _pickle_of(value, trusted=trusted)
    try:
        return _loads(data, buffers=buffers)
    except (ImportError, AttributeError) as error:
        raise CallerError(f"what was sent needs something that is not here: {error}") from error
    except _UNREADABLE as error:
        raise ProtocolError(f"the peer sent a pickle that cannot be read: {type(error).__name__}: {error}") from error


def _pickle_of(value: Value, *, trusted: bool) -> tuple[memoryview, Sequence[memoryview]]:
    """Return the pickle that lies beside a body, and the other buffers."""
    if not trusted:
        raise Denied("a pickle of another user is not read: it is a program")
    try:
        data = _bytes(value.body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"the peer sent a value that is none: {error}") from error
    if len(data) or not value.buffers:
        raise ProtocolError("the peer sent a value without its pickle")
    return value.buffers[0], value.buffers[1:]


def _decode_plain(value: Value) -> Any:
    body = memoryview(value.body)
    if len(body) == 1 and body[0] == 0xA0 and len(value.buffers) == 1:
        body = value.buffers[0]
    if _makes_too_many(body):
        raise ProtocolError(f"the peer sent a value of more than {PLAIN_OBJECTS_MAX} objects, which is the limit between users")
    try:
        word, found = _plain_decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"the peer sent a value that is none: {error}") from error
    if word != "v":
        raise ProtocolError("the peer sent a value that is none")
    return found
