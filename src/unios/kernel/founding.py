"""Founding: the first nodes of a system, and how a machine joins one. Runs in boot, before there is a kernel.

What needs the big library for certificates happens in a forked child, so that the nodes forked later do not carry it.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec

from unios import durable, errors
from unios.core.addresses import LOOPBACK, split_address
from unios.errors import CallerError, Denied, InternalError, Unavailable, UniosError
from unios.kernel import certificates, cluster, joining, quorum, quorum_member, runfiles, system, tokens
from unios.kernel.callers import user_of
from unios.kernel.certificates import Identity
from unios.kernel.system import NodeFile, SystemFile
from unios.wire.doors import connect_unix
from unios.wire.home import Home, NodeFolder
from unios.wire.joining import Joined
from unios.wire.operations import MakeToken, Token
from unios.wire.peer import Peer
from unios.wire.transport import SocketTransport

FINISH_S: Final = 10.0
"""So long a join that is under way may go on when nobody waits for it any more."""


def prepare(home: Home) -> None:
    """Make the home's folder. Raises Denied or Unavailable with what is in the way."""
    _check_owner(home.path)
    try:
        durable.make_folders(home.nodes_folder, 0o711 if os.geteuid() == 0 else 0o700)
        if os.geteuid() == 0:
            home.path.chmod(0o711)  # whatever the umask; every user finds the door
            home.nodes_folder.chmod(0o711)
        probe = home.path / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
        for folder in (home.ca, home.nodes_folder, *(node.path for node in home.nodes())):
            if folder.exists():  # an `up` that was killed has not synced its last name, perhaps, and this one goes by it
                durable.sync_folder(folder)
    except PermissionError as error:
        raise Denied(_not_ours(home.path)) from error
    except OSError as error:
        raise Unavailable(f"UNIOS_HOME {home.path} cannot be used: {error.strerror}") from error


def _check_owner(path: Path) -> None:
    """Raise Denied if root would make its home in another user's folder: who owns a folder may exchange what is in it, also keys that root trusts."""
    folder = _nearest(path)
    try:
        uid = folder.stat().st_uid
    except OSError:
        return  # the making of it says why
    if os.geteuid() == 0 and uid:
        whose = f"the system of UNIOS_HOME {path} is" if folder == path else f"UNIOS_HOME {path} cannot be root's: {folder} is"
        raise Denied(
            f"{whose} {user_of(uid)}'s: start it as {user_of(uid)}, or choose a folder of root's for a system of the whole machine (UNIOS_HOME, or --home)"
        )


def check_name(nodes: list[NodeFolder], name: str) -> None:
    """Raise CallerError if a name is given and none of the machine's nodes has it: names are given when a node is made."""
    names = [folder.name for folder in nodes]
    if name and names and name not in names:
        raise CallerError(
            f"this machine has its nodes already ({', '.join(names)}), and none is called {name}: --name is for the first one of a new system, or with `unios join`"
        )


def _not_ours(path: Path) -> str:
    """Return why a home may not be written, and what to do about it."""
    me, folder = user_of(os.geteuid()), _nearest(path)
    try:
        owner = user_of(folder.stat().st_uid)
    except OSError:
        return f"{me} may not reach UNIOS_HOME {path}: choose another folder (UNIOS_HOME, or --home)"
    if folder == path and owner != me:
        return (
            f"the system of UNIOS_HOME {path} is {owner}'s, and {me} may not write in that folder: its nodes are started by {owner}; "
            "for a system of your own choose another folder (UNIOS_HOME, or --home)"
        )
    mode = f"{folder.stat().st_mode & 0o7777:04o}"
    if owner == me:
        return f"{folder} is {me}'s own, but of mode {mode}: without the right to write there (chmod u+rwx) nothing can be started"
    return f"UNIOS_HOME {path} cannot be used: {folder} is {owner}'s, and {me} may not write there: choose another folder (UNIOS_HOME, or --home)"


def _nearest(path: Path) -> Path:
    """Return the folder itself, or the nearest above it that is there."""
    while path != path.parent and not _is_there(path):
        path = path.parent
    return path


def _is_there(folder: Path) -> bool:
    try:
        return folder.exists()
    except OSError:  # a folder above it may not be searched
        return False


