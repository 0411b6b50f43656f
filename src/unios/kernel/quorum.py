"""What a node has to do with the system's own etcd: says where its member would be reached, and has it started and taken away as the records say.

A record that is gone means nothing (another machine may have had an older copy); one that says that the node is to have no member takes it away.
"""

import asyncio
import contextlib
import secrets
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from unios.core.addresses import EVERYWHERE, join_address, split_address
from unios.core.nodes import Etcd
from unios.core.quorum import PREFIX, VOTERS, QuorumRecord, record_key
from unios.errors import CallerError, Unavailable, UniosError
from unios.kernel import cluster, parts, quorum_member, runfiles, system
from unios.kernel.quorum_member import MemberFile
from unios.store.mirror import Mirror

if TYPE_CHECKING:
    from unios.kernel.node import Node

LOOK_S: Final = 0.5
PORTS_BELOW: Final = 10_000
PORTS_GIVEN_FROM: Final = 32_768
PORT_DRAWS: Final = 50
FOUND: Final = "found"
"""In the folder `etcd` of the first node of a system: it is to begin the cluster."""


class Offer(msgspec.Struct, omit_defaults=True):
    """etcd/offer.json: the ports that this node's member would have."""

    peer: int
    client: int


class Quorum:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._folder = quorum_member.folder_of(node.folder)
        self._mirror = Mirror(node.store, PREFIX, QuorumRecord, self._on_record)
        self._leaving = False
        self.offer: Etcd | None = None
        """What this node's record says of it; None: it can have no member."""

    def prepare(self) -> None:
        """Find out whether this node can have a member, and begin the cluster if that is its part. After links are taken; before there is a store."""
        node = self._node
        kept = cluster.read(node.home) if node.system.gateway else None
        path = quorum_member.binary() if kept is not None and kept.managed else ""
        if kept is None or not path:
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if quorum_member.read(node.folder) is None:
            shutil.rmtree(self._folder / "data", ignore_errors=True)
        listen = split_address(node.file.listen)[0]
        host = split_address(node.addresses.best)[0]
        ports = self._ports(listen)
        peer, client = (f"https://{join_address(host, port)}" for port in (ports.peer, ports.client))
        self.offer = Etcd(quorum_member.version(path), peer, client)
        if (self._folder / FOUND).exists():
            self._begin(MemberFile(node.name, peer, client, {node.name: peer}, listen=listen), kept)
        elif (mine := quorum_member.read(node.folder)) is not None and (mine.peer, mine.client, mine.listen) != (peer, client, listen):
            self._write(msgspec.structs.replace(mine, peer=peer, client=client, listen=listen))

    def _ports(self, listen: str) -> Offer:
        path = self._folder / "offer.json"
        with contextlib.suppress(FileNotFoundError):
            return system.read(path, Offer)
        host = "" if listen in EVERYWHERE else listen
        made = Offer(*_free_ports(host))
        system.write(path, made)
        return made

    def _begin(self, member: MemberFile, kept: cluster.Cluster) -> None:
        self._write(member)
        cluster.write(self._node.home, msgspec.structs.replace(kept, members=(member.client.removeprefix("https://"),)))
        (self._folder / FOUND).unlink()

    def _write(self, member: MemberFile) -> None:
        system.write(parts.wanted(self._node.folder, "member"), member)
        parts.wake(self._node.folder)

    @property
    def keepers(self) -> list[str]:
        """Return the nodes that have, or are to have, a member, by name; empty where the system does not run its own etcd."""
        return sorted(record.node for record in self._mirror.values.values() if record.wanted)

    def notes(self) -> Iterator[str]:
        """Return what is to be said of how few copies there are."""
        names = self.keepers
        if self.offer is not None and 0 < len(names) < VOTERS:
            yield (
                f"the store has {'one copy' if len(names) == 1 else f'{len(names)} copies'}, on {' and '.join(names)}: while that is away running processes "
                "freeze and nothing can be started; with three nodes that have etcd it gets three copies, of which one may be lost"
            )

    async def check_leave(self) -> None:
        """Raise CallerError if the others could not go on without this node's member."""
        if self.offer is None or quorum_member.read(self._node.folder) is None:
            return
        voters = [one for one in await self._node.store.members() if not one.learner]
        if any(one.peer == self.offer.peer for one in voters) and (len(voters) - 1) * 2 <= len(voters):
            others = "the only copy" if len(voters) == 1 else f"one of only {len(voters)} copies"
            raise CallerError(
                f"{self._node.name} has {others} of the system's store, and cannot leave it; with three nodes that have etcd there are three in a "
                "few seconds; `unios down` stops the system"
            )

    async def run(self) -> None:
        """Follow the records; ends only by cancellation."""
        if self.offer is not None:
            await self._mirror.run()

    def _on_record(self, _key: str, _before: QuorumRecord | None, now: QuorumRecord | None) -> None:
        node = self._node
        if now is None or now.node != node.name or self.offer is None:
            return
        mine = quorum_member.read(node.folder)
        if now.wanted and mine is None:
            listen = split_address(node.file.listen)[0]
            self._write(MemberFile(node.name, self.offer.peer, self.offer.client, now.initial, joins=True, listen=listen))
        elif now.wanted and mine is not None and mine.leaving:
            self._write(msgspec.structs.replace(mine, leaving=False))
        elif not now.wanted and mine is not None and not self._leaving:
            self._leaving = True
            self._write(msgspec.structs.replace(mine, leaving=True))
            node.start(self._take_down(mine))
        elif not now.wanted and mine is None:
            node.start(self._forget_record())

    async def _take_down(self, mine: MemberFile) -> None:
        """Take the member away once the others have let it go: before that it may be the one that they need for it."""
        try:
            while await self._is_member(mine):
                await asyncio.sleep(LOOK_S)
                record = self._mirror.values.get(record_key(self._node.name))
                if record is not None and record.wanted:
                    return
            folder = self._node.folder
            self.forget()
            while (running := runfiles.read(folder.run / "member.json")) is not None:
                runfiles.kill(running, signal.SIGTERM)
                await asyncio.sleep(LOOK_S)
            shutil.rmtree(self._folder / "data", ignore_errors=True)
            await self._forget_record()
        finally:
            self._leaving = False

    async def _is_member(self, mine: MemberFile) -> bool:
        try:
            return any(one.peer == mine.peer for one in await self._node.store.members())
        except UniosError:
            return True

    async def _forget_record(self) -> None:
        with contextlib.suppress(UniosError):
            await self._node.store.delete(record_key(self._node.name))

    def forget(self) -> None:
        """This node has no member any more: its copy is of no use to anybody, and one that is added later is a new one."""
        parts.wanted(self._node.folder, "member").unlink(missing_ok=True)


def _free_ports(host: str) -> tuple[int, int]:
    """Draw two ports that nobody listens at, and that Linux does not give to connections: they may be needed only much later, and for good."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for _attempt in range(PORT_DRAWS):
            sock = held.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            with contextlib.suppress(OSError):
                sock.bind((host, _given_from() - 1 - secrets.randbelow(PORTS_BELOW)))
                found.append(sock.getsockname()[1])
            if len(found) == 2:
                return found[0], found[1]
    raise Unavailable(f"no two free ports are found below {_given_from()} for a member of etcd")


def _given_from() -> int:
    """Return the lowest port that Linux gives to connections."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return max(2 * PORTS_BELOW, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]))
    return PORTS_GIVEN_FROM


def mark_founder(folder: Path) -> None:
    """Have the node whose folder for etcd that is begin the cluster."""
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / FOUND).touch(mode=0o600)
