"""Founding: the first nodes of a system, and how a machine joins one. Runs in boot, before there is a kernel.

What needs the big library for certificates happens in a forked child, so that the nodes forked later do not carry it.
"""

import asyncio
import json
import os
import socket
import ssl
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from unios import __version__, errors
from unios.errors import CallerError, Denied, InternalError, OutcomeUnknown, ProtocolError, Unavailable, UniosError
from unios.kernel import certificates, runfiles, system, tokens
from unios.kernel.callers import user_of
from unios.kernel.certificates import Identity
from unios.kernel.links import split_address
from unios.kernel.system import NodeFile, SystemFile
from unios.limits import CONNECT_TIMEOUT_MS
from unios.wire.doors import connect_unix
from unios.wire.home import Home, NodeFolder
from unios.wire.operations import JoinAsk, Joined, JoinGreeting, MakeToken, Token
from unios.wire.peer import Peer
from unios.wire.tls import TlsTransport, stranger_context
from unios.wire.transport import SocketTransport

LOOPBACK = "127.0.0.1"


def prepare(home: Home) -> None:
    """Make the home's folder. Raises Denied or Unavailable with what is in the way."""
    try:
        home.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        home.nodes_folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
        if os.geteuid() == 0:
            home.path.chmod(0o711)  # whatever the umask; every user finds the door
            home.nodes_folder.chmod(0o711)
        probe = home.path / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except PermissionError as error:
        raise Denied(f"{error.filename} may not be written by {user_of(os.geteuid())}: choose another UNIOS_HOME") from error
    except OSError as error:
        raise Unavailable(f"UNIOS_HOME {home.path} cannot be used: {error.strerror}") from error


def users_of_owner() -> tuple[str, ...]:
    """Return for whom a founder's node speaks: as root for everybody, else for its user."""
    return ("*", "root") if os.geteuid() == 0 else (user_of(os.geteuid()),)


def found(home: Home, count: int, name: str, listen: str, advertise: str) -> list[NodeFolder]:
    """Make a new system with `count` nodes on this machine; return their folders."""
    if name and count > 1:
        raise CallerError("--name is for one node; several are called n1, n2, ...")
    names = [name] if name else [f"n{number}" for number in range(1, count + 1)]
    for each in names:
        tokens.check_name(each)
    split_address(listen or LOOPBACK)
    if advertise:
        split_address(advertise)
    file = SystemFile(os.urandom(8).hex(), os.urandom(16).hex(), "sqlite", "", "")
    file.store_machine = file.founder = file.machine

    def make() -> None:
        certificates.make_authority(home.ca, file.id)
        for each in names:
            key, public = certificates.make_key()
            identity = Identity(file.id, each, file.machine, users_of_owner())
            _write_node(home, each, listen, advertise, key, certificates.sign(home.ca, public, identity), users_of_owner())

    _in_child(make)
    system.write(home.system_file, file)
    return [home.node(each) for each in names]


def _write_node(home: Home, name: str, listen: str, advertise: str, key: bytes, certificate: bytes, users: tuple[str, ...]) -> None:
    folder = home.node(name)
    mode = 0o711 if os.geteuid() == 0 else 0o700
    folder.path.mkdir(mode=mode, parents=True, exist_ok=True)
    folder.path.chmod(mode)
    certificates.write_secret(folder.path / "node.key", key)
    certificates.write_secret(folder.path / "node.crt", certificate)
    system.write(folder.node_file, NodeFile(name, users, listen or LOOPBACK, advertise))


