"""The messages of a connection: each side greets, then either may ask.

- `Hello` is the first frame each way and agrees on a protocol version.
- `Request` is answered by any number of `Reply(more=True)`, then by one `Reply(more=False)` or one `Fault`.
- `Item` carries more input to a request that is under way; `Cancel` withdraws it.
- `Credit` allows the other side to send that many more bytes of items; it is how back-pressure crosses a connection.

Bodies are msgpack of the operation's own type. Unknown fields are ignored by construction (msgspec): a newer peer may add some.
"""

from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from unios import __version__
from unios.errors import ProtocolError
from unios.undecodable import UNDECODABLE
from unios.wire.frames import Payload, frame, length_of

T = TypeVar("T")
PROTOCOL_MIN: Final = 1
PROTOCOL_MAX: Final = 1
LARGE_BODY_BYTES: Final = 4 * 1024
ITEM_COST: Final = 64
"""What each item counts against the window beside its own bytes: an empty one takes room too."""


def cost(body: msgspec.Raw) -> int:
    """Return what an item takes of the window that Credit grants."""
    return len(memoryview(body)) + ITEM_COST


class Hello(msgspec.Struct, frozen=True, tag="hello", omit_defaults=True):
    """`facts` is free text about the sender: node, system, incarnation."""

    protocol_min: int
    protocol_max: int
    role: str = ""
    facts: dict[str, str] = {}


class Brought(NamedTuple):
    """Of an object that comes along with a reference to it: its id, its pickle's body, and where in the descriptor its one buffer lies."""

    id: str
    body: bytes
    offset: int
    size: int


class Request(msgspec.Struct, frozen=True, tag="request", omit_defaults=True):
    """`node`: to be done by that node, empty for the one that reads it. `user`: on whose behalf; only kernels are believed.
    `hops`: how many kernels have passed it on because the process it is about was elsewhere.
    What follows is for programs (wire/conversations.py). `ack`: the answers to all up to this id have come. `oneway`: it is not answered. `stream`: many
    answers are wanted. `have`: so many of them have come, `taken`: so many of these were read. `buffers`: (descriptor or -1, offset, size) of each large
    buffer of the body. `brought`: the one descriptor is that of an object, and may be left alone (client/messages/bringing.py)."""

    id: int
    op: str
    body: msgspec.Raw = msgspec.Raw(b"\xc0")
    node: str = ""
    user: str = ""
    descriptors: int = 0
    hops: int = 0
    ack: int = 0
    oneway: bool = False
    stream: bool = False
    have: int = 0
    buffers: tuple[tuple[int, int, int], ...] = ()
    taken: int = 0
    brought: Brought | None = None


class Reply(msgspec.Struct, frozen=True, tag="reply", omit_defaults=True):
    id: int
    body: msgspec.Raw = msgspec.Raw(b"\xc0")
    more: bool = False
    descriptors: int = 0
    buffers: tuple[tuple[int, int, int], ...] = ()


class Fault(msgspec.Struct, frozen=True, tag="fault", omit_defaults=True):
    id: int
    code: str
    text: str = ""
    body: msgspec.Raw = msgspec.Raw(b"\xc0")
    """Between programs: the exception itself."""


class Item(msgspec.Struct, frozen=True, tag="item", omit_defaults=True):
    """From the asking side to a request under way; `end` says that no more will come."""

    id: int
    body: msgspec.Raw = msgspec.Raw(b"\xc0")
    end: bool = False


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    id: int


class Credit(msgspec.Struct, frozen=True, tag="credit", omit_defaults=True):
    """`to_asker`: the sender is the answering side and grants room for items; else the asker grants room for replies.
    `upto`, between programs: so many items have been taken since the stream began; this and not `bytes` counts."""

    id: int
    bytes: int
    to_asker: bool = False
    upto: int = 0