def users_of_owner() -> tuple[str, ...]:
    """Return for whom a founder's node speaks: as root for everybody, else for its user."""
    return ("*", "root") if os.geteuid() == 0 else (user_of(os.geteuid()),)


def found(home: Home, count: int, name: str, listen: str, advertise: str, store: str = "") -> list[NodeFolder]:
    """Make a new system with `count` nodes on this machine; return their folders. `store`: the address of the etcd that keeps its records."""
    if name and count > 1:
        raise CallerError("--name is for one node; several are called n1, n2, ...")
    names = [name] if name else [f"n{number}" for number in range(1, count + 1)]
    for each in names:
        tokens.check_name(each)
    split_address(listen or LOOPBACK)
    if advertise:
        split_address(advertise)
    made = SystemFile(os.urandom(8).hex(), os.urandom(16).hex(), system.ETCD if store else system.SQLITE, "", "", gateway=bool(store))
    made.store_machine = made.founder = made.machine
    managed = store == system.ETCD
    if store and not _has_grpc():
        raise Unavailable("etcd needs the package grpcio, which this Python has not: install unios[etcd]")
    if managed and not quorum_member.binary():
        raise Unavailable("etcd is not found on this machine: install it (Debian: etcd-server), or have it in PATH")
    etcd = cluster.of_text(store, made.id) if store and not managed else None

    def make() -> None:
        if managed:
            cluster.write(home, cluster.new(made.id))
        if etcd is not None:
            cluster.check_empty(home, etcd)
        certificates.make_authority(home.ca, made.id)
        for each in names:
            key, public = certificates.make_key()
            identity = Identity(made.id, each, made.machine, users_of_owner())
            file = NodeFile(each, users_of_owner(), listen or LOOPBACK, advertise)
            _write_node(home, file, key, certificates.sign(home.ca, public, identity))

    if etcd is not None:
        cluster.write(home, etcd)
    _in_child(make)
    if managed:
        quorum.mark_founder(quorum_member.folder_of(home.node(names[0])))
    system.write(home.system_file, made)
    return [home.node(each) for each in names]


def _has_grpc() -> bool:
    """Whether a gateway to etcd can run here."""
    return find_spec("grpc") is not None


def check_store(home: Home, store: str) -> None:
    """Raise CallerError if the system of this machine has not the store that is asked for: it is chosen when a system is made."""
    known = system.read(home.system_file, SystemFile)
    has = cluster.read(home) if known.engine == system.ETCD else None  # else of a move that was broken off
    if has is None:
        where = "on one of its machines" if known.engine == system.SQLITE else "in etcd, which other machines of it ask"
        raise CallerError(f"this system keeps its records {where}: --store is for a system that is being made")
    if has.managed or store == system.ETCD:
        if has.managed and store == system.ETCD:
            return
        raise CallerError(
            f"this system keeps its records in etcd{', which it runs itself' if has.managed else ''}: --store is for a system that is being made"
        )
    asked = cluster.of_text(store, has.system)
    if (asked.members, asked.system) != (has.members, has.system):
        raise CallerError(f"this system keeps its records in etcd://{','.join(has.members)}/{has.system}: --store is for a system that is being made")


def _write_node(home: Home, file: NodeFile, key: bytes, certificate: bytes) -> None:
    folder = home.node(file.name)
    mode = 0o711 if os.geteuid() == 0 else 0o700
    durable.make_folders(folder.path, mode)
    folder.path.chmod(mode)
    certificates.write_secret(folder.path / "node.key", key)
    certificates.write_secret(folder.path / "node.crt", certificate)
    system.write(folder.node_file, file)


