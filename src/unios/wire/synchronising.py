"""Synchronising: how what sessions and the locks' service say to each other is written. The types are the decider's own (core/grants.py)."""

from typing import Final

import msgspec

from unios.core.grants import ACTS as ACTS
from unios.core.grants import BOUNDED as BOUNDED
from unios.core.grants import BROKEN as BROKEN
from unios.core.grants import FAULT as FAULT
from unios.core.grants import NO as NO
from unios.core.grants import NOWAIT as NOWAIT
from unios.core.grants import TIMED as TIMED
from unios.core.grants import YES as YES
from unios.core.grants import Answer as Answer
from unios.core.grants import Ask as Ask
from unios.core.grants import Bye as Bye
from unios.core.grants import Held as Held
from unios.core.grants import Known as Known
from unios.core.grants import More as More
from unios.core.grants import Notice as Notice
from unios.core.grants import Open as Open
from unios.core.grants import Opened as Opened
from unios.core.grants import Over as Over
from unios.core.grants import Renew as Renew
from unios.core.grants import Renewed as Renewed
from unios.core.grants import Said as Said
from unios.core.grants import Token as Token
from unios.core.grants import Told as Told
from unios.core.grants import Waiting as Waiting
from unios.core.grants import Withdraw as Withdraw
from unios.errors import ProtocolError
from unios.undecodable import UNDECODABLE

PORT: Final = "locks"
OPERATION: Final = "session"
"""The one request of a session: what it says are its items, what it is told are its answers."""
ALL: Final = 1 << 30
"""The units of a lock of readers and writers: a writer takes all, a reader one."""

_encoder = msgspec.msgpack.Encoder()
_said: msgspec.msgpack.Decoder[Said] = msgspec.msgpack.Decoder(Said)
_told: msgspec.msgpack.Decoder[Told] = msgspec.msgpack.Decoder(Told)


def pack(message: Said | Told) -> msgspec.Raw:
    return msgspec.Raw(_encoder.encode(message))


def said(body: msgspec.Raw) -> Said:
    """Return what a session says; ProtocolError if it is nothing that one says."""
    try:
        return _said.decode(body)
    except UNDECODABLE as error:
        raise ProtocolError(f"a session said what none says: {error}") from error


def told(body: msgspec.Raw) -> Told:
    """Return what a session is told; ProtocolError if it is nothing of that."""
    try:
        return _told.decode(body)
    except UNDECODABLE as error:
        raise ProtocolError(f"the service of locks said what it never says: {error}") from error
