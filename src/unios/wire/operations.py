"""What may be asked of a kernel and of the first services: each operation's arguments and answers.

An operation is named `group.verb`. docs/kernel.md is its manual: rights, errors, idempotence. A request's `node` field sends it to
another node through this one; the answer is the same. argv, env and paths are bytes, since Linux does not promise text.
"""

import msgspec

from unios.demands import CARRY, PLACING, QUEUEING, RESOURCES, USAGE, Carry, Device, Placing, Queueing, Resources, Usage


class Empty(msgspec.Struct, frozen=True):
    """No arguments, or nothing to say."""


# ports


class Listen(msgspec.Struct, frozen=True, omit_defaults=True):
    """ports.listen -> Listening and one descriptor (SOCK_SEQPACKET): `Accepted` packets, each with one descriptor, are read from it."""

    name: str
    mode: int = 0o600
    """Who may connect, as in a file's mode: 0o600 the owner, 0o666 everybody."""


class Listening(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who has opened a port: the Linux pid of a kernel, and its node."""

    kernel: int = 0
    node: str = ""


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A connection handed to a listener; the stamp is the kernel's, not the caller's."""

    connection: int
    port: str
    user: str
    privileged: bool
    node: str
    pid: int = 0
    """The caller's global pid if it is a process of the system, else 0."""
    incarnation: int = 0


class Connect(msgspec.Struct, frozen=True, omit_defaults=True):
    """ports.connect -> Connected and one descriptor (SOCK_STREAM)."""

    name: str
    wait_ms: int = 0
    """How long to wait for a port that nobody listens on."""
    pid: int = 0
    """With `incarnation`, of a kernel that relays (ports.relay): which of its processes asks."""
    incarnation: int = 0


class Connected(msgspec.Struct, frozen=True, omit_defaults=True):
    """`connection`: its id; 0 if it goes to another node. `owner`: the user who listens. `mine`: that is the asker, who may be sent pickles."""

    connection: int
    owner: str = ""
    mine: bool = False


class Revoke(msgspec.Struct, frozen=True, omit_defaults=True):
    """ports.revoke, ports.close: cut one brokered connection (both ends see the end), or with 0 the whole port; or, with a `user`, take back what was
    granted to him and cut his connections."""

    name: str = ""
    connection: int = 0
    user: str = ""


class Grant(msgspec.Struct, frozen=True):
    """ports.grant: let another user connect to a port of the caller's."""

    name: str
    user: str


# links


class TurnedAway(msgspec.Struct, frozen=True):
    """links.refused, between kernels: the other side is let in nowhere here, and why; it closes after that."""

    why: str


class RelayTo(msgspec.Struct, frozen=True):
    """links.relay: pass what follows on to node `to`, in both directions. links.accept: it comes through `to`. Kernels only."""

    to: str


class Pong(msgspec.Struct, frozen=True, omit_defaults=True):
    """links.ping -> Pong. `wall_ms`: the wall clock of who was asked; 0 from one who does not say."""

    wall_ms: int = 0


# processes


class Spawn(msgspec.Struct, frozen=True, omit_defaults=True):
    """processes.spawn -> Spawned. Starts the tree for a record that is assigned to the node asked. Idempotent.

    A privileged asker that has just written the record, under the condition that the node's lease was number `lease`, may send it along (msgpack of
    record and specification, and the record's revision number): then it is not read again.
    """

    pid: int
    incarnation: int
    lease: int = 0
    modified: int = 0
    record: bytes = b""
    spec: bytes = b""


class Spawned(msgspec.Struct, frozen=True):
    pid: int
    incarnation: int
    started_ms: int


class Signal(msgspec.Struct, frozen=True, omit_defaults=True):
    """processes.signal -> Signalled. `tree`: to every Linux process of the tree, not only to the program."""

    pid: int
    number: int
    tree: bool = False


class Signalled(msgspec.Struct, frozen=True, omit_defaults=True):
    """`waits`: a user has frozen the process, so it meets the signal when it is thawed. A kernel that does not know the field answers Empty: False."""

    waits: bool = False


class Renice(msgspec.Struct, frozen=True):
    """processes.renice -> Empty. The nice value of every Linux process of the tree, -20 (favoured) to 19."""

    pid: int
    nice: int


class OfProcess(msgspec.Struct, frozen=True, omit_defaults=True):
    """processes.wait -> ProcessView, processes.freeze, .thaw -> Empty, .stats -> ProcessStats.

    `timeout_ms` is for wait only: 0 means for ever; at the timeout the answer is the record as it stands.
    """

    pid: int
    timeout_ms: int = 0


class ProcessStats(msgspec.Struct, frozen=True):
    cpu_ms: int
    memory_bytes: int
    linux_processes: int


class ProcessView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A process as `ps` shows it."""

    pid: int
    state: str
    node: str
    user: str
    argv: tuple[bytes, ...]
    incarnation: int
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    restart: str = ""
    restarts: int = 0
    on_partition: str = ""
    wanted: str = ""
    created_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    resources: Resources = RESOURCES
    queueing: Queueing = QUEUEING
    placing: Placing = PLACING
    usage: Usage = USAGE
    nice: int = 0
    carried: bool = False
    """It runs in a folder that it took along."""
    why: str = ""
    """Why it was given its node."""
    stale_ms: int = 0
    """Of a list that may be stale: how old it may be; 0: the asked node heard from the store a moment ago."""


class ListProcesses(msgspec.Struct, frozen=True, omit_defaults=True):
    """processes.list -> tuple[ProcessView, ...] sorted by pid; linearizable. `ended`: those that have ended too. `stale`: as the asked node knows them, without
    a question to the store, each with its age."""

    ended: bool = False
    stale: bool = False


class UserUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """processes.usage -> tuple[UserUsage, ...]: what all processes of a user have used that have ended, sorted by user; all that ever ran."""

    user: str
    processes: int = 0
    cpu_ms: int = 0
    memory_peak_bytes: int = 0
    """Of the largest one."""


class Follow(msgspec.Struct, frozen=True, omit_defaults=True):
    """processes.follow -> stream of Chunk. Ends when the process has ended and all is read, or at once without `follow`.

    `hold`: the process waits for this reader rather than lose output. Offsets are bytes from the incarnation's start; negative:
    that many bytes before the present end. `incarnation` 0: the present one.
    """

    pid: int
    incarnation: int = 0
    out: int = 0
    err: int = 0
    follow: bool = True
    hold: bool = False


class Chunk(msgspec.Struct, frozen=True):
    """Bytes of one output stream ("out" or "err"). `lost`: bytes before it that are gone because of the bound."""

    stream: str
    incarnation: int
    offset: int
    data: bytes
    lost: int = 0


class Feed(msgspec.Struct, frozen=True):
    """processes.feed, then items of bytes: stdin. The end of the items is the end of stdin."""

    pid: int


# node


class NodeInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """node.info -> NodeInfo, of the node asked."""

    name: str
    system: str
    machine: str
    incarnation: int
    version: str
    kernel_pid: int
    pids: tuple[int, ...]
    """Every Linux pid that a power cut of the node would take, as the node's own machine numbers them."""
    cores: int
    user: str
    privileged: bool
    address: str
    store: str
    """"here" on the node that hosts the embedded store's process, else how it is reached."""
    lease_ms: int
    """What is left of the lease; below 0 the node is cut off."""
    namespaces: bool
    freezer: str
    services: tuple["ServiceView", ...] = ()
    bounded: tuple[str, ...] = ()
    """What of memory, pids and cpu Linux bounds for it: what is missing is only asked for."""
    addresses: tuple[str, ...] = ()
    disk_bytes: int = 0
    disk_free_bytes: int = 0
    """Of the file system with the node's UNIOS_HOME, as far as its user may use it."""
    release: str = ""
    """The version and a mark of the files that run."""


class ServiceView(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    pid: int
    restarts: int = 0
    state: str = "running"
    reason: str = ""


class NodeView(msgspec.Struct, frozen=True, omit_defaults=True):
    """node.list -> tuple[NodeView, ...], sorted by name."""

    name: str
    state: str
    """ready, suspect, lost, left"""
    machine: str
    incarnation: int
    kernel_pid: int = 0
    pids: tuple[int, ...] = ()
    """Of nodes of the asked kernel's machine; empty for others."""
    version: str = ""
    cores: int = 0
    users: tuple[str, ...] = ()
    running: int = 0
    reason: str = ""
    memory_bytes: int = 0
    devices: tuple[Device, ...] = ()
    addresses: tuple[str, ...] = ()
    """Where it takes links, the best first."""
    settling: bool = False
    """Whether it, or the asked kernel's link to it, came or went a moment ago: if it is suspect, that passes."""
    flaps: bool = False
    """Whether it is lost and comes back again and again: nothing new is placed on it until it has stayed for a while."""
    stale_ms: int = 0
    """How old what is said here may be; 0: the asked node heard from the store a moment ago."""
    protocol: int = 1
    """The newest protocol of links that it speaks, and `protocol_min` the oldest."""
    protocol_min: int = 1
    release: str = ""
    """The version and a mark of the files of what it runs; "" of an older one."""


class ProcessUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process that lives uses now. Counts begin with its incarnation."""

    pid: int
    incarnation: int
    user: str
    state: str
    cpu_ms: int = 0
    memory_bytes: int = 0
    """Without what Linux only keeps because there is room, such as files that were read."""
    linux_processes: int = 0


class NodeUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """node.usage -> NodeUsage, of the node asked: what its machine and its processes use now. Counts only rise: two answers show what came between."""

    node: str
    at_ms: int
    """CLOCK_BOOTTIME of its machine: to be compared with another answer of the same node only."""
    cores: int
    cpu_busy_ms: int
    """Of all cores of the machine together, whoever used them."""
    cpu_percent: float
    """Of all cores, since an earlier answer to whomever, or since the machine's start: a first figure for who has asked only once."""
    memory_bytes: int
    memory_used_bytes: int
    """What nobody could get without taking it from a process."""
    load: tuple[float, float, float]
    processes: tuple[ProcessUsage, ...] = ()
    """Those whose trees live here, by pid."""


class LinkView(msgspec.Struct, frozen=True, omit_defaults=True):
    """node.links -> tuple[LinkView, ...]"""

    node: str
    up: bool
    via: str = ""
    rtt_ms: float = 0.0
    reason: str = ""
    version: str = ""
    """Of unios, at the other end."""
    clock_ms: float = 0.0
    """How far its wall clock is ahead of the asked node's; below 0 behind."""
    clock_doubt_ms: float = 0.0


class SystemView(msgspec.Struct, frozen=True, omit_defaults=True):
    """node.status -> SystemView: the system at a glance. `warnings` are sentences: what is wrong and what to type."""

    system: str
    version: str
    engine: str
    store_machine: str
    nodes: tuple[NodeView, ...]
    processes: dict[str, int]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Those of the warnings that merely are so and need nobody now."""
    keepers: tuple[str, ...] = ()
    """The nodes that have a member of the system's own etcd."""
    stale_ms: int = 0
    """How old all of this may be; 0: the asked node heard from the store a moment ago."""


class WatchEvents(msgspec.Struct, frozen=True, omit_defaults=True):
    """node.events -> stream of EventView, oldest first; with `follow` it goes on."""

    follow: bool = False
    last: int = 0
    """Only that many of the past; 0: all that are kept."""


class EventView(msgspec.Struct, frozen=True, omit_defaults=True):
    at_ms: int
    """Wall clock of the node that saw it, ms since 1970."""
    node: str
    kind: str
    text: str
    pid: int = 0


class MakeToken(msgspec.Struct, frozen=True, omit_defaults=True):
    """node.token -> Token: admits one node, once, for `ttl_s` seconds. `root`: its root may act as root everywhere; else it speaks for others only."""

    ttl_s: int = 0
    root: bool = False


class Token(msgspec.Struct, frozen=True):
    token: str
    expires_ms: int
    addresses: tuple[str, ...]


class Leave(msgspec.Struct, frozen=True, omit_defaults=True):
    """node.leave: what it runs is started again elsewhere, the node leaves for good and stops. node.stop: it only stops."""

    force: bool = False
    """Even if that ends processes that cannot run elsewhere."""
    together: tuple[str, ...] = ()
    """Nodes that stop at the same time, so that nothing is moved to them."""


class RemoveNode(msgspec.Struct, frozen=True):
    """node.remove -> Empty: a node that is lost, and shall not come back, leaves the system."""

    name: str


# service `placement`


class Program(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to run. Field by field the ProcessSpec of core/processes.py, where each is explained."""

    argv: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...] = ()
    cwd: bytes = b"/"
    user: str = ""
    umask: int = 0o022
    limits: dict[str, tuple[int, int]] = {}
    stdin: bool = False
    hold: bool = False
    restart: str = "on-loss"
    restarts_max: int = 10
    on_partition: str = "replace"
    node: str = ""
    resources: Resources = RESOURCES
    queueing: Queueing = QUEUEING
    placing: Placing = PLACING
    terminal: tuple[int, int] = (0, 0)
    carry: Carry = CARRY


class Submit(msgspec.Struct, frozen=True):
    """placement: submit -> Submitted. The caller's stamp decides whose users it may name.

    `request` makes it idempotent: the same one again returns the same pid.
    """

    program: Program
    request: str


class Submitted(msgspec.Struct, frozen=True):
    """The record is durable. `state` is pending if no node could take it yet, with the reason."""

    pid: int
    node: str
    state: str
    incarnation: int
    reason: str = ""