def _in_child(work: Callable[[], Any]) -> Any:
    """Do `work` in a fork and return what it returned, as JSON carries it; raise what it raised if that is ours."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
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
    child = runfiles.Running(pid, runfiles.start_of(pid))
    try:
        with os.fdopen(read) as pipe:
            said = pipe.read()
    except BaseException:  # what it has begun it ends: half a node could not be taken back
        if not runfiles.wait_gone(child, FINISH_S):
            runfiles.kill(child, signal.SIGKILL)
        raise
    finally:
        os.waitpid(pid, 0)
    if not said:
        raise InternalError("the program that makes certificates died")
    answer = json.loads(said)
    if "error" in answer:
        raise errors.from_wire(answer["error"], answer["text"])
    return answer["done"]


def readdress(home: Home, folders: list[NodeFolder], listen: str, advertise: str, store_address: str) -> None:
    """Write down other addresses for nodes that do not run: their own, if that is asked for, and the one of the store's machine. Raises CallerError."""
    for address in filter(None, (listen, advertise, store_address)):
        split_address(address)
    for folder in folders if listen or advertise else []:
        file = system.read(folder.node_file, NodeFile)
        if (listen or file.listen, advertise or file.advertise) == (file.listen, file.advertise):
            continue
        if runfiles.read(folder.run / "supervisor.json") is not None:
            raise CallerError(f"{folder.name} runs already, at {file.listen}: `unios down` first, then `unios up` with the new address")
        file.listen, file.advertise = listen or file.listen, advertise or file.advertise
        system.write(folder.node_file, file)
    if store_address:
        if not split_address(store_address)[1]:
            raise CallerError(f"--store-address: {store_address} lacks the port; `unios status` on that machine shows it")
        with system.changing(home.system_file):
            made = system.read(home.system_file, SystemFile)
            hosts = [name for name, machine in made.machines.items() if machine == made.store_machine] or list(made.members)
            made.members = {**made.members, **{name: (store_address, *made.members.get(name, ())) for name in hosts}}
            system.write(home.system_file, made)


# joining


def join(home: Home, token: str, name: str, listen: str, advertise: str, say: Callable[..., None]) -> list[NodeFolder]:
    """Make this machine, or one more node of it, a member of the token's system; return the new node's folder. `say` gets warnings."""
    text = tokens.decode(token)
    if name:
        tokens.check_name(name)
    for address in filter(None, (listen, advertise)):
        split_address(address)
    known = system.read(home.system_file, SystemFile) if home.system_file.exists() else None
    if known is not None and not (home.ca / "ca.crt").exists():
        raise CallerError(f"{home.path} belongs to a system but lacks its authority's certificate")
    machine = known.machine if known else os.urandom(16).hex()
    made = _in_child(lambda: _join(home, joining.Joining(text, machine, name, listen, advertise)))
    joined = msgspec.json.decode(made["joined"], type=Joined)
    if known is None:
        gateway = bool(joined.cluster) and _has_grpc()
        if gateway:
            cluster.write(home, msgspec.json.decode(joined.cluster, type=cluster.Cluster))
        system.write(
            home.system_file,
            SystemFile(
                joined.system,
                machine,
                joined.engine,
                joined.store_machine,
                joined.store_machine,
                joined.generation,
                joined.members,
                gateway=gateway,
            ),
        )
        if joined.cluster and not gateway:
            say(warning="this machine reaches the store through others, and keeps no copy of it: the package grpcio is not installed (unios[etcd])")
    for warning in made["warnings"]:
        say(**warning)
    return [home.node(joined.name)]


def _join(home: Home, attempt: joining.Joining) -> dict[str, Any]:
    """Join, and write what came of it: the child's part, since it has the big library."""
    made = asyncio.run(attempt.run())
    joined = msgspec.json.decode(made["joined"], type=Joined)
    durable.make_folders(home.ca)
    if not (home.ca / "ca.crt").exists():
        certificates.write_secret(home.ca / "ca.crt", made["authority"].encode())
    granted = certificates.identity_of({"subjectAltName": (("URI", _uri(joined.certificate)),)})
    assert granted is not None
    file = NodeFile(joined.name, granted.users, made["listen"], attempt.advertise, made["address"])
    shutil.rmtree(quorum_member.folder_of(home.node(joined.name)), ignore_errors=True)  # of an earlier node of that name: no member of this one
    _write_node(home, file, made["key"].encode(), joined.certificate)
    return {"joined": made["joined"], "warnings": made["warnings"]}


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

    token: Token = ask(folder, "node.token", MakeToken(ttl_s=120, root=os.geteuid() == 0), Token)
    return token.token


def ask(folder: NodeFolder, op: str, body: object, type_: Any = Any, *, timeout_ms: int = 30_000) -> Any:
    """Ask a node of this machine once. Raises what it says is wrong, or OSError where none listens."""

    async def work() -> Any:
        peer = Peer(SocketTransport(connect_unix(Path(folder.door))), role="boot")
        try:
            await peer.start()
            return await peer.call(op, body, type_, timeout_ms=timeout_ms)
        finally:
            peer.close()

    return asyncio.run(work())
