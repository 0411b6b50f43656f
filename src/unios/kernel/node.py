"""Node: the kernel's process. Puts the parts together: door, links, ports, trees, records, lease; and keeps them until SIGTERM.

It decides nothing that two sites could want differently. It may be killed at any moment: trees have inits of their own, and what must be remembered is
in the store or in the node's folder.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from unios import __version__, errors
from unios.core import membership as members
from unios.core import sequences
from unios.core.membership import Membership
from unios.core.nodes import Alive, NodeRecord, alive_key, covers, may_speak_for, node_key, rank_of
from unios.core.processes import ProcessRecord, process_key
from unios.core.rules import POLICY_KEY, PolicyRule, Rule
from unios.core.rules import PREFIX as RULES
from unios.core.sequences import ARRIVAL, EXIT, FENCE, HOUSEKEEPING, LEASE, LINK
from unios.errors import UniosError
from unios.kernel import keys, offering, parts, quorum_member, runfiles, sequencer, system
from unios.kernel.acquaintance import Acquaintance
from unios.kernel.addresses import Addresses
from unios.kernel.admission import Admission
from unios.kernel.auditing import Auditing
from unios.kernel.callers import user_of
from unios.kernel.carrying import Carrying
from unios.kernel.certificates import Identity, mark
from unios.kernel.clocks import boot_ms, wall_ms
from unios.kernel.device_keeping import DeviceKeeping
from unios.kernel.dispatch import Dispatch
from unios.kernel.door import Door
from unios.kernel.engine_moving import EngineMoving
from unios.kernel.events import Events
from unios.kernel.expelling import Expelling
from unios.kernel.gateways import Gateways
from unios.kernel.journals import open_journal
from unios.kernel.last_watch import LastWatch
from unios.kernel.leasing import DeadlinePage, Leasing
from unios.kernel.link_warnings import link_notes, link_warnings
from unios.kernel.links import Links
from unios.kernel.log_keeping import LogKeeping
from unios.kernel.memory_kills import MemoryKills
from unios.kernel.mount_keeping import MountKeeping
from unios.kernel.node_operations import service_view
from unios.kernel.part_events import PartEvents
from unios.kernel.place import place_of, twin_text
from unios.kernel.port_operations import PortOperations
from unios.kernel.port_places import PortPlaces
from unios.kernel.ports import SERVICES, Broker, PortRecord
from unios.kernel.publishing import Publishing
from unios.kernel.quorum import Quorum
from unios.kernel.quorum_search import MemberSearch
from unios.kernel.reconciling import Reconciling
from unios.kernel.records import Records
from unios.kernel.registration import Registration
from unios.kernel.rekeying import Rekeying
from unios.kernel.renewing import Renewing
from unios.kernel.spawning import Recorder, Starts
from unios.kernel.stopping import Stopping
from unios.kernel.store_gate import StoreGate
from unios.kernel.store_way import StoreWay
from unios.kernel.system import NodeFile, SystemFile
from unios.kernel.throttle_watch import ThrottleWatch
from unios.kernel.time_limits import TimeLimits
from unios.kernel.tokens import Tokens
from unios.kernel.trees import Trees
from unios.limits import BEAT_MS, DISK_RETRY_S
from unios.store.client import StoreClient
from unios.store.mirror import Mirror
from unios.wire.beating import beat_while_turning
from unios.wire.home import Home, NodeFolder
from unios.wire.operations import ServiceView
from unios.wire.running import context_of, in_sequence
from unios.wire.ticks import tick
from unios.wire.tls import client_context, server_context

MEMBERS_S: Final = 1.0
"""How often is looked whether the members have changed."""
CALM_MS: Final = 100
"""A kernel is in no hurry to hear of processes that nobody waits for here."""


class Node:
    """One kernel. Everything in it belongs to the loop's thread."""

    def __init__(self, folder: NodeFolder) -> None:
        self.folder = folder
        self.home = Home(parts.home_of(folder))
        self.name = folder.name
        self.system = system.read(self.home.system_file, SystemFile)
        self.file = system.read(folder.node_file, NodeFile)
        self.user = user_of(os.geteuid())
        keys.install(folder.path)
        self.certificate = mark((folder.path / "node.crt").read_bytes())
        self.place = place_of(folder.path)
        self.why_not = ""
        """What keeps this node from its system and does not pass by itself: another version, no right to be there any more."""
        self.identity = Identity(self.system.id, self.name, self.system.machine, self.file.users)
        self.journal = open_journal(folder, "kernel")
        self.membership = Membership(self.name)
        self.store_way = StoreWay(self)
        self.store = self.store_way.client()
        self.records = Records(self.store)
        self.events = Events(self.store, self.name, wall_ms)
        self.starts = Starts()
        self.devices = DeviceKeeping(self)
        self.cores = self.file.cores or os.cpu_count() or 1
        self.admission = Admission(self)
        self.recorder = Recorder(self)
        self.trees = Trees(folder, self.recorder.ended, lambda: None)
        self.broker = Broker(self.name, self._port_changed)
        self.publishing = Publishing(self.name, self.broker, self.store)
        self.port_places = PortPlaces(self.name, self.broker.has)
        self.registration = Registration(self)
        self.reconciling = Reconciling(self)
        self.part_events = PartEvents(self)
        self.leasing = Leasing(self.store, DeadlinePage(folder.lease), self.registration.register, self.reconciling.check_claims, self.journal)
        self.stopping = Stopping(self)
        self.tokens = Tokens(self)
        self.expelling = Expelling(self)
        self.acquaintance = Acquaintance(self)
        self.auditing = Auditing(self)
        self.renewing = Renewing(self)
        self.addresses = Addresses(self)
        self.quorum = Quorum(self)
        self.dispatch = Dispatch(self.name)
        self.dispatch.told = self.auditing.told
        self.links = self._make_links()
        self.dispatch.links = self.links
        self.links.twin = self._twin
        self.links.rank = lambda name, mark: rank_of(self.nodes.values.get(node_key(name)), mark)
        self.links.until_ms = self.renewing.renewal.validity.until_ms
        self.nodes = Mirror(self.store, "/nodes/", NodeRecord, self._on_node)
        self.alive = Mirror(self.store, "/alive/", Alive, self._on_alive)
        self.processes = Mirror(self.store, "/processes/", ProcessRecord, calm_ms=CALM_MS, hurries=True)
        self.port_records = Mirror(self.store, "/ports/", PortRecord, self.port_places.on_change)
        self.rules: Mirror[Rule] = Mirror(self.store, RULES, Rule)  # type: ignore[arg-type]
        self._tasks: set[asyncio.Task[Any]] = set()
        self._members_dirty = False
        self.engine_moving = EngineMoving(self)
        self.gateways = Gateways(self)
        self.rekeying = Rekeying(self)
        self._keeps_output = False
        self.carrying = Carrying(self)
        self.log_keeping = LogKeeping(self)
        self.gate = StoreGate(lambda: StoreClient(self.store_way.peer))
        ways = (self._places, self.port_places.wait, self._port_changed, self.store_way.connection)
        self.port_operations = PortOperations(
            self.name, self.broker, self.links, *ways, self.gate, self.speaks_for, lambda name: parts.want(folder, name)
        )
        self.mount_keeping = MountKeeping(folder, lambda: parts.want(folder, "files"), home=self.home.path)
        offering.offer(self)

    @staticmethod
    def wall_ms() -> int:
        return wall_ms()

    @property
    def address(self) -> str:
        """Where other kernels reach this one, the best if there are several."""
        return self.addresses.best

    def _make_links(self) -> Links:
        folder = self.folder.path
        files = (self.home.ca / "ca.crt", folder / "node.crt", folder / "node.key")
        contexts = (server_context(*files), client_context(*files))
        facts = {"node": self.name, "system": self.system.id, "version": __version__, "place": self.place}
        return Links(
            self.identity, facts, contexts, self.dispatch.from_link, self.tokens.join, self._on_link, self.acquaintance.refusal, self._on_refused
        )

    def _on_refused(self, who: Identity, why: str, left: bool) -> None:
        if left and covers(who.users, self.identity.users):
            self.start(self.stopping.removed(why))
        else:
            self.keep_out(why)

    def keep_out(self, why: str) -> None:
        """Say what keeps this node from its system."""
        if not self.why_not:  # the first stands: how long it has stood is what boot looks at
            self.why_not = why
            with contextlib.suppress(OSError):
                runfiles.place(self.folder.run / "why", why)

    def _twin(self, name: str, place: str) -> str:
        """Return why a kernel of that name in that place is no node of the system: another one that is there has the name.

        Who is cut off from the store does not know who is there now: he lets it in, since that may be the store's machine that comes back.
        """
        if self.leasing.left_ms() <= 0:
            return ""
        record = self.nodes.values.get(node_key(name))
        alive = self.alive.values.get(alive_key(name))
        if record is None or alive is None or not place or record.place in ("", place):
            return ""
        return twin_text(name)

    # what mirrors and links tell

    def _tell(self, event: members.Event) -> None:
        changes = self.membership.on(event)
        if self.journal is not None:
            self.journal.write("membership", event, changes, id_=self.name, made=[self.name])

    def _on_node(self, _key: str, before: NodeRecord | None, now: NodeRecord | None) -> None:
        record = now or before
        assert record is not None
        gone = now is None or now.state == "left"
        if now is not None and gone and (now.name, now.certificate) == (self.name, self.certificate):
            self.start(self.stopping.removed("its record says so"))
        elif record.expelled and record.certificate:
            self.expelling.cut(record.name, (record.certificate, record.next_certificate))
        if record.name == self.name:  # it has registered, and the records are at least of then
            self.acquaintance.look_again()
        self._tell(members.NodeChanged(record.name, record.incarnation if now else 0, gone, boot_ms()))
        if gone:
            self.links.forget(record.name)
        else:
            self.links.know(record.name, record.addresses)
        self._members_dirty = True

    def _on_alive(self, key: str, _before: Alive | None, now: Alive | None) -> None:
        name = key.removeprefix("/alive/")
        self._tell(members.AliveChanged(name, now.incarnation if now else 0, boot_ms()))
        if now is not None:
            self.links.expect(name)

    def _on_link(self, name: str, up: bool, reason: str) -> None:
        self._tell(members.LinkChanged(name, up, reason, boot_ms()))

    # ports

    def _port_changed(self, name: str) -> None:
        """A port of this node was opened or is open no more."""
        self.port_places.changed(name)
        self.publishing.changed(name)

    def _places(self, name: str) -> Iterable[str]:
        found = self.port_places.of(name)
        if name in SERVICES:  # what is asked of a service is told to its node: it must be trusted with as much as this one
            found = [node for node in found if self.covers(node)]
        ready = {node: self.membership.view(node)[0] for node in found}
        records = self.nodes.values
        near = self.system.machine

        def distance(node: str) -> tuple[int, bool, str]:
            record = records.get(f"/nodes/{node}")
            return (0 if ready[node] == "ready" else 1, record is None or record.machine != near, node)

        return [node for node in sorted(found, key=distance) if ready[node] in ("ready", "suspect")]

    def covers(self, name: str) -> bool:
        """Whether that node speaks for everybody for whom this one does."""
        record = self.nodes.values.get(node_key(name))
        return record is not None and covers(record.users, self.identity.users)

    def speaks_for(self, name: str, user: str) -> bool:
        """Whether that node may act for that user: what it says of him is believed."""
        record = self.nodes.values.get(node_key(name))
        return record is not None and may_speak_for(record.users, user)

    # for the operations

    def keep_output(self) -> None:
        """Have what is said here copied to another node, from the first process on that runs while there is one."""
        if not self._keeps_output and len(self.nodes.values) > 1:
            self._keeps_output = True
            parts.want(self.folder, "archive")

    def holds_pending(self, pid: int, incarnation: int) -> bool:
        """Whether the mirror still says that a start of this process on this node is to come."""
        record = self.processes.values.get(process_key(pid))
        return record is not None and record.node == self.name and record.incarnation == incarnation and record.state == "pending"

    def parts(self) -> Iterator[ServiceView]:
        """Return what the supervisor says of the parts of this node."""
        try:
            listed = json.loads((self.folder.run / "parts").read_text())
        except (OSError, ValueError):
            listed = []
        leaves = quorum_member.leaves(self.folder)
        yield from (view for view in map(service_view, listed) if not (leaves and view.name == "member" and view.state == "waiting"))

    def notes(self) -> Iterator[str]:
        """Return what merely is so, and what that means, as sentences."""
        machines: dict[str, list[str]] = {}
        for record in self.nodes.values.values():
            if record.state == "joined":
                machines.setdefault(record.machine, []).append(record.name)
        for names in machines.values():
            if len(names) > 1:
                yield f"{', '.join(sorted(names))} share one machine and its fate: good for trying out, no protection against its loss"
        yield from self.system.notes()
        yield from self.quorum.notes()
        yield from self.rekeying.notes()
        yield from link_notes(self)

    def warnings(self) -> Iterator[str]:
        """Return what a person should know, as sentences: the notes, and what is wrong."""
        yield from self.notes()
        yield from self.quorum.warnings()
        for record in [record for record in self.nodes.values.values() if record.state == "joined"]:
            state, reason = self.membership.view(record.name)
            passing = state == "suspect" and self.membership.is_settling(record.name, boot_ms())
            if state in ("lost", "suspect") and not (record.stopped or passing):
                yield f"{record.name} is {state}: {reason}"
        rule = self.rules.values.get(POLICY_KEY)
        if isinstance(rule, PolicyRule) and rule.replaced:
            yield f"the placement policy {rule.name} was replaced by the default: {rule.replaced}; `unios policy {rule.name}` tries it again"
        for part in self.parts():
            if part.state == "waiting":
                yield f"{part.name} of {self.name} keeps dying: {part.reason}; see {self.folder.log}/{part.name}.log"
        if not self.trees.namespaces:
            yield f"processes of {self.name} get no pid namespace of their own: getpid() differs from the global pid; see `unios doctor`"
        yield from self.renewing.warnings()
        yield from link_warnings(self)

    # life

    def start(self, work: Any) -> None:
        """Run a task beside the rest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self, beat: Callable[[], None], stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        async with asyncio.TaskGroup() as group:
            end_beats = beat_while_turning(BEAT_MS / 1000, beat)
            self.addresses.listen()
            await self.quorum.prepare()
            for name, addresses in self.system.members.items():
                self.links.know(name, addresses)
            door = in_sequence(ARRIVAL, Door, self.folder, self.name, self.dispatch.from_client, self.trees.tree_of, self.links.holding)
            work: dict[Any, int] = {
                self.links: LINK,
                self.trees: EXIT,
                self.nodes: sequences.STORE,
                self.alive: sequences.STORE,
                self.processes: sequences.STORE,
                self.port_records: sequences.STORE,
                self.publishing: sequences.STORE,
                self.rules: sequences.STORE,
                self.leasing: LEASE,
                self.reconciling: FENCE,
                self.part_events: HOUSEKEEPING,
                LastWatch(self): HOUSEKEEPING,
                MemoryKills(self): HOUSEKEEPING,
                ThrottleWatch(self): HOUSEKEEPING,
                self.devices: HOUSEKEEPING,
                self.addresses: HOUSEKEEPING,
                self.quorum: HOUSEKEEPING,
                MemberSearch(self): HOUSEKEEPING,
                self.carrying: HOUSEKEEPING,
                self.mount_keeping: sequences.CALL,
                self.auditing: HOUSEKEEPING,
                self.renewing: HOUSEKEEPING,
                TimeLimits(self): HOUSEKEEPING,
            }
            tasks = [group.create_task(part.run(), context=context_of(sequence)) for part, sequence in work.items()]
            tasks += [group.create_task(self._say_ready()), group.create_task(self._remember_members(), context=context_of(HOUSEKEEPING))]
            await stop.wait()
            door.close()
            end_beats()
            for task in tasks:
                task.cancel()
        self.port_operations.close()
        self.broker.close()
        self.trees.close()
        self.carrying.close()
        self.log_keeping.close()
        self.mount_keeping.close()
        await self.store.close()

    async def _say_ready(self) -> None:
        for mirror in (self.nodes, self.alive, self.processes, self.port_records):
            await mirror.wait_complete()
        await self.leasing.wait_held()
        for name in ("failed", "why"):
            (self.folder.run / name).unlink(missing_ok=True)
        while not self._write_ready():
            await asyncio.sleep(DISK_RETRY_S)

    def _write_ready(self) -> bool:
        """Say on disk that this kernel serves; False if the disk is full."""
        try:
            runfiles.place(self.folder.ready, str(os.getpid()))
        except OSError:
            return False
        return True

    async def _remember_members(self) -> None:
        """Keep in system.json how the others are reached, so that they are found again while the store is away."""
        while True:
            await tick(MEMBERS_S)
            with contextlib.suppress(OSError, UniosError):
                await self.engine_moving.follow()
                await self.gateways.follow()
            is_new = self.nodes.revision is not None and self.nodes.revision.generation != self.system.generation
            if self._members_dirty or is_new:
                with contextlib.suppress(OSError), system.changing(self.home.system_file):  # a full disk: what it says is old until there is room
                    self._note_members(is_new=is_new)

    def _note_members(self, *, is_new: bool) -> None:
        joined = [record for record in self.nodes.values.values() if record.state == "joined" and record.addresses]
        file = system.read(self.home.system_file, SystemFile)
        file.members = {record.name: record.addresses for record in joined}
        file.machines = {record.name: record.machine for record in joined}
        file.left = {r.name: r.certificate for r in self.nodes.values.values() if r.state == "left" and r.certificate}
        if self.nodes.revision is not None:
            if is_new and self.system.generation:
                self.start(self.engine_moving.tell_generation(file))
            file.generation = self.nodes.revision.generation
        self.system.members, self.system.machines, self.system.left = file.members, file.machines, file.left
        self.system.generation = file.generation
        system.write(self.home.system_file, file)
        self._members_dirty = False


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Be the node's kernel until SIGTERM."""

    async def work() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await Node(folder).run(beat, stop)

    try:
        sequencer.run(work())
    except* UniosError as group:
        error = group.exceptions[0]
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        code, text = errors.to_wire(error)
        runfiles.place(folder.run / "failed", json.dumps({"error": code, "text": text}))
        raise
    return 0
