"""Conversations: what two programs say to each other over a port, whatever carries it. Sans I/O: two shells (client/messages/) do the reading and writing.

A **session** outlives its connection. Whoever asks names it in his greeting; after a break he greets again and sends again what has not been answered,
and whoever answers does nothing twice: a request that is under way goes on, one that was answered is answered again from what is kept until it is acknowledged.

- At most once: after a *new incarnation* of the answering side has greeted, a request that had been sent ends with OutcomeUnknown, unless it may be done again.
- An item of a stream is kept until it was taken, so a stream goes on after a break where it was. All counting of items is absolute (the n-th), so a message
  that was lost with its connection, or is said twice, changes nothing.
- Bounded: REQUESTS_PER_PEER_MAX under way, STREAM_WINDOW_BYTES of items, KEPT_REPLIES_BYTES of answers that nobody has acknowledged. An answer that is kept
  no more ends the request, if it is asked again, with OutcomeUnknown: it was done.
"""

from collections import deque
from typing import Any, Final, NamedTuple

import msgspec

from unios.errors import OutcomeUnknown, ProtocolError, Unavailable, UniosError
from unios.limits import KEPT_REPLIES_BYTES, KEPT_REPLIES_MAX, REQUESTS_PER_PEER_MAX, STREAM_WINDOW_BYTES
from unios.undecodable import UNDECODABLE
from unios.wire.allowances import Allowance
from unios.wire.frames import Payload
from unios.wire.messages import ITEM_COST, Ack, Cancel, Credit, Fault, Hello, Part, Reply, Request
from unios.wire.values import Value

Said = Hello | Request | Reply | Fault | Cancel | Credit | Part | Ack
_decoder: Final[msgspec.msgpack.Decoder[Said]] = msgspec.msgpack.Decoder(Said)
ACK_BYTES: Final = 64 * 1024
"""After so many bytes of answers they are acknowledged at once, and not with the next request: they are kept for so long."""
ACK_COUNT: Final = 256
"""The same after so many answers that overtook an older one: a request acknowledges only those before the oldest that is open."""
ID_MAX: Final = 1 << 62
_REPLACED: Final = "whoever answered {op} has been replaced"
_FORGOTTEN: Final = "whoever answers {op} has forgotten what was asked, as the right to it was taken back or the connection was away for too long"


AROUND_BYTES_MAX: Final = 4 * 1024
"""Of a stranger's message, what may be around its value: an operation's name, numbers, what a newer peer adds."""
WORDS_BYTES_MAX: Final = 96 * 1024
"""The same where there is no value, or a text beside it: of a greeting, an acknowledgement, a fault."""


def decode(payload: Payload, trusted: bool = True) -> Said:
    """Return the message in a frame; ProtocolError if it is none, or if a stranger's has more around its value than belongs there: it holds the whole
    frame, and only the value is counted."""
    try:
        message = _decoder.decode(payload)
    except UNDECODABLE as error:
        raise ProtocolError(f"the peer sent a message that is none: {error}") from error
    if not trusted and _around(message, len(payload)):
        raise ProtocolError("the peer sent a message with too much around its value")
    return message


def _around(message: Said, size: int) -> bool:
    """Return whether there is more around the value of a message of so many bytes than belongs there."""
    if isinstance(message, Request | Reply):
        return size - len(memoryview(message.body)) > AROUND_BYTES_MAX
    if isinstance(message, Part):
        return size - len(message.data) > AROUND_BYTES_MAX
    return size - (len(memoryview(message.body)) if isinstance(message, Fault) else 0) > WORDS_BYTES_MAX


def cost_of(value: Value | None) -> int:
    """Return what a value takes of a window or a store, in bytes; an empty one takes room too."""
    if value is None:
        return ITEM_COST
    body, buffers, _trusted = value
    size = ITEM_COST + len(memoryview(body))
    return size + sum(buffer.nbytes for buffer in buffers) if buffers else size


_NO_ITEMS: Final[deque[Any]] = deque(maxlen=0)
"""Of what is no stream: one for all, which holds nothing."""


