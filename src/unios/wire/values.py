"""Values: Python objects as bodies of messages.

Between processes of one user they are pickles (protocol 5), large buffers beside them uncopied. A pickle is a program, so from another user's process none is
read: then a value is msgpack (None, numbers, text, bytes, lists, dictionaries, dates; a tuple arrives as a list). What does not fit is refused with a sentence.
"""

import pickle
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from unios.errors import CallerError, Denied, ProtocolError
from unios.limits import FRAME_BYTES_MAX

BESIDE_BYTES: Final = 32 * 1024
"""A buffer of so many bytes travels beside its pickle, and so does a pickle that is itself so large as PICKLE_BYTES."""
PICKLE_BYTES: Final = 256 * 1024
STRANGER_BYTES_MAX: Final = FRAME_BYTES_MAX - 64 * 1024
LARGE_BYTES: Final = 64 * 1024
_encoder: Final = msgspec.msgpack.Encoder()
_bytes: Final = msgspec.msgpack.Decoder(memoryview).decode
_PICKLED: Final = (0xC4, 0xC5, 0xC6)
"""msgpack's bytes: a body that is just that is a pickle."""
_BESIDE: Final = msgspec.Raw(b"\xc4\x00")
"""The pickle is the first of the buffers."""


class Value(NamedTuple):
    """A body, and the large buffers beside it."""

    body: msgspec.Raw
    buffers: Sequence[memoryview] = ()

    @property
    def is_large(self) -> bool:
        """Whether it is worth a message of its own to let it go."""
        return bool(self.buffers) or len(memoryview(self.body)) >= LARGE_BYTES


NOTHING: Final = Value(msgspec.Raw(b"\xc4\x04" + pickle.dumps(None, 5)))
NOTHING_PLAIN: Final = Value(msgspec.Raw(b"\xc0"))


def encode(value: object, *, trusted: bool) -> Value:
    """Return a value for the wire; `trusted`: the other side is of the same user. CallerError if it cannot travel."""
    if not trusted:
        try:
            data = _encoder.encode(["v", value])
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise CallerError(f"this cannot be sent to another user's process: {error}") from error
        if len(data) > STRANGER_BYTES_MAX:
            raise CallerError(f"this has {len(data)} bytes; to another user's process {STRANGER_BYTES_MAX} may be sent at a time")
        return Value(msgspec.Raw(data))
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
        data = pickle.dumps(value, 5, buffer_callback=beside)
    except Exception as error:
        raise CallerError(f"this cannot be sent: {type(error).__name__}: {error}") from error
    if len(data) >= PICKLE_BYTES:
        return Value(_BESIDE, [memoryview(data), *buffers])
    return Value(msgspec.Raw(_encoder.encode(data)), buffers)


def decode(value: Value, *, trusted: bool) -> Any:
    """Return the object. Denied for a pickle of another user, ProtocolError for what is no value, CallerError if the class cannot be found here."""
    body = memoryview(value.body)
    if body[0] not in _PICKLED:
        try:
            word, found = msgspec.msgpack.decode(body, type=tuple[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"the peer sent a value that is none: {error}") from error
        if word != "v":
            raise ProtocolError("the peer sent a value that is none")
        return found
    if not trusted:
        raise Denied("a pickle of another user is not read: it is a program")
    buffers = value.buffers
    data: memoryview | bytes
    try:
        data = _bytes(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"the peer sent a value that is none: {error}") from error
    if not len(data):
        if not buffers:
            raise ProtocolError("the peer sent a value without its pickle")
        data, *buffers = buffers
    try:
        return pickle.loads(data, buffers=buffers)
    except (ImportError, AttributeError) as error:
        raise CallerError(f"what was sent needs something that is not here: {error}") from error
    except Exception as error:
        raise ProtocolError(f"the peer sent a pickle that cannot be read: {type(error).__name__}: {error}") from error
