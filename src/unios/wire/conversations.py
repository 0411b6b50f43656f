"""Conversations: what two programs say to each other over a port, whatever carries it. Sans I/O: two shells (client/messages/) do the reading and writing.

A **session** outlives its connection. Whoever asks names it in his greeting; after a break he greets again and sends again what has not been answered,
and whoever answers does nothing twice: a request that is under way goes on, one that was answered is answered again from what is kept until it is acknowledged.

- At most once: after a *new incarnation* of the answering side has greeted, a request that had been sent ends with OutcomeUnknown, unless it may be done again.
- An item of a stream is kept until credit for it has come, so a stream goes on after a break where it was.
- Bounded: REQUESTS_PER_PEER_MAX under way, STREAM_WINDOW_BYTES of items, KEPT_REPLIES_BYTES of answers that nobody has acknowledged.
"""

import contextlib
import mmap
from collections import deque
from typing import Final

import msgspec

from unios.errors import OutcomeUnknown, ProtocolError, Unavailable, UniosError
from unios.limits import REQUESTS_PER_PEER_MAX, STREAM_WINDOW_BYTES
from unios.wire.frames import Payload
from unios.wire.messages import Ack, Cancel, Credit, Fault, Hello, Part, Reply, Request, cost
from unios.wire.values import Value

Said = Hello | Request | Reply | Fault | Cancel | Credit | Part | Ack
_decoder: Final[msgspec.msgpack.Decoder[Said]] = msgspec.msgpack.Decoder(Said)
_LARGE_BYTES: Final = 4 * 1024 * 1024


def decode(payload: Payload) -> Said:
    """Return the message in a frame; ProtocolError if it is none."""
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the peer sent a message that is none: {error}") from error


class Asked:
    """A request of ours. `ended` with `answer` or `failure`; a stream's items come before that."""

    again = stream = oneway = sent = ended = False
    answer: Value | None = None
    failure: Fault | UniosError | None = None
    have = owed = 0
    items: "deque[Value] | tuple[()]" = ()
    # What most calls never set is the class's: to set it for each call would be half of what an Asked costs.

    def __init__(self, id_: int, op: str, value: Value) -> None:
        self.id, self.op, self.value = id_, op, value

    def take(self) -> Value:
        """Return the next item that has come; there is one."""
        assert isinstance(self.items, deque)
        return self.items.popleft()

    def request(self, ack: int, buffers: tuple[tuple[int, int, int], ...], descriptors: int) -> Request:
        """Return the message that asks."""
        ack = min(ack, self.id - 1)  # one that is not answered is not waited for either
        return Request(self.id, self.op, self.value.body, "", "", descriptors, 0, ack, self.oneway, self.stream, self.have, buffers)


