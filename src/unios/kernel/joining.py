"""Joining: how a machine becomes a member of a system that a token names. Runs in boot, in a forked child, before there is a kernel.

Each address of the token is tried in turn until one answers that is the token's system; for the others it is said what failed. Then, before the token is
spent: do the versions have a protocol in common, does the clock permit certificates, and can the system reach this machine at the addresses that it would
tell? The last is only warned of: links are made from either side, or through a third node.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from typing import Any, Final

import msgspec

from unios import __version__
from unios.core import addresses as places
from unios.core.addresses import is_loopback, join_address, split_address
from unios.core.clocks import far_apart
from unios.errors import CallerError, Denied, OutcomeUnknown, ProtocolError, Unavailable, UniosError
from unios.kernel import certificates, interfaces, tokens
from unios.kernel.addresses import ports_to_try
from unios.kernel.callers import user_of
from unios.kernel.clocks import wall_ms
from unios.limits import CLOCK_OFFSET_MS_JOIN_MAX, CONNECT_TIMEOUT_MS, PROBE_TIMEOUT_MS
from unios.wire.joining import JoinAsk, Joined, JoinGreeting, JoinProbe, JoinProbed
from unios.wire.peer import Peer
from unios.wire.tls import TlsTransport, stranger_context
from unios.wire.transport import SocketTransport

ANSWER_S: Final = 60


class Joining:
    """One attempt of a machine to become a member."""

    def __init__(self, token: tokens.TokenText, machine: str, name: str, listen: str, advertise: str) -> None:
        self._token, self._machine = token, machine
        self._name, self._listen, self.advertise = name, listen, advertise
        self.warnings: list[dict[str, Any]] = []

    async def run(self) -> dict[str, Any]:
        """Return what the system said (`joined`), where links will be taken, and key, warnings. Raises UniosError."""
        failed: list[str] = []
        others = 0
        for address in self._token.addresses:
            try:
                tls, mine = await self._connect(address)
            except UniosError as error:
                failed.append(f"{address}: {error}")
                continue
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await self._talk(tls, mine)
            except (ssl.SSLError, OutcomeUnknown, TimeoutError) as error:
                why = f"the system did not answer to the end: {error or 'no answer in time'}; make a new token before trying again"
                raise Unavailable(why) from error
            except (_OtherSystem, ProtocolError) as error:
                failed.append(f"{address}: {error}")
                others += isinstance(error, _OtherSystem)
            finally:
                tls.close("done")
        text = f"the system could not be joined at any address of the token. {'; '.join(failed)}"
        if others == len(failed):  # to try later would not help: the token is not theirs
            raise Denied(text)
        raise Unavailable(f"{text}{_hint(self._token.addresses)}")

    async def _connect(self, address: str) -> tuple[TlsTransport, str]:
        """Return a connection and the address of this machine in it. Raises Unavailable."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1000):
                target = split_address(address)
                sock = await asyncio.get_running_loop().run_in_executor(None, socket.create_connection, target, CONNECT_TIMEOUT_MS / 1000)
                mine = str(sock.getsockname()[0])
                tls = TlsTransport(SocketTransport(sock), stranger_context(), server_side=False)
                await tls.handshake
                return tls, mine
        except ConnectionRefusedError as error:
            raise Unavailable("nothing listens there (refused): is unios up on it, and with this address?") from error
        except TimeoutError as error:
            port = split_address(address)[1]
            raise Unavailable(f"no answer: the machine is off, or a firewall drops TCP port {port} there or in between") from error
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"{getattr(error, 'strerror', None) or error}") from error
        except ProtocolError as error:
            raise Unavailable(f"who listens there does not speak as unios does ({error})") from error

    async def _talk(self, tls: TlsTransport, mine: str) -> dict[str, Any]:
        peer = Peer(tls, role="joiner", facts={"version": __version__})
        await peer.start()
        greeting = await peer.call("join.hello", None, JoinGreeting)
        self._check_system(greeting, tls)
        self._check_clock(greeting.wall_ms)
        self._compare_versions(greeting.version)
        listen = self._listen or (mine if is_loopback(mine) else "::" if ":" in mine else "0.0.0.0")
        port = await self._probe(peer, greeting, listen, mine)
        key, public = certificates.make_key()
        users = ("*", "root") if os.geteuid() == 0 else (user_of(os.geteuid()),)
        ask = JoinAsk(self._token.secret, public, self._machine, self._name, users, __version__)
        try:
            joined = await peer.call("join.ask", ask, Joined)
        except ProtocolError as error:  # from here on the token may be spent
            raise OutcomeUnknown(str(error)) from error
        return {
            "joined": msgspec.json.encode(joined).decode(),
            "authority": greeting.authority.decode("ascii"),
            "key": key.decode("ascii"),
            "listen": listen,
            "address": join_address(split_address(listen)[0], port) if port else "",
            "warnings": self.warnings,
        }

    def _check_system(self, greeting: JoinGreeting, tls: TlsTransport) -> None:
        if certificates.fingerprint(greeting.authority) != self._token.fingerprint:
            raise _OtherSystem("who answers there is not the system that made the token")
        if not certificates.issued_by(tls.peer_certificate_der(), greeting.authority):
            raise _OtherSystem("who answers there has no certificate of the system that made the token")

    def _check_clock(self, theirs_ms: int) -> None:
        offset_ms = wall_ms() - theirs_ms
        if not theirs_ms:
            return
        if abs(offset_ms) > CLOCK_OFFSET_MS_JOIN_MAX:
            raise CallerError(
                f"{far_apart('this machine', 'the system', offset_ms)}: certificates would not be valid; set it (timedatectl set-ntp true)"
            )
        if text := far_apart("this machine", "the system", offset_ms):
            self._warn(f"{text}: nothing of unios depends on it, but times in `ps` and `events` do; mend it with: timedatectl set-ntp true")

    def _compare_versions(self, theirs: str) -> None:
        if theirs and theirs != __version__:
            self._warn(f"the system runs unios {theirs} and this machine {__version__}: they understand each other; upgrade the older before long")

    def _warn(self, text: str, port: int = 0) -> None:
        self.warnings.append({"warning": text, "port": port})

    # can this machine be reached?

    async def _probe(self, peer: Peer, greeting: JoinGreeting, listen: str, mine: str) -> int:
        """Listen as the kernel will, have the system try to reach this, warn if it cannot; return the port, 0 if none could be had."""
        sock = _bind(listen)
        if sock is None:
            return 0
        port = int(sock.getsockname()[1])
        local = interfaces.local_addresses()
        told = places.told(split_address(listen)[0], port, self.advertise, local, [mine])
        nonce = os.urandom(16)
        if greeting.probes:
            with sock:
                server = await asyncio.start_server(lambda _reader, writer: _answer(writer, nonce), sock=sock)
                async with server:
                    await self._have_tried(peer, told, nonce, port)
        else:
            sock.close()
        return port

    async def _have_tried(self, peer: Peer, told: tuple[str, ...], nonce: bytes, port: int) -> None:
        probed = await peer.call("join.probe", JoinProbe(self._token.secret, told, nonce), JoinProbed, timeout_ms=4 * PROBE_TIMEOUT_MS)
        closed = [f"{address} ({why})" for address, why in probed.problems]
        if closed and len(closed) >= len(told):
            self._warn(
                f"{probed.node or 'the system'} cannot reach this machine at {', '.join(closed)}: open TCP port {port} here, or name the address "
                "that others use with --advertise. Until then links are made from this side only, and two such machines need a third between them",
                port,
            )


class _OtherSystem(Denied):
    """Who answers is not whom the token names: another address may be."""


async def _answer(writer: asyncio.StreamWriter, nonce: bytes) -> None:
    with contextlib.suppress(OSError):
        writer.write(nonce)
        await writer.drain()
        writer.close()


def _bind(listen: str) -> socket.socket | None:
    host, asked = split_address(listen)
    for port in ports_to_try(host, asked, 0):
        with contextlib.suppress(OSError):
            return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    return None


def _hint(addresses: tuple[str, ...]) -> str:
    if all(is_loopback(split_address(address)[0]) for address in addresses):
        return ". That is a loopback address: let the system listen where others reach it (`unios down`, `unios up --listen ADDRESS`, a new token)"
    return ""