class Part(msgspec.Struct, frozen=True, tag="part", omit_defaults=True):
    """Between programs: a piece of the buffers of the message `id` that comes next, which have `total` bytes in all."""

    id: int
    total: int
    data: memoryview

    @classmethod
    def begun(cls, begin: memoryview, length: int) -> "tuple[int, Part] | None":
        """Return the part at the beginning of a frame of so many bytes, with its data left out, and how many bytes go before that. None if it is none, or
        not as `encode` writes it, or not all of that has come."""
        if bytes(begin[:11]) != _PART_BEGIN:
            return None
        head = bytes(begin[:_PART_HEAD_BYTES_MAX])
        at = head.find(_PART_DATA) + len(_PART_DATA)
        if at < len(_PART_DATA) or len(head) < at + 4 or int.from_bytes(head[at : at + 4], "big") != length - at - 4:
            return None
        try:
            return at + 4, _part_decoder.decode(head[: at - 1] + b"\xc4\x00")
        except UNDECODABLE:
            return None


_PART_BEGIN: Final = b"\x84\xa4type\xa4part"
_PART_DATA: Final = b"\xa4data\xc6"
_PART_HEAD_BYTES_MAX: Final = 64
_part_decoder: Final = msgspec.msgpack.Decoder(Part)


class Ack(msgspec.Struct, frozen=True, tag="ack", omit_defaults=True):
    """Between programs: the answers to all requests up to `id` have come, and to those of `ids`. `open`, on a new connection: of those that were asked
    before, only these are still waited for."""

    id: int
    ids: tuple[int, ...] = ()
    open: tuple[int, ...] | None = None


Message = Hello | Request | Reply | Fault | Item | Cancel | Credit

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message | Part | Ack) -> bytes:
    return _encoder.encode(message)


Pieces = tuple[bytes | memoryview, ...]
"""A frame; its bytes are these, one behind the other."""


def framed(message: Message) -> Pieces:
    """Return a message as a frame; a large body is a piece of its own, and not copied."""
    if isinstance(message, Reply | Item) and not (isinstance(message, Reply) and message.buffers):
        body = memoryview(message.body)
        if len(body) > LARGE_BODY_BYTES:
            head, tail = around(message)
            return length_of(head, body, tail) + head, body, tail
    return (frame(_encoder.encode(message)),)


def around(message: Reply | Item) -> tuple[bytes, bytes]:
    """Return what the encoder would write before and after the body."""
    kind, more = (b"\xa5reply", message.more) if isinstance(message, Reply) else (b"\xa4item", False)
    descriptors = message.descriptors if isinstance(message, Reply) else 0
    end = message.end if isinstance(message, Item) else False
    fields = 3 + bool(more) + bool(descriptors) + bool(end)
    tail = (b"\xa4more\xc3" if more else b"") + (b"\xabdescriptors" + _encoder.encode(descriptors) if descriptors else b"")
    return b"%c\xa4type%b\xa2id%b\xa4body" % (0x80 | fields, kind, _encoder.encode(message.id)), tail + (b"\xa3end\xc3" if end else b"")


def decode(payload: Payload) -> Message:
    """Return the message in a frame; ProtocolError if it is none."""
    try:
        return _decoder.decode(payload)
    except UNDECODABLE as error:
        raise ProtocolError(f"the peer sent a message that is none: {error}") from error


def pack(body: object) -> msgspec.Raw:
    """Return a body for a message; one that is packed already as it is."""
    if isinstance(body, msgspec.Raw):
        return body
    return msgspec.Raw(_encoder.encode(body))


def unpack(body: msgspec.Raw, type_: type[T] | Any) -> Any:
    """Return what the other side sent; ProtocolError if it is not of that type."""
    try:
        return msgspec.msgpack.decode(body, type=type_)
    except UNDECODABLE as error:
        raise ProtocolError(f"the peer sent an answer that is none: {error}") from error


class VersionsApart(ProtocolError):
    """The two sides have no version of the protocol in common: only a person can mend it."""


def agree(theirs: Hello) -> int:
    """Return the newest protocol version that both sides speak; VersionsApart if there is none."""
    version = min(PROTOCOL_MAX, theirs.protocol_max)
    if version < max(PROTOCOL_MIN, theirs.protocol_min):
        who, release = theirs.facts.get("node", "the peer")[:80], theirs.facts.get("version", "")[:40]
        raise VersionsApart(
            f"{who} speaks protocol {theirs.protocol_min} to {theirs.protocol_max}{f' (unios {release})' if release else ''}, this side {PROTOCOL_MIN} to "
            f"{PROTOCOL_MAX} (unios {__version__}): upgrade the older of the two, which is {who if theirs.protocol_max < PROTOCOL_MIN else 'this side'}"
        )
    return version
