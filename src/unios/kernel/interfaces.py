"""Interfaces: which addresses this machine has, and word of each change, as Linux tells them over netlink (rtnetlink(7)). Decides nothing."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Final

from unios.core.addresses import Local, split_address
from unios.errors import CallerError

_NEW: Final = 20  # RTM_NEWADDR
_GET: Final = 22  # RTM_GETADDR
_DONE: Final = 3
_ERROR: Final = 2
_REQUEST_DUMP: Final = 0x301
_GROUPS: Final = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_HEAD: Final = struct.Struct("=IHHII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_TENTATIVE: Final = 0x40 | 0x08  # and such as duplicate detection has refused
_READ_BYTES: Final = 64 * 1024
_READS_MAX: Final = 64


def local_addresses() -> list[Local]:
    """Return the addresses of this machine's interfaces that are usable now; none if Linux does not tell."""
    found: list[Local] = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(1.0)
        sock.bind((0, 0))
        sock.send(_HEAD.pack(_HEAD.size + _ADDRESS.size, _GET, _REQUEST_DUMP, 1, 0) + _ADDRESS.pack(0, 0, 0, 0, 0))
        for _ in range(_READS_MAX):
            done, more = parse(sock.recv(_READ_BYTES))
            found += more
            if done:
                break
    return found


def parse(data: bytes) -> tuple[bool, list[Local]]:
    """Return whether the dump ends with this packet, and the addresses in it. What is malformed is passed over."""
    found: list[Local] = []
    while len(data) >= _HEAD.size:
        size, kind, _flags, _sequence, _pid = _HEAD.unpack_from(data)
        if size < _HEAD.size or size > len(data):
            break
        if kind in (_DONE, _ERROR):
            return True, found
        if kind == _NEW:
            found += _one(data[_HEAD.size : size])
        data = data[(size + 3) & ~3 :]
    return False, found


def _one(body: bytes) -> Iterator[Local]:
    if len(body) < _ADDRESS.size:
        return
    family, _prefix, flags, _scope, index = _ADDRESS.unpack_from(body)
    attributes = dict(_attributes(body[_ADDRESS.size :]))
    raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""
    if flags & _TENTATIVE or (family, len(raw)) not in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        return
    try:
        name = socket.if_indextoname(index)
    except (OSError, OverflowError):
        name = ""
    yield Local(name, socket.inet_ntop(family, raw))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size or size > len(data):
            return
        yield kind, data[_ATTRIBUTE.size : size]
        data = data[(size + 3) & ~3 :]


def watch() -> socket.socket | None:
    """Return a socket that can be read when an address has come or gone; None if Linux gives none. The caller closes it."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except OSError:
        return None
    try:
        sock.bind((0, _GROUPS))
    except OSError:
        sock.close()
        return None
    return sock


def source_for(address: str) -> str:
    """Return the address of this machine from which it would reach `address` (HOST:PORT of a number), "" if it would not. Sends nothing."""
    try:
        host, port = split_address(address)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port or 9))
            return str(probe.getsockname()[0])
    except (OSError, CallerError, UnicodeError):
        return ""
