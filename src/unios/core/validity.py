"""Validity: from when to when a certificate holds, read from its DER (RFC 5280, section 4.1). Nothing else of it is looked at, and nothing is verified."""

import calendar
import re
from typing import Final, NamedTuple

from unios.errors import ProtocolError

_SEQUENCE, _INTEGER, _EXPLICIT_0, _UTC, _GENERALIZED = 0x30, 0x02, 0xA0, 0x17, 0x18
_TIME: Final = re.compile(rb"([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})Z")
DATED_BACK_MS: Final = 86_400_000
"""Certificates are valid from so long before they are made: clocks of machines differ."""


class Validity(NamedTuple):
    """Wall clock in ms since 1970."""

    from_ms: int
    until_ms: int

    @property
    def made_ms(self) -> int:
        """When it was made, if this system's authority made it."""
        return min(self.from_ms + DATED_BACK_MS, self.until_ms)


def validity(der: bytes) -> Validity:
    """Return from when to when a certificate holds. Raises ProtocolError."""
    certificate, _rest = _open(der, _SEQUENCE)
    fields, _rest = _open(certificate, _SEQUENCE)
    if fields[:1] == bytes([_EXPLICIT_0]):
        _version, fields = _open(fields, _EXPLICIT_0)
    _serial, fields = _open(fields, _INTEGER)
    _algorithm, fields = _open(fields, _SEQUENCE)
    _issuer, fields = _open(fields, _SEQUENCE)
    times, _rest = _open(fields, _SEQUENCE)
    first, times = _time(times)
    second, _rest = _time(times)
    return Validity(first, second)


def _open(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return what is in the first element, which has to be of that kind, and what follows it."""
    if len(data) < 2 or data[0] != tag:
        raise ProtocolError("that is no certificate")
    size, start = data[1], 2
    if size & 0x80:
        count = size & 0x7F
        if not 1 <= count <= 4 or len(data) < 2 + count:
            raise ProtocolError("that is no certificate")
        size, start = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
    if len(data) < start + size:
        raise ProtocolError("that is no whole certificate")
    return data[start : start + size], data[start + size :]


def _time(data: bytes) -> tuple[int, bytes]:
    kind = data[:1]
    text, rest = _open(data, _UTC if kind == bytes([_UTC]) else _GENERALIZED)
    if kind == bytes([_UTC]):  # two digits: 50 and more are of the last century
        text = (b"20" if text[:2] < b"50" else b"19") + text
    found = _TIME.fullmatch(text)
    if found is None:
        raise ProtocolError("that is no certificate: it says no time")
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        return 1_000 * calendar.timegm((year, month, day, hour, minute, second, 0, 0, 0)), rest
    except (ValueError, OverflowError) as error:
        raise ProtocolError("that is no certificate: it says no time that there is") from error