class Asked:
    """A request of ours. `ended` with `answer` or `failure`; a stream's items come before that."""

    __slots__ = ("again", "answer", "ended", "failure", "granted", "id", "items", "on", "oneway", "op", "sent", "stream", "taken", "unread", "value")

    def __init__(self, id_: int, op: str, value: Value, again: bool, stream: bool, oneway: bool) -> None:
        self.id, self.op, self.value = id_, op, value
        self.again, self.stream, self.oneway = again, stream, oneway
        self.sent = self.ended = False
        self.on: object = None
        """The connection on which it was sent last: the shell's to use."""
        self.answer: Value | None = None
        """What was answered; with a Fault, the value of that."""
        self.failure: Fault | UniosError | None = None
        self.items: deque[Value] = deque() if stream else _NO_ITEMS
        """Those that have come and were not taken."""
        self.taken = 0
        self.granted = 0
        """Bytes taken since credit was granted."""
        self.unread = 0

    @property
    def have(self) -> int:
        """How many items have come."""
        return self.taken + len(self.items)

    def request(self, ack: int, buffers: tuple[tuple[int, int, int], ...], descriptors: int) -> Request:
        """Return the message that asks."""
        if ack >= self.id:
            ack = self.id - 1
        if not (self.stream or buffers or descriptors):
            return Request(self.id, self.op, self.value[0], "", "", 0, 0, ack, self.oneway)
        return Request(self.id, self.op, self.value.body, "", "", descriptors, 0, ack, self.oneway, self.stream, self.have, buffers, self.taken)