def _in_child(work: Callable[[], Any]) -> Any:
    """Do `work` in a fork and return what it returned, as JSON carries it; raise what it raised if that is ours."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            answer: dict[str, Any] = {"done": work()}
        except UniosError as error:
            code, text = errors.to_wire(error)
            answer = {"error": code, "text": text}
        except BaseException as error:  # noqa: BLE001 the end of a process: its parent says what it was
            traceback.print_exc()
            answer = {"error": "internal", "text": f"{type(error).__name__}: {error}"}
        with os.fdopen(write, "w") as pipe:
            json.dump(answer, pipe)
        sys.stderr.flush()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    if not said:
        raise InternalError("the program that makes certificates died")
    answer = json.loads(said)
    if "error" in answer:
        raise errors.from_wire(answer["error"], answer["text"])
    return answer["done"]


# joining


def join(home: Home, token: str, name: str, listen: str, advertise: str) -> list[NodeFolder]:
    """Make this machine, or one more node of it, a member of the token's system; return the new node's folder."""
    text = tokens.decode(token)
    if name:
        tokens.check_name(name)
    if listen:
        split_address(listen)
    known = system.read(home.system_file, SystemFile) if home.system_file.exists() else None
    if known is not None and not (home.ca / "ca.crt").exists():
        raise CallerError(f"{home.path} belongs to a system but lacks its authority's certificate")
    machine = known.machine if known else os.urandom(16).hex()
    made = _in_child(lambda: asyncio.run(_join(home, text, machine, name, listen, advertise)))
    joined = msgspec.json.decode(made["joined"], type=Joined)
    if known is None:
        system.write(
            home.system_file,
            SystemFile(joined.system, machine, joined.engine, joined.store_machine, joined.store_machine, joined.generation, joined.members),
        )
    return [home.node(joined.name)]


async def _join(home: Home, text: tokens.TokenText, machine: str, name: str, listen: str, advertise: str) -> dict[str, str]:
    why: Exception | None = None
    for address in text.addresses:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1000):
                host, port = split_address(address)
                sock = await asyncio.get_running_loop().run_in_executor(None, socket.create_connection, (host, port), CONNECT_TIMEOUT_MS / 1000)
        except (OSError, TimeoutError) as error:
            why = error
            continue
        return await _ask(home, sock, text, machine, name, listen, advertise)
    raise Unavailable(
        f"no node of the system answers at {', '.join(text.addresses)} ({why or 'no answer in time'}). "
        "If that is a loopback address, start the system with `unios up --listen ADDRESS`"
    )


async def _ask(home: Home, sock: socket.socket, text: tokens.TokenText, machine: str, name: str, listen: str, advertise: str) -> dict[str, str]:
    mine = sock.getsockname()[0]
    tls = TlsTransport(SocketTransport(sock), stranger_context(), server_side=False)
    try:
        async with asyncio.timeout(60):
            await tls.handshake
            peer = Peer(tls, role="joiner")
            await peer.start()
            greeting = await peer.call("join.hello", None, JoinGreeting)
            if certificates.fingerprint(greeting.authority) != text.fingerprint:
                raise Denied("who answers there is not the system that made the token")
            if not certificates.issued_by(tls.peer_certificate_der(), greeting.authority):
                raise Denied("who answers there has no certificate of the system that made the token")
            key, public = certificates.make_key()
            users = ("*", "root") if os.geteuid() == 0 else (user_of(os.geteuid()),)
            joined = await peer.call("join.ask", JoinAsk(text.secret, public, machine, name, users, __version__), Joined)
    except (ssl.SSLError, ProtocolError, OutcomeUnknown, TimeoutError) as error:
        raise Unavailable(f"the system did not answer to the end: {error or 'no answer in time'}; make a new token before trying again") from error
    finally:
        tls.close("done")
    home.ca.mkdir(mode=0o700, exist_ok=True)
    if not (home.ca / "ca.crt").exists():
        certificates.write_secret(home.ca / "ca.crt", greeting.authority)
    granted = certificates.identity_of({"subjectAltName": (("URI", _uri(joined.certificate)),)})
    assert granted is not None
    _write_node(home, joined.name, listen or mine, advertise, key, joined.certificate, granted.users)
    return {"joined": msgspec.json.encode(joined).decode()}


def _uri(certificate: bytes) -> str:
    from cryptography import x509

    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return str(names.get_values_for_type(x509.UniformResourceIdentifier)[0])


# asking nodes of this machine


def is_ready(folder: NodeFolder) -> bool:
    """Whether the node's kernel, the one that runs now, has registered it."""
    running = runfiles.read(folder.run / "kernel.json")
    try:
        return running is not None and folder.ready.read_text() == str(running.pid)
    except OSError:
        return False


def token_of(folder: NodeFolder) -> str:
    """Return a token for one more node of this machine, made by a node of it."""

    async def ask() -> str:
        peer = Peer(SocketTransport(connect_unix(Path(folder.door))), role="boot")
        try:
            await peer.start()
            token: Token = await peer.call("node.token", MakeToken(ttl_s=120, root=os.geteuid() == 0), Token, timeout_ms=30_000)
            return token.token
        finally:
            peer.close()

    return asyncio.run(ask())
