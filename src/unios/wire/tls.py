"""TLS 1.3 over any transport: the same session whether the bytes go straight or through a node that relays them and sees only ciphertext."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unios.core.sequences import ARRIVAL
from unios.errors import ProtocolError
from unios.wire.running import in_sequence
from unios.wire.transport import Buffer, Frame, OnBytes, OnClose, Room, Transport, nowhere, plain_buffer

RECORD_BYTES = 16 * 1024


def server_context(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the context of a side that is connected to. A peer without a certificate is let in as nobody; one with a wrong one is not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return _load(context, authority, certificate, key, ssl.CERT_OPTIONAL)


def client_context(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the context of a side that connects: the peer must show a certificate of the authority. Names are checked by the caller."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _load(context, authority, certificate, key, ssl.CERT_REQUIRED)


def stranger_context() -> ssl.SSLContext:
    """Return the context of one who has no certificate yet and verifies the peer by other means."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _load(context: ssl.SSLContext, authority: Path, certificate: Path, key: Path, mode: ssl.VerifyMode) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key)
    context.verify_mode = mode
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # sessions are not resumed
    return context


class TlsTransport:
    """A transport in a transport. `handshake` completes when the peer is known; what is written before waits."""

    def __init__(self, inner: Transport, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._inner = inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._on_bytes: OnBytes | None = None
        self._on_close: OnClose | None = None
        self._room: Room = nowhere
        self._early: list[bytes] = []
        self._plain: list[bytes] = []
        self._why = ""
        self.handshake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_room: Callable[[], None] = lambda: None
        inner.on_room = lambda: self.on_room()
        in_sequence(ARRIVAL, inner.start, self._received, self._closed)
        self._advance()

    def start(self, on_bytes: OnBytes, on_close: OnClose, room: Room = nowhere) -> None:
        self._on_bytes, self._on_close, self._room = on_bytes, on_close, room
        for data in self._plain:
            on_bytes(data, [])
        self._plain.clear()
        if self._why:
            asyncio.get_running_loop().call_soon(on_close, self._why)

    def peer_certificate(self) -> dict[str, Any] | None:
        """Return the verified certificate of the peer, None if it showed none."""
        return self._ssl.getpeercert() or None

    def peer_certificate_der(self) -> bytes:
        """Return the peer's certificate, verified or not."""
        return self._ssl.getpeercert(binary_form=True) or b""

    def _received(self, data: Buffer, _descriptors: list[int]) -> None:
        self._incoming.write(data)
        self._advance()

    def _advance(self) -> None:
        if self._why:
            return
        try:
            if not self.handshake.done():
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._ssl.do_handshake()
                    self.handshake.set_result(None)
                    for data in self._early:
                        self._ssl.write(data)
                    self._early.clear()
            if self.handshake.done():
                self._read()
        except ssl.SSLError as error:
            self._flush()
            self.close(f"the secure connection failed: {error.reason or error}")
            return
        self._flush()

    def _read(self) -> None:
        """Decrypt what has come, a record at a time, into its place if that is known; records that came together are handed on together."""
        while not self._why:
            place = self._room()
            buffer = plain_buffer() if place is None else place
            count, ended, drained = 0, False, False
            try:
                while count < len(buffer):
                    read: Any = self._ssl.read(RECORD_BYTES, buffer[count:])  # into a buffer: an object for each record costs more than to decrypt it
                    if not read:
                        ended = True
                        break
                    count += read
                    if place is None and (read == RECORD_BYTES or len(buffer) - count < RECORD_BYTES):
                        break  # a full record: the beginning of a large frame, whose place is known once this has been looked at
            except ssl.SSLWantReadError:
                drained = True
            if count:
                self._hand_on(buffer[:count])
            if ended:
                self.close("the peer closed the connection")
            if ended or drained:
                return

    def _hand_on(self, data: memoryview) -> None:
        if self._on_bytes is not None:
            self._on_bytes(data, [])
        else:
            self._plain.append(bytes(data))

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._inner.write(data)

    def write(self, data: Frame, descriptors: Sequence[int] = ()) -> None:
        if descriptors:
            raise ProtocolError("descriptors do not travel between machines")
        if self._why:
            return
        if isinstance(data, tuple):
            data = data[0] if len(data) == 1 else b"".join(data)  # one write, as few records
        if not self.handshake.done():
            self._early.append(bytes(data))
            return
        self._ssl.write(data)
        self._flush()

    @property
    def queued(self) -> int:
        return self._inner.queued + sum(map(len, self._early))

    async def drain(self) -> None:
        await self._inner.drain()

    def send_ahead(self, size: int) -> None:
        self._inner.send_ahead(size)

    def close(self, why: str = "closed") -> None:
        self._inner.close(why)
        self._closed(why)

    def _closed(self, why: str) -> None:
        if self._why:
            return
        self._why = why
        if not self.handshake.done():
            self.handshake.set_exception(ProtocolError(why))
            self.handshake.exception()
        if self._on_close is not None:
            self._on_close(why)