class Asking:
    """The asking side of one session."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.open: dict[int, Asked] = {}
        self._next = 1
        self._incarnation = ""
        self._loose: list[int] = []
        """Those that have overtaken an older one since we acknowledged: the next request does not acknowledge them."""
        self._loose_bytes = 0
        """Of answers that have come since we acknowledged."""

    def hello(self, version: tuple[int, int]) -> Hello:
        """Return the greeting of each new connection."""
        return Hello(*version, "program", {"session": self.session})

    @property
    def is_full(self) -> bool:
        """Whether `ask` would be refused."""
        return len(self.open) >= REQUESTS_PER_PEER_MAX

    def ask(self, op: str, value: Value, *, again: bool = False, stream: bool = False, oneway: bool = False) -> Asked:
        """Begin a request. Unavailable if REQUESTS_PER_PEER_MAX are under way: some must be answered first. One-way: call `left` once it is sent."""
        if self.is_full:
            raise Unavailable(f"{REQUESTS_PER_PEER_MAX} calls are under way on this port: wait for some of them")
        asked = self.make(op, value, again, stream, oneway)
        self.open[asked.id] = asked
        return asked

    def make(self, op: str, value: Value, again: bool, stream: bool, oneway: bool) -> Asked:
        """As `ask`, for who enters it in `open` himself, unless that is full."""
        asked = Asked(self._next, op, value, again, stream, oneway)
        self._next += 1
        if not self._loose:
            self._loose_bytes = 0  # it acknowledges all that has come
        return asked

    def left(self, asked: Asked) -> None:
        """A one-way message is sent whole: nothing more will come of it."""
        asked.ended = True
        self.open.pop(asked.id, None)

    @property
    def ack(self) -> int:
        """The answers to all requests up to this id have come."""
        for first in self.open:  # not next(iter()): between two calls another thread's collector may take one out
            return first - 1
        return self._next - 1

    @property
    def owes_acknowledgement(self) -> bool:
        """Whether it is to be said now, so that answers are not kept for long; else the next request says it in time."""
        return self._loose_bytes >= ACK_BYTES or len(self._loose) >= ACK_COUNT

    def acknowledgement(self) -> Ack | None:
        """Return what to say now, None if nothing."""
        if not self.owes_acknowledgement:
            return None
        upto = self.ack
        loose, self._loose, self._loose_bytes = self._loose, [], 0
        return Ack(upto, tuple(id_ for id_ in loose if id_ > upto))

    def greeted(self, theirs: Hello) -> tuple[list[Asked], list[Asked]]:
        """Take the greeting of a new connection in; return what is to be sent again, and what has failed by it. Say `waiting` before the former."""
        incarnation, known = theirs.facts.get("incarnation", ""), theirs.facts.get("session", "") == "known"
        went_on = known and incarnation == self._incarnation
        why = _REPLACED if incarnation != self._incarnation else _FORGOTTEN
        self._incarnation = incarnation
        again, failed = [], []
        for asked in list(self.open.values()):
            if not asked.sent or went_on or (asked.again and not asked.have):
                again.append(asked)
            else:
                failed.append(self.fail(asked, OutcomeUnknown(f"{why.format(op=asked.op)}: whether it was done is not known")))
        return again, failed

    def waiting(self) -> Ack:
        """Return what to say first on a new connection: what we still wait for. What we withdrew while we were away ends by that."""
        self._loose, self._loose_bytes = [], 0
        return Ack(self.ack, (), tuple(self.open))

    def fail(self, asked: Asked, failure: UniosError) -> Asked:
        """End a request here."""
        asked.failure = failure
        asked.ended = True
        self.open.pop(asked.id, None)
        return asked

    def heard(self, message: Reply | Fault, value: Value | None) -> Asked | None:
        """Take an answer in; return whose it is, None if nobody waits for it any more."""
        asked = self.open.get(message.id)
        if asked is None:
            return None
        if type(message) is Reply and message.more:
            self._heard_item(asked, value)
            return asked
        # In this order: a signal's handler may raise between any two of these, and then all is asked again.
        asked.answer = value
        asked.failure = None if type(message) is Reply else message  # type: ignore[assignment]
        asked.ended = True
        self.open.pop(message.id, None)
        for first in self.open:  # as in `ack`
            if first < message.id:
                self._loose.append(message.id)
            break
        self._loose_bytes += cost_of(value)
        return asked

    def _heard_item(self, asked: Asked, value: Value | None) -> None:
        if not asked.stream or value is None:
            raise ProtocolError("the peer sent more answers than one")
        if asked.unread >= STREAM_WINDOW_BYTES:  # what was taken counts no more: a request that was sent again has granted it already
            raise ProtocolError("the peer sent items without credit")
        asked.unread += cost_of(value)
        asked.items.append(value)

    def take(self, asked: Asked) -> tuple[Value, Credit | None]:
        """Take the next item that has come, and return it with the credit to grant: by half windows, and by quarters when none is left to be read."""
        value = asked.items.popleft()
        asked.taken += 1
        size = cost_of(value)
        asked.unread -= size
        asked.granted += size
        if asked.ended or asked.granted < (STREAM_WINDOW_BYTES // 2 if asked.items else STREAM_WINDOW_BYTES // 4):
            return value, None
        granted, asked.granted = asked.granted, 0
        return value, Credit(asked.id, granted, upto=asked.taken)


class Begun:
    """A request that is under way on the answering side."""

    __slots__ = ("_allowance", "_size", "cancelled", "first", "held", "id", "items", "oneway")

    def __init__(self, id_: int, *, oneway: bool = False, stream: bool = False, allowance: Allowance | None = None, size: int = 0) -> None:
        self.id, self.oneway = id_, oneway
        self._allowance, self._size = allowance, size
        self.cancelled = False
        self.first = 0
        """The number of the first of `items`."""
        self.items: deque[tuple[int, Value | None]] = deque() if stream else _NO_ITEMS
        """Of a stream, those that nobody has taken: (cost, value or None if it cannot be sent again)."""
        self.held = 0

    def release(self) -> None:
        """What was sent with it is held no more: its handler has ended, whatever came of it. Idempotent."""
        if self._allowance is not None:
            self._allowance.give(self._size)
            self._allowance = None

    @property
    def room(self) -> int:
        """Bytes of items that may be sent now; may fall below 0 by one item."""
        return STREAM_WINDOW_BYTES - self.held

    @property
    def sent(self) -> int:
        """How many items have been sent."""
        return self.first + len(self.items)

    def taken(self, upto: int) -> int:
        """So many items have been taken; return how many bytes that frees. ProtocolError if there were not so many."""
        if not 0 <= upto <= self.sent:
            raise ProtocolError("the peer took items that were not sent")
        freed = 0
        while self.first < upto:
            freed += self.items.popleft()[0]
            self.first += 1
        self.held -= freed
        return freed

    def after(self, have: int) -> list[Value] | None:
        """Return the items from the `have`-th on, None if one of them cannot be sent again."""
        if not self.first <= have <= self.sent:
            raise ProtocolError("the peer has items that were not sent")
        found = [value for number, (_cost, value) in enumerate(self.items, self.first) if number >= have]
        return None if None in found else found  # type: ignore[return-value]


class Again(NamedTuple):
    """What to send for a request that was asked again: items of its stream, and how it has ended, if it has."""

    items: list[Value]
    message: Reply | Fault | None = None
    value: Value | None = None


class _Kept(NamedTuple):
    message: Reply | Fault
    value: Value | None
    begun: Begun
    size: int


def _no_allowance(id_: int) -> Fault:
    why = "this port holds as much of what you have sent as it takes of another user: it was not begun. Wait for what is under way, or send less at a time"
    return Fault(id_, Unavailable.code, why)


def _lost(id_: int) -> Fault:
    return Fault(id_, OutcomeUnknown.code, "it was done, and its answer is not kept any more: the connection broke, and it was large, or one of many")


class Answering:
    """The answering side of one session of one user. `kept_max`: bytes of answers that are kept. `allowance`: of what is under way, for a stranger."""

    def __init__(self, user: str, *, kept_max: int = KEPT_REPLIES_BYTES, allowance: Allowance | None = None) -> None:
        self.user = user
        self._allowance = allowance
        self._kept_max = kept_max
        self._open: dict[int, Begun] = {}
        self._kept: dict[int, _Kept] = {}
        """What has ended and is not acknowledged, the oldest first; one without its value is there so that it is not done again."""
        self._full: deque[int] = deque()
        """Of those the ones that hold something."""
        self.kept_bytes = 0
        self._acked = 0

    def begin(self, request: Request, value: Value | None = None) -> Begun | Again | None:
        """Take a request in. Return what has begun; or what to send again if it was asked before; or None: there is nothing to be said now.

        `value`: what was sent with it. A stranger's request for which there is no allowance is not begun: what to send says so. A stream's window counts too.
        ProtocolError if too many are under way, or too many answers were never acknowledged.
        """
        if request.id > ID_MAX or request.id <= 0:
            raise ProtocolError("the peer counts wrongly")
        if request.ack > self._acked:
            self.acked(min(request.ack, request.id - 1))
        if (kept := self._kept.get(request.id)) is not None:
            return self._again(kept, request)
        if (begun := self._open.get(request.id)) is not None:
            return self._go_on(begun, request)
        if request.id <= self._acked:
            return None
        if len(self._open) >= REQUESTS_PER_PEER_MAX:
            raise ProtocolError("the peer asks for more at a time than is allowed")
        if len(self._kept) >= KEPT_REPLIES_MAX:
            raise ProtocolError("the peer acknowledges nothing")
        size = 0
        if self._allowance is not None and not self._allowance.take(size := cost_of(value) + (STREAM_WINDOW_BYTES if request.stream else 0)):
            return None if request.oneway else Again([], _no_allowance(request.id))
        begun = Begun(request.id, oneway=request.oneway, stream=request.stream, allowance=self._allowance, size=size)
        self._open[request.id] = begun
        return begun

    def _again(self, kept: _Kept, request: Request) -> Again | None:
        if request.oneway:
            return None
        if kept.begun.items:
            kept.begun.taken(request.taken)
            items = kept.begun.after(request.have)
            return Again([], _lost(request.id)) if items is None else Again(items, kept.message, kept.value)
        return Again([], kept.message, kept.value)

    def _go_on(self, begun: Begun, request: Request) -> Again | None:
        if not request.stream:
            return None
        begun.taken(request.taken)
        items = begun.after(request.have)
        if items is None:
            self.cancel(begun.id)
            return Again([], _lost(begun.id))
        return Again(items)

    def item(self, begun: Begun, value: Value, *, keep: bool = True) -> Reply:
        """Return the message of the next item of a stream; it is kept until it is taken. `keep`: it could be sent again then, for nobody changes it."""
        size = cost_of(value)
        begun.items.append((size, value if keep else None))
        begun.held += size
        return Reply(begun.id, value.body, more=True)

    def credited(self, credit: Credit) -> None:
        """Items have been taken."""
        if (begun := self._open.get(credit.id)) is not None:
            begun.taken(max(credit.upto, begun.first))
        elif (kept := self._kept.get(credit.id)) is not None and kept.begun.items:
            freed = kept.begun.taken(max(credit.upto, kept.begun.first))
            self.kept_bytes -= freed
            self._kept[credit.id] = kept._replace(size=kept.size - freed)

    def end(self, begun: Begun, message: Reply | Fault, value: Value | None, *, keep: bool = True) -> None:
        """It has been answered so; kept until it is acknowledged, or KEPT_REPLIES_BYTES of later ones are."""
        if self._allowance is not None:
            begun.release()
        if self._open.pop(begun.id, None) is None or begun.id <= self._acked:
            return
        size = cost_of(value) + begun.held
        if isinstance(message, Fault):
            size += len(message.text) + len(memoryview(message.body))
        if not keep or size > self._kept_max:
            message, value, size, begun = _lost(begun.id), None, 0, Begun(begun.id)
        self._kept[begun.id] = _Kept(message, value, begun, size)
        self.kept_bytes += size
        if size:
            self._full.append(begun.id)
        while self.kept_bytes > self._kept_max:
            self._empty(self._full.popleft())

    def _empty(self, id_: int) -> None:
        """Keep of an answer only that it was given."""
        if (kept := self._kept.get(id_)) is not None and kept.size:
            self.kept_bytes -= kept.size
            self._kept[id_] = _Kept(_lost(id_), None, Begun(id_), 0)

    def lost(self, begun: Begun, fault: Fault) -> None:
        """What was to be the answer cannot be sent: this is it now."""
        if (kept := self._kept.get(begun.id)) is not None:
            self.kept_bytes -= kept.size
            self._kept[begun.id] = _Kept(fault, None, Begun(begun.id), 0)

    def cancel(self, id_: int) -> None:
        """Nobody waits for it any more. What has begun is not begun again."""
        if (begun := self._open.pop(id_, None)) is not None:
            begun.cancelled = True
            if id_ > self._acked:
                self._kept[id_] = _Kept(_lost(id_), None, Begun(id_), 0)
        else:
            self._empty(id_)

    def acked(self, upto: int, ids: tuple[int, ...] = (), open_: tuple[int, ...] | None = None) -> None:
        """The answers to all up to this id have come, and those of `ids`. Of those before, with `open_`, only these are still waited for."""
        if upto > self._acked:
            self._acked = upto
            for id_ in [id_ for id_ in self._kept if id_ <= upto]:
                self.kept_bytes -= self._kept.pop(id_).size
        for id_ in ids:
            self._forget(id_)
        if open_ is not None:
            for id_ in self._open.keys() - set(open_):
                if not self._open[id_].oneway:
                    self.cancel(id_)
        if len(self._full) > 2 * len(self._kept) + ACK_COUNT:
            self._full = deque(id_ for id_ in self._full if id_ in self._kept)

    def _forget(self, id_: int) -> None:
        if (kept := self._kept.pop(id_, None)) is not None:
            self.kept_bytes -= kept.size

    @property
    def kept(self) -> int:
        """How many answers nobody has acknowledged."""
        return len(self._kept)

    def leave(self) -> None:
        """Nobody comes back to this session: cancel what is under way, keep nothing."""
        for id_ in list(self._open):
            self.cancel(id_)
        self._kept.clear()
        self._full.clear()
        self.kept_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost if it were forgotten."""
        return not self._open and not self._kept
