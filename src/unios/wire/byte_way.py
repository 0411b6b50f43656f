"""A byte way: a request under way as a two-way stream of bytes, for one who has no task for it. Its items are pieces of bytes; nothing is copied here.

Back-pressure is that of any request: what may be sent is bounded by the other side's credit and by what waits in the connection, what has come stays in the
inbox, and thereby without credit, until it has been `passed` on.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from unios.errors import ProtocolError
from unios.limits import SEND_AHEAD_BYTES, STREAM_WINDOW_BYTES, WIDE_CHUNK_BYTES
from unios.wire.chunks import bin_head
from unios.wire.flow import Inbox, Window
from unios.wire.messages import ITEM_COST, Item, Reply, around

if TYPE_CHECKING:
    from unios.wire.peer import Peer

_HEAD_BYTES: Final = 128
_TAIL_BYTES: Final = 32
"""More than stands before and after the bytes in a frame: names of fields, an id of at most nine bytes, a length."""
_PIECES_MAX: Final = 64
"""So many items are handed to Linux in one call."""
_buffer: Final = memoryview(bytearray(_HEAD_BYTES + WIDE_CHUNK_BYTES + _TAIL_BYTES))
"""One for all: between the reading of a piece and its sending nobody else has a turn."""


class ByteWay:
    """One of them. `message`: what carries the bytes, with its body left out."""

    __slots__ = ("_head", "_inbox", "_offset", "_peer", "_tail", "_wake", "_window", "sequence")

    def __init__(self, peer: "Peer", message: Reply | Item, sequence: int, window: Window, inbox: Inbox) -> None:
        self._peer, self.sequence, self._window, self._inbox = peer, sequence, window, inbox
        self._head, self._tail = around(message)
        self._offset = 0
        """So much of the first item has been passed on."""
        self._wake: Callable[[], None] | None = None

    # out

    @property
    def is_open(self) -> bool:
        """Whether a piece would go out at once: there is credit, and nothing is to be sent before it."""
        outbox = self._peer.outbox
        return self._window.room > 0 and (outbox.closed or outbox.queued(self.sequence) <= SEND_AHEAD_BYTES)

    @property
    def is_all_taken(self) -> bool:
        """Whether all that was sent is known to have been taken at the other end; that is told by and by, so False may be late."""
        return self._window.room >= STREAM_WINDOW_BYTES

    def when_open(self, wake: Callable[[], None]) -> None:
        """Call `wake` once when that may have changed; whoever was called says `pass_turn` then, whether he sends or not."""
        self._wake = wake
        if self._window.room <= 0:
            self._window.on_room = wake
        else:
            self._peer.outbox.when_turn(wake)

    def pass_turn(self) -> None:
        """Let others send."""
        self._peer.outbox.pass_turn()

    def room(self) -> memoryview:
        """Return where to put the next piece, for `send`: good until the next step of the loop."""
        return _buffer[_HEAD_BYTES : _HEAD_BYTES + self._peer.outbox.pace.chunk_bytes]

    def send(self, count: int) -> None:
        """Send the first bytes of `room`. To be called while `is_open`."""
        head, tail, body = self._head, self._tail, bin_head(count)
        before = (len(head) + len(body) + count + len(tail)).to_bytes(4, "big") + head + body
        begin, middle = _HEAD_BYTES - len(before), _HEAD_BYTES + count
        end = middle + len(tail)
        _buffer[begin:_HEAD_BYTES] = before
        _buffer[middle:end] = tail
        self._window.room -= len(body) + count + ITEM_COST
        self._peer.outbox.send(_buffer[begin:end], (), self.sequence)

    # in

    def on_arrival(self, wake: Callable[[], None]) -> None:
        """Call `wake` from now on once for all pieces that came together, and at the end."""
        due = False

        def came() -> None:
            nonlocal due
            due = False
            wake()

        def arrival() -> None:
            nonlocal due
            if not due:
                due = True
                self._peer.afterwards(came)

        self._inbox.on_arrival = arrival
        if self._inbox.held or self._inbox.ended:
            arrival()

    @property
    def held(self) -> int:
        """How much has come and is not passed on; about."""
        return self._inbox.held

    @property
    def has_ended(self) -> bool:
        """Whether nothing will come any more."""
        return self._inbox.ended

    def pieces(self, bytes_max: int) -> list[memoryview]:
        """Return what is to be passed on next: at least one piece if there is any, more only up to so many bytes. ProtocolError if it is no bytes."""
        found: list[memoryview] = []
        total = 0
        for body in self._inbox.first(_PIECES_MAX):
            try:
                piece = msgspec.msgpack.decode(body, type=memoryview)
            except msgspec.MsgspecError as error:
                raise ProtocolError("the peer sent something else than bytes") from error
            if not found and self._offset:
                piece = piece[self._offset :]
            total += len(piece)
            if found and total > bytes_max:
                break
            found.append(piece)
        return found

    def passed(self, count: int, pieces: list[memoryview]) -> None:
        """So many bytes of `pieces` have been passed on."""
        for piece in pieces:
            if count < len(piece):
                self._offset += count
                return
            count -= len(piece)
            self._take()

    def drop(self) -> None:
        """Let go of what has come: nobody takes it. Credit is granted for it, so that the other side goes on to its end."""
        while self._inbox.first(1):
            self._take()

    def _take(self) -> None:
        self._offset = 0
        for descriptor in self._inbox.pop()[1]:  # nothing that is carried in this way hands any over
            os.close(descriptor)

    def close(self) -> None:
        """Nobody is to be called any more. Idempotent."""
        self._inbox.on_arrival = self._window.on_room = None
        if self._wake is not None:
            self._peer.outbox.forget_turn(self._wake)
