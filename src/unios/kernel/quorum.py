"""What a node has to do with the system's own etcd: says where its member would be reached, and has it started and taken away as the records say.

A record that is gone means nothing (another machine may have had an older copy); one that says that the node is to have no member takes it away.
"""

import asyncio
import contextlib
import secrets
import shutil
import signal
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from unios import durable
from unios.core import upkeep
from unios.core.addresses import EVERYWHERE, join_address, split_address
from unios.core.nodes import Etcd, NodeRecord
from unios.core.quorum import CHANGES, LEAVING, PREFIX, VOTERS, QuorumRecord, record_key
from unios.errors import CallerError, Unavailable, UniosError
from unios.kernel import cluster, parts, quorum_member, runfiles, system
from unios.kernel.quorum_member import MemberFile
from unios.store.etcd.channel import FULL, FULL_OURS
from unios.store.mirror import Mirror
from unios.store.model import Compare, Put, Range, RangeResult, Transaction
from unios.store.requests import Health, MemberHealth, MemberRequest, MemberView
from unios.wire.home import NodeFolder

if TYPE_CHECKING:
    from unios.kernel.node import Node

LOOK_S: Final = 0.5
PATIENT_LOOKS: Final = 10
"""So often a member that is taken down is asked to end."""
HEALTH_S: Final = 30.0
"""How often is looked how the members are, for who asks for the system's status."""
LET_GO_S: Final = 7.0
"""So long a node that leaves waits until its member is let go: two looks of the recovery service and a member that is slow."""
DECISIONS_MAX: Final = 5
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
        self._at_work = False
        self._complained = ""
        self._deciding = asyncio.Lock()
        self._asked = 0
        """How often this node has asked whether it may leave."""
        self._health = Health()
        self._begun = asyncio.Event()
        self.offer: Etcd | None = None
        """What this node's record says of it; None: it can have no member."""

    async def prepare(self) -> None:
        """Find out whether this node can have a member, and begin the cluster if that is its part. After links are taken; before there is a store."""
        await asyncio.to_thread(self._prepare)  # etcd is asked for its version: from a cold disk that takes longer than a kernel may be silent

    def _prepare(self) -> None:
        node = self._node
        kept = cluster.read(node.home) if node.system.gateway else None
        if kept is None or not kept.managed:
            self.offer = None
            return
        self._prepare_member(kept)

    def _prepare_member(self, kept: cluster.Cluster) -> None:
        node = self._node
        path, mine = quorum_member.binary(), quorum_member.read(node.folder)
        if not path and mine is None:  # who has one keeps it: the program is perhaps away for an upgrade
            return
        listen = split_address(node.file.listen)[0]
        host = split_address(node.addresses.best)[0]
        try:
            durable.make_folders(self._folder)
            ports = self._ports(listen)
            peer, client = (f"https://{join_address(host, port)}" for port in (ports.peer, ports.client))
            self.offer = Etcd(quorum_member.version(path) if path else "", peer, client)
            if (self._folder / FOUND).exists():
                self._begin(MemberFile(node.name, peer, client, {node.name: peer}, listen=listen))
            elif mine is not None:
                if (mine.peer, mine.client, mine.listen) != (peer, client, listen):
                    self._write(msgspec.structs.replace(mine, peer=peer, client=client, listen=listen))
                self._readdress(kept, mine.client.removeprefix("https://"), client.removeprefix("https://"))
        except (OSError, Unavailable) as error:  # a full disk, no free ports: that is no reason to have no kernel
            runfiles.complain(f"the store's member of {node.name} cannot be seen to until that is mended and it is started again: {error}")

    async def found(self) -> None:
        """Have this node begin a cluster that nobody asks yet, for the store to be moved to; whatever an earlier attempt has left goes. Raises InternalError,
        OSError, Unavailable."""
        node = self._node
        await self.unfound()
        made = await asyncio.to_thread(cluster.begun, node.system.id)
        await asyncio.to_thread(self._found, made)
        if quorum_member.read(node.folder) is None:
            await self.unfound()
            raise Unavailable(f"{node.name} cannot begin a member of etcd: see {node.folder.log}/kernel.log")

    def _found(self, made: cluster.Cluster) -> None:
        cluster.write(self._node.home, made)
        mark_founder(self._folder)
        self._prepare_member(made)

    async def unfound(self) -> None:
        """Have no cluster on this machine, and no member of one on any node of it: none is the store's."""
        for folder in self._node.home.nodes():
            await _take_down(folder)
        (self._node.home.store / cluster.FILE).unlink(missing_ok=True)
        self.offer = None

    def has_any(self) -> bool:
        """Return whether there is a cluster on this machine, or a member of one on any node of it."""
        home = self._node.home
        return (home.store / cluster.FILE).exists() or any(parts.wanted(folder, "member").exists() for folder in home.nodes())

    async def begin(self) -> None:
        """Do from now on what a node does whose store is in etcd, or is so no more."""
        self._health = Health()
        await self.prepare()
        self._begun.set()

    async def readdress(self) -> None:
        """Have the member, if there is one, be reached where this node is now; `offer` says it. Etcd is started anew for that: it tells where clients find
        it, and shows certificates for its addresses, from then on."""
        if self.offer is None:
            return
        before = self.offer
        try:
            await asyncio.to_thread(self._prepare)
        except UniosError as error:
            runfiles.complain(f"the store's member of {self._node.name} is not told the new address: {error}")
        if self.offer != before:
            quorum_member.start_anew(self._node.folder)

    def _readdress(self, kept: cluster.Cluster, before: str, now: str) -> None:
        """Have the gateway of this machine ask its member where that is now: of the only one nobody else can tell it."""
        if now in kept.members:
            return

        def wanted(kept: cluster.Cluster) -> cluster.Cluster:
            return msgspec.structs.replace(kept, members=(now, *(one for one in kept.members if one not in (before, now))))

        cluster.change(self._node.home, wanted)
        for folder in self._node.home.nodes():
            if (running := runfiles.read(folder.run / "store.json")) is not None:
                runfiles.kill(running, signal.SIGTERM)  # it may have read the old ones; whoever started it does so again

    def _ports(self, listen: str) -> Offer:
        path = self._folder / "offer.json"
        with contextlib.suppress(FileNotFoundError):
            return system.read(path, Offer)
        host = "" if listen in EVERYWHERE else listen
        made = Offer(*_free_ports(host))
        system.write(path, made)
        return made

    def _begin(self, member: MemberFile) -> None:
        self._write(member)
        cluster.change(self._node.home, lambda kept: msgspec.structs.replace(kept, members=(member.client.removeprefix("https://"),)))
        (self._folder / FOUND).unlink()
        durable.sync_folder(self._folder)  # or it would be begun once more after a power cut

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

    def warnings(self) -> Iterator[str]:
        """Return what is wrong with the store's members, as far as this kernel has asked, and who must act."""
        quota, members = self._health.quota_bytes, self._health.members
        names = self._names(members)
        for one in members:
            if one.alarm == "corrupt":
                yield (
                    f"the copy of the store on {names[one.id]} differs from the others (alarm corrupt): `unios leave --node {names[one.id]}` and join again"
                )
        full = [names[one.id] for one in members if one.alarm == "nospace"]
        used = max((one.used_bytes for one in members), default=0)
        if full:
            yield f"the store takes no writes, its space is used up on {' and '.join(full)}: {FULL_OURS if quota else FULL}"
        elif upkeep.is_short(used, quota):
            yield (
                f"the store's records take {used >> 20} MiB of the {quota >> 20} that it may have; at that it takes no writes: raise quota_bytes in "
                "store/cluster.json on each machine that has it, and start the nodes there anew, one machine after the other"
            )

    def _names(self, members: Iterable[MemberHealth]) -> dict[int, str]:
        peers = {record.etcd.peer: record.name for record in self._node.nodes.values.values() if record.etcd is not None}
        return {one.id: peers.get(one.peer, one.name or one.peer) for one in members}

    async def _watch_health(self) -> None:
        while True:
            with contextlib.suppress(UniosError):
                self._health = await self._node.store.health() if self._node.system.gateway else Health()
            await asyncio.sleep(HEALTH_S)

    async def check_leave(self, together: Collection[str]) -> None:
        """Raise CallerError if the others could not go on without this node's member; else have that written, so that who decides next knows of it.

        `together`: nodes that leave with it. Decided on what the store has now, and not on what is known here, and by one after the other.
        """
        node = self._node
        if self.offer is None or quorum_member.read(node.folder) is None:
            return
        async with self._deciding:
            self._asked += 1
            await self._decide_leave(together)

    async def _decide_leave(self, together: Collection[str]) -> None:
        node = self._node
        for _attempt in range(DECISIONS_MAX):
            before = Transaction(then=(Range(CHANGES), Range(LEAVING, prefix=True), Range("/nodes/", prefix=True), Range("/alive/", prefix=True)))
            changes, *seen = (one.records if isinstance(one, RangeResult) else () for one in (await node.store.transact(before)).results)
            going, records, alive = ({record.key.rpartition("/")[2]: record.value for record in one} for one in seen)
            nodes = {name: msgspec.msgpack.decode(value, type=NodeRecord) for name, value in records.items()}
            there = {name for name, one in nodes.items() if name in alive and one.state == "joined" and name not in (*going, *together)}
            self._check_rest(await node.store.members(), nodes, there)
            decided = Transaction(
                (Compare(CHANGES, "modified", "==", changes[0].modified if changes else 0),),
                (Put(CHANGES, b""), Put(LEAVING + node.name, b"", node.leasing.lease)),
            )
            if (await node.store.transact(decided)).succeeded:
                return
        raise Unavailable("others leave, or the store's members change, at the same time: try again")

    async def stay(self) -> None:
        """This node does not leave after all: have that written, however long it takes; until it asks again whether it may."""
        asked = self._asked
        while self.offer is not None:
            async with self._deciding:
                if self._asked != asked:
                    return
                with contextlib.suppress(UniosError):
                    await self._node.store.delete(LEAVING + self._node.name)
                    return
            await asyncio.sleep(LOOK_S)

    def _check_rest(self, members: Iterable[MemberView], nodes: Mapping[str, NodeRecord], there: Collection[str]) -> None:
        """Raise CallerError if those that are `there` could not decide without this node."""
        node, voters = self._node, [one for one in members if not one.learner]
        if self.offer is None or all(one.peer != self.offer.peer for one in voters):
            return
        others = {record.etcd.peer: name for name, record in nodes.items() if record.etcd is not None and name != node.name}
        names = [others.get(one.peer, one.name) for one in voters if one.peer != self.offer.peer]
        away = [name for name in names if name not in there]
        if (len(names) - len(away)) * 2 > len(voters):
            return
        if (len(voters) - 1) * 2 > len(voters):
            raise CallerError(
                f"{node.name} has one of {len(voters)} copies of the system's store, and {' and '.join(away)}, which has another, is away or leaves too: "
                "the rest could not go on; wait until there are others"
            )
        copies = "the only copy" if len(voters) == 1 else f"one of only {len(voters)} copies"
        raise CallerError(
            f"{node.name} has {copies} of the system's store, and cannot leave it; with three nodes that have etcd there are three in a "
            "few seconds; `unios down` stops the system"
        )

    async def let_go(self) -> None:
        """Wait a while until the others have let the member go of a node that has left, as they need it until then; then have none any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LET_GO_S):
                while self.offer is not None and (mine := quorum_member.read(self._node.folder)) is not None and await self._is_member(mine):
                    await asyncio.sleep(LOOK_S)
        self.forget()

    async def run(self) -> None:
        """Follow the records, and look how the members are; ends only by cancellation."""
        mirrors = watches = False
        async with asyncio.TaskGroup() as group:
            while True:
                if self.offer is not None and self._node.system.gateway and not mirrors:
                    mirrors = group.create_task(self._mirror.run()) is not None
                if self._node.system.gateway and not watches:
                    watches = group.create_task(self._watch_health()) is not None
                self._begun.clear()
                await self._begun.wait()

    def _on_record(self, _key: str, _before: QuorumRecord | None, now: QuorumRecord | None) -> None:
        if now is None or now.node != self._node.name or self.offer is None or self._at_work:
            return
        self._at_work = True
        self._node.start(self._follow())

    async def _follow(self) -> None:
        """Do what this node's record says, step by step, until that is done: it may change meanwhile, etcd be away, the disk be full."""
        try:
            while (record := self._mirror.values.get(record_key(self._node.name))) is not None and not await self._is_done(record):
                await asyncio.sleep(LOOK_S)
        finally:
            self._at_work = False

    async def _is_done(self, record: QuorumRecord) -> bool:
        """Take the next step; return whether there was none."""
        try:
            mine = quorum_member.read(self._node.folder)
            if mine is None:
                await (self._begin_anew(record) if record.wanted else self._forget_record())
                return False
            if record.wanted and record.member and not mine.member:
                mine = msgspec.structs.replace(mine, member=record.member)
                self._write(mine)
            if record.wanted and record.member in (0, mine.member):
                if mine.leaving:
                    self._write(msgspec.structs.replace(mine, leaving=False))
                return True
            if not mine.leaving:
                self._write(msgspec.structs.replace(mine, leaving=True))
            # once the others have let it go: before that it may be the one that they need for it
            if not await self._is_member(mine):
                await self._take_down()
        except (OSError, UniosError) as error:
            if str(error) != self._complained:
                self._complained = str(error)
                runfiles.complain(f"what {self._node.name} has to do with the store's members cannot be done yet: {error}")
        return False

    async def _begin_anew(self, record: QuorumRecord) -> None:
        """Have a member that etcd knows to be new. One that has begun once, and lost what it had, has voted and acknowledged: it is taken out instead."""
        node, offer = self._node, self.offer
        found = next((one for one in await node.store.members() if offer is not None and one.peer == offer.peer), None)
        if found is None or offer is None:
            return
        if found.name:
            await node.store.change_member(MemberRequest("remove", found.id))
            return
        await self._take_down()
        listen = split_address(node.file.listen)[0]
        self._write(MemberFile(node.name, offer.peer, offer.client, record.initial, joins=True, listen=listen, member=found.id))

    async def _take_down(self) -> None:
        """Have no member and no copy; nothing starts one until `member.json` is written again."""
        await _take_down(self._node.folder)

    async def _is_member(self, mine: MemberFile) -> bool:
        try:
            members = await self._node.store.members()
        except UniosError:
            return True
        return any(one.id == mine.member if mine.member else one.peer == mine.peer for one in members)

    async def _forget_record(self) -> None:
        with contextlib.suppress(UniosError):
            await self._node.store.delete(record_key(self._node.name))

    def forget(self) -> None:
        """This node has no member any more: its copy is of no use to anybody, and one that is added later is a new one."""
        parts.wanted(self._node.folder, "member").unlink(missing_ok=True)


async def _take_down(folder: NodeFolder) -> None:
    parts.wanted(folder, "member").unlink(missing_ok=True)
    looks = 0
    while (running := runfiles.read(folder.run / "member.json")) is not None:
        looks += 1
        runfiles.kill(running, signal.SIGTERM if looks < PATIENT_LOOKS else signal.SIGKILL)  # etcd ends with it
        await asyncio.sleep(LOOK_S)
    mine = quorum_member.folder_of(folder)
    await asyncio.to_thread(shutil.rmtree, mine / "data", ignore_errors=True)  # up to 4 GB
    (mine / quorum_member.BEGUN).unlink(missing_ok=True)


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
    durable.make_folders(folder)
    durable.place(folder / FOUND, b"")
