"""TLS over sockets and through a relay: who is at the other end is proved, and nobody in between reads anything."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.wire.pairs import bounded, settled, until
from unios.errors import ProtocolError
from unios.kernel.certificates import Identity, fingerprint, identity_of, issued_by, make_authority, make_key, sign
from unios.wire import tls as tls_module
from unios.wire.peer import Call, Peer, Stream
from unios.wire.pipes import CallTransport, StreamTransport
from unios.wire.tls import TlsTransport, client_context, server_context, stranger_context
from unios.wire.transport import SocketTransport, Transport

ALICE = Identity("sys", "alice", "machine-1", ("root", "*"))
BOB = Identity("sys", "bob", "machine-2", ("ann", "jörg, the 2nd&x=y"))
SECRET = b"the secret of the two ends " * 40


class Authority:
    """An authority in a folder, and certificates of it."""

    def __init__(self, folder: Path, system: str = "sys") -> None:
        self.folder = folder
        make_authority(folder, system)

    def issue(self, identity: Identity) -> tuple[Path, Path, Path]:
        """Return (authority, certificate, key)."""
        key, public = make_key()
        certificate = self.folder / f"{identity.node}.crt"
        certificate.write_bytes(sign(self.folder, public, identity))
        certificate.with_suffix(".key").write_bytes(key)
        return self.folder / "ca.crt", certificate, certificate.with_suffix(".key")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("foreign"))


async def echo(call: Call) -> object:
    if call.op == "count":
        total = 0
        while (item := await call.receive(bytes)) is not None:
            await call.send(item)
            total += len(item)
        return total
    return call.decode(object)


def straight() -> tuple[Transport, Transport]:
    left, right = socket.socketpair()
    return SocketTransport(left), SocketTransport(right)


class Ends:
    """Two ends of a TLS session: alice answers, bob asks."""

    def __init__(self, transports: tuple[Transport, Transport], server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        self.server = TlsTransport(transports[0], server, server_side=True)
        self.client = TlsTransport(transports[1], client, server_side=False)

    async def known(self) -> None:
        await asyncio.gather(self.server.handshake, self.client.handshake)

    async def peers(self) -> tuple[Peer, Peer]:
        """Return (asker, answerer) that have greeted each other."""
        answerer, asker = Peer(self.server, echo), Peer(self.client)
        await asyncio.gather(answerer.start(), asker.start())
        return asker, answerer

    def close(self) -> None:
        self.server.close()
        self.client.close()


@contextlib.asynccontextmanager
async def session(transports: tuple[Transport, Transport], server: ssl.SSLContext, client: ssl.SSLContext) -> AsyncIterator[Ends]:
    ends = Ends(transports, server, client)
    try:
        yield ends
    finally:
        ends.close()
        await settled()


@contextlib.asynccontextmanager
async def relayed() -> AsyncIterator[tuple[tuple[Transport, Transport], bytearray]]:
    """Yield the two ends of a connection through a relay, and everything that the relay passed on."""
    seen = bytearray()
    arrived: asyncio.Future[CallTransport] = asyncio.get_running_loop().create_future()

    async def accept(call: Call) -> object:
        arrived.set_result(transport := CallTransport(call))
        return await asyncio.shield(transport.closed)

    async def relay(call: Call) -> object:
        onward = relay_to_server.stream("accept")

        async def upward() -> None:
            while (item := await call.receive(bytes)) is not None:
                seen.extend(item)
                await onward.send(item)

        upwards = asyncio.create_task(upward())
        try:
            while (item := await onward.next(bytes)) is not None:
                seen.extend(item)
                await call.send(item)
        finally:
            upwards.cancel()
            onward.close()
        return None

    one, two, three, four = (SocketTransport(sock) for _ in range(2) for sock in socket.socketpair())
    client, relay_to_client = Peer(one), Peer(two, relay)
    relay_to_server, server = Peer(three), Peer(four, accept)
    everybody = (client, relay_to_client, relay_to_server, server)
    await asyncio.gather(*(peer.start() for peer in everybody))
    try:
        stream: Stream = client.stream("relay")
        yield (await arrived, StreamTransport(stream)), seen
    finally:
        for peer in everybody:
            peer.close()
        await settled()


# who is there


def test_both_ends_learn_who_the_other_is(authority: Authority) -> None:
    async def work() -> None:
        async with session(straight(), server_context(*authority.issue(ALICE)), client_context(*authority.issue(BOB))) as ends:
            await ends.known()
            assert identity_of(ends.client.peer_certificate()) == ALICE
            assert identity_of(ends.server.peer_certificate()) == BOB
            asker, _ = await ends.peers()
            assert await asker.call("echo", {"a": [1, b"x"]}) == {"a": [1, b"x"]}

    bounded(work)


def test_one_without_a_certificate_is_let_in_as_nobody_and_sees_whom_it_talks_to(authority: Authority, foreign: Authority) -> None:
    async def work() -> None:
        async with session(straight(), server_context(*authority.issue(ALICE)), stranger_context()) as ends:
            await ends.known()
            assert ends.server.peer_certificate() is None
            assert identity_of(ends.server.peer_certificate()) is None
            shown = ends.client.peer_certificate_der()
            assert issued_by(shown, (authority.folder / "ca.crt").read_bytes())
            assert not issued_by(shown, (foreign.folder / "ca.crt").read_bytes())
            asker, _ = await ends.peers()
            assert await asker.call("echo", 1) == 1

    bounded(work)


def refused_client(context: ssl.SSLContext, authority: Authority) -> None:
    """Check that a client with this context gets no session with a server of `authority`."""

    async def work() -> None:
        async with session(straight(), server_context(*authority.issue(ALICE)), context) as ends:
            with pytest.raises(ProtocolError, match="secure connection failed"):
                await ends.server.handshake
            client = Peer(ends.client)
            with contextlib.suppress(ProtocolError):
                await ends.client.handshake  # in TLS 1.3 it ends before the server has looked at the certificate
            with pytest.raises(Exception, match=r"secure connection failed|connection"):
                await client.start()

    bounded(work)


def test_a_client_with_a_certificate_of_another_authority_is_refused(authority: Authority, foreign: Authority) -> None:
    _theirs, certificate, key = foreign.issue(BOB)
    refused_client(client_context(authority.folder / "ca.crt", certificate, key), authority)


def test_a_client_that_signed_its_own_certificate_with_an_ordinary_one_is_refused(authority: Authority, tmp_path: Path) -> None:
    # bob's certificate is no authority's: what is signed with its key is worth nothing.
    _ours, certificate, key = authority.issue(BOB)
    (tmp_path / "ca.crt").write_bytes(certificate.read_bytes())
    (tmp_path / "ca.key").write_bytes(key.read_bytes())
    mine, public = make_key()
    chain = sign(tmp_path, public, Identity("sys", "mallory", "m", ("root",))) + certificate.read_bytes()
    (tmp_path / "mallory.crt").write_bytes(chain)
    (tmp_path / "mallory.key").write_bytes(mine)
    refused_client(client_context(authority.folder / "ca.crt", tmp_path / "mallory.crt", tmp_path / "mallory.key"), authority)


def test_a_server_with_a_certificate_of_another_authority_is_refused(authority: Authority, foreign: Authority) -> None:
    async def work() -> None:
        async with session(straight(), server_context(*foreign.issue(ALICE)), client_context(*authority.issue(BOB))) as ends:
            with pytest.raises(ProtocolError, match="secure connection failed"):
                await ends.client.handshake
            with pytest.raises(ProtocolError):
                await ends.server.handshake

    bounded(work)


def test_without_verification_a_foreign_certificate_would_pass(authority: Authority, foreign: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    load = tls_module._load
    monkeypatch.setattr(tls_module, "_load", lambda context, a, c, k, _mode: load(context, a, c, k, ssl.CERT_NONE))

    async def work() -> None:
        async with session(straight(), server_context(*foreign.issue(ALICE)), client_context(*authority.issue(BOB))) as ends:
            await ends.known()

    bounded(work)


def test_versions_before_tls_1_3_are_refused(authority: Authority) -> None:
    async def work() -> None:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        async with session(straight(), server_context(*authority.issue(ALICE)), client) as ends:
            with pytest.raises(ProtocolError):
                await ends.server.handshake
            with pytest.raises(ProtocolError):
                await ends.client.handshake

    bounded(work)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, os.urandom(5_000), b"\x16\x03\x01\xff\xff" + b"a" * 70_000])
def test_what_is_no_tls_ends_the_connection(authority: Authority, data: bytes) -> None:
    async def work() -> None:
        left, right = socket.socketpair()
        server = TlsTransport(SocketTransport(left), server_context(*authority.issue(ALICE)), server_side=True)
        right.setblocking(False)
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(right, data)
        right.shutdown(socket.SHUT_WR)
        with pytest.raises(ProtocolError):
            await server.handshake
        right.close()

    bounded(work)


def test_a_certificate_is_pinned_by_its_fingerprint(authority: Authority, foreign: Authority) -> None:
    ours, theirs = (folder.joinpath("ca.crt").read_bytes() for folder in (authority.folder, foreign.folder))
    assert fingerprint(ours) == fingerprint(ours) != fingerprint(theirs)
    assert not issued_by(b"garbage", ours)


def test_secrets_are_for_their_owner_only(authority: Authority) -> None:
    assert (authority.folder / "ca.key").stat().st_mode & 0o777 == 0o600


# what passes


def transfer(
    authority: Authority, through: Callable[[], "contextlib.AbstractAsyncContextManager[tuple[tuple[Transport, Transport], bytearray]]"]
) -> bytes:
    """Send much in both directions at once and check it; return what was seen on the way."""
    way = bytearray()

    async def work() -> None:
        async with through() as (transports, seen):
            async with session(transports, server_context(*authority.issue(ALICE)), client_context(*authority.issue(BOB))) as ends:
                asker, _ = await ends.peers()
                assert identity_of(ends.server.peer_certificate()) == BOB
                big = os.urandom(7 * 1024 * 1024)
                assert await asker.call("echo", big) == big
                assert await asker.call("echo", SECRET) == SECRET
                stream = asker.stream("count")
                chunks = [os.urandom(100_000) for _ in range(60)]

                async def feed() -> None:
                    for chunk in chunks:
                        await stream.send(chunk)
                    stream.end()

                feeding = asyncio.create_task(feed())
                assert [chunk async for chunk in stream.items(bytes)] == chunks
                await feeding
            way.extend(seen)

    bounded(work)
    return bytes(way)


@contextlib.asynccontextmanager
async def over_sockets() -> AsyncIterator[tuple[tuple[Transport, Transport], bytearray]]:
    yield straight(), bytearray()


def test_much_passes_intact_over_sockets(authority: Authority) -> None:
    transfer(authority, over_sockets)


def test_much_passes_intact_through_a_relay_which_sees_no_plaintext(authority: Authority) -> None:
    seen = transfer(authority, relayed)
    assert len(seen) > 2 * 7 * 1024 * 1024
    assert SECRET[:27] not in seen and b"echo" not in seen[:4096] and b"hello" not in seen[:4096]


def test_the_look_for_plaintext_finds_it_where_there_is_no_tls() -> None:
    async def work() -> None:
        async with relayed() as (transports, seen):
            answerer, asker = Peer(transports[0], echo), Peer(transports[1])
            await asyncio.gather(answerer.start(), asker.start())
            assert await asker.call("echo", SECRET) == SECRET
            assert SECRET[:27] in seen and b"hello" in seen[:4096]

    bounded(work)


def test_a_relay_that_alters_a_byte_ends_the_session_and_nothing_wrong_is_delivered(authority: Authority) -> None:
    class Altering(SocketTransport):
        altering = False

        def write(self, data: bytes, descriptors: object = ()) -> None:
            super().write(data[:-1] + bytes([data[-1] ^ 1]) if self.altering else data)

    async def work() -> None:
        left, right = socket.socketpair()
        altering = Altering(left)
        contexts = server_context(*authority.issue(ALICE)), client_context(*authority.issue(BOB))
        async with session((altering, SocketTransport(right)), *contexts) as ends:
            asker, _ = await ends.peers()
            assert await asker.call("echo", 1) == 1
            altering.altering = True
            with pytest.raises(Exception, match="secure connection failed"):
                await asker.call("echo", 2)

    bounded(work)


def test_the_end_of_one_side_reaches_the_other_through_a_relay(authority: Authority) -> None:
    async def work() -> None:
        contexts = server_context(*authority.issue(ALICE)), client_context(*authority.issue(BOB))
        async with relayed() as (transports, _seen), session(transports, *contexts) as ends:
            asker, answerer = await ends.peers()
            asker.close("enough")
            assert "ended" in await answerer.closed()

    bounded(work)


def test_the_end_of_the_answering_side_reaches_the_other_through_a_relay(authority: Authority) -> None:
    async def work() -> None:
        contexts = server_context(*authority.issue(ALICE)), client_context(*authority.issue(BOB))
        async with relayed() as (transports, _seen), session(transports, *contexts) as ends:
            asker, answerer = await ends.peers()
            answerer.close("enough")
            await asker.closed()

    bounded(work)


def test_descriptors_do_not_travel_between_machines(authority: Authority) -> None:
    async def work() -> None:
        async with session(straight(), server_context(*authority.issue(ALICE)), client_context(*authority.issue(BOB))) as ends:
            asker, _ = await ends.peers()
            with pytest.raises(ProtocolError, match="between machines"):
                await asker.call("echo", descriptors=[0])
            assert await asker.call("echo", 1) == 1

    bounded(work)


def test_what_is_written_before_the_handshake_waits_for_it(authority: Authority) -> None:
    async def work() -> None:
        async with session(straight(), server_context(*authority.issue(ALICE)), client_context(*authority.issue(BOB))) as ends:
            got = bytearray()
            ends.client.write(b"early")
            await ends.known()
            ends.server.start(lambda data, _descriptors: got.extend(data), lambda _why: None)
            await until(lambda: bytes(got) == b"early")

    bounded(work)