class Asking:
    """The asking side of one session."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.open: dict[int, Asked] = {}
        self._next = 1
        self._incarnation = ""

    def hello(self, version: tuple[int, int]) -> Hello:
        """Return the greeting of each new connection."""
        return Hello(*version, "program", {"session": self.session})

    def ask(self, op: str, value: Value, *, again: bool = False, stream: bool = False, oneway: bool = False) -> Asked:
        """Begin a request. Unavailable if REQUESTS_PER_PEER_MAX are under way: some must be answered first."""
        if len(self.open) >= REQUESTS_PER_PEER_MAX:
            raise Unavailable(f"{REQUESTS_PER_PEER_MAX} calls are under way on this port: wait for some of them")
        asked = Asked(self._next, op, value)
        self._next += 1
        if again:
            asked.again = True
        if stream:
            asked.stream, asked.items = True, deque()
        if oneway:
            asked.oneway = True
        else:
            self.open[asked.id] = asked
        return asked

    @property
    def ack(self) -> int:
        """The answers to all requests up to this id have come."""
        for id_ in self.open:
            return id_ - 1
        return self._next - 1

    def greeted(self, theirs: Hello) -> tuple[list[Asked], list[Asked]]:
        """Take the greeting of a new connection in; return what is to be sent again, and what has failed by it."""
        incarnation, known = theirs.facts.get("incarnation", ""), theirs.facts.get("session", "") == "known"
        went_on = known and incarnation == self._incarnation
        self._incarnation = incarnation
        again, failed = [], []
        for asked in list(self.open.values()):
            if not asked.sent or went_on or (asked.again and not asked.have):
                again.append(asked)
            else:
                failed.append(self.fail(asked, OutcomeUnknown(f"whoever answered {asked.op} has been replaced: whether it was done is not known")))
        return again, failed

    def fail(self, asked: Asked, failure: UniosError) -> Asked:
        """End a request here."""
        self.open.pop(asked.id, None)
        asked.ended, asked.failure = True, failure
        return asked

    def heard(self, message: Reply | Fault, value: Value | None) -> Asked | None:
        """Take an answer in; return whose it is, None if nobody waits for it any more."""
        if type(message) is Reply and not message.more:
            asked = self.open.pop(message.id, None)
            if asked is not None:
                asked.answer = value
                asked.ended = True
            return asked
        asked = self.open.get(message.id)
        if asked is None:
            return None
        if isinstance(message, Reply):
            if value is None or not isinstance(asked.items, deque):
                raise ProtocolError("the peer sends items where one answer is wanted")
            asked.items.append(value)
            asked.have += 1
            asked.owed += cost(message.body)
            if asked.owed > STREAM_WINDOW_BYTES * 2 + len(memoryview(message.body)):
                raise ProtocolError("the peer sent items without credit")
            return asked
        del self.open[asked.id]
        asked.ended, asked.failure = True, message
        return asked

    def credit(self, asked: Asked) -> Credit | None:
        """Return the credit to grant after an item was taken: by half windows, and all of it when none is left to be read."""
        if asked.ended or asked.owed < (STREAM_WINDOW_BYTES // 2 if asked.items else STREAM_WINDOW_BYTES // 4):
            return None
        owed, asked.owed = asked.owed, 0
        return Credit(asked.id, owed)


class Begun:
    """A request that is under way on the answering side."""

    cancelled = False
    room = STREAM_WINDOW_BYTES
    items: "deque[tuple[int, Value]] | tuple[()]" = ()
    """Of a stream, those for which no credit has come: (cost, value)."""
    sent = 0
    """How many items have been sent."""

    def __init__(self, id_: int) -> None:
        self.id = id_


class Answering:
    """The answering side of one session of one user."""

    def __init__(self, user: str) -> None:
        self.user = user
        self._open: dict[int, Begun] = {}
        self._kept: dict[int, tuple[Reply | Fault, Value | None]] = {}
        self._acked = 0

    def begin(self, request: Request) -> Begun | tuple[Reply | Fault, Value | None] | list[Value] | None:
        """Take a request in. Return what has begun; or the answer that is kept for it; or the items of its stream to send again; or None: it goes on.

        ProtocolError if too many are under way.
        """
        if request.ack > self._acked:
            self.acked(request.ack)
        if (kept := self._kept.get(request.id)) is not None:
            return kept
        if (begun := self._open.get(request.id)) is not None:
            first = begun.sent - len(begun.items)
            return [value for number, (_cost, value) in enumerate(begun.items, first) if number >= request.have] or None
        if request.id <= self._acked:
            return None
        if len(self._open) >= REQUESTS_PER_PEER_MAX:
            raise ProtocolError("the peer asks for more at a time than is allowed")
        begun = Begun(request.id)
        if not request.oneway:
            self._open[request.id] = begun
        return begun

    def item(self, begun: Begun, value: Value) -> Reply:
        """Return the message of the next item of a stream; it is kept until credit for it comes."""
        size = cost(value.body)
        if not isinstance(begun.items, deque):
            begun.items = deque()
        begun.items.append((size, value))
        begun.sent += 1
        begun.room -= size
        return Reply(begun.id, value.body, more=True)

    def credited(self, credit: Credit) -> None:
        """Room for that many more bytes; what it is for has arrived."""
        begun = self._open.get(credit.id)
        if begun is None:
            return
        if not 0 < credit.bytes <= STREAM_WINDOW_BYTES * 16:
            raise ProtocolError("the peer granted credit out of bounds")
        begun.room += credit.bytes
        left = credit.bytes
        while isinstance(begun.items, deque) and begun.items and left >= begun.items[0][0]:
            left -= begun.items.popleft()[0]

    def end(self, begun: Begun, message: Reply | Fault, value: Value | None) -> None:
        """It has been answered so; kept until it is acknowledged."""
        if self._open.pop(begun.id, None) is not None and begun.id > self._acked:
            self._kept[begun.id] = (message, value)

    def cancel(self, id_: int) -> None:
        """Nobody waits for it any more."""
        self._kept.pop(id_, None)
        if (begun := self._open.pop(id_, None)) is not None:
            begun.cancelled = True

    def acked(self, upto: int) -> None:
        """The answers to all up to this id have come."""
        self._acked = max(self._acked, upto)
        if self._kept:
            for id_ in [id_ for id_ in self._kept if id_ <= upto]:
                del self._kept[id_]

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost if it were forgotten."""
        return not self._open and not self._kept


class Gathering:
    """Puts the parts of large buffers together, for one connection. `bytes_max`: of one message."""

    def __init__(self, bytes_max: int) -> None:
        self._max = bytes_max
        self._begun: dict[int, tuple[memoryview, int]] = {}

    def add(self, part: Part) -> None:
        """Take a piece in. ProtocolError if it does not fit what was announced, or that is over the bound."""
        room, filled = self._begun.get(part.id) or (None, 0)
        if room is None:
            if not 0 < part.total <= self._max or len(self._begun) >= 16:
                raise ProtocolError(f"the peer announced {part.total} bytes; the limit is {self._max}")
            room = _room(part.total)
        if part.total != len(room) or filled + len(part.data) > part.total:
            raise ProtocolError("the peer sent more than it had announced")
        room[filled : filled + len(part.data)] = part.data
        self._begun[part.id] = (room, filled + len(part.data))

    def take(self, id_: int, total: int) -> memoryview:
        """Return what has come for a message; ProtocolError if that is not `total` bytes."""
        room, filled = self._begun.pop(id_, (memoryview(b""), 0))
        if filled != total:
            raise ProtocolError(f"the peer sent {filled} bytes of {total}")
        return room


def _room(size: int) -> memoryview:
    """Return memory that is taken when it is written to, in large pages where there are some: small ones cost more than what is read into them."""
    if size < _LARGE_BYTES:
        return memoryview(bytearray(size))
    room = mmap.mmap(-1, size)
    with contextlib.suppress(OSError):  # a Linux without
        room.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(room)
