"""What may be asked of a kernel about the system's store: how it stands, a backup of it, a return to one. Data types only; docs/store.md is their manual."""

import msgspec


class StoreMember(msgspec.Struct, frozen=True, omit_defaults=True):
    """A member of the etcd behind the store. `node`: whose it is, or what etcd calls it; `alarm`: "nospace", "corrupt"; `trouble`: what is wrong with it."""

    node: str
    id: int
    answers: bool
    leader: bool = False
    learner: bool = False
    version: str = ""
    bytes: int = 0
    used_bytes: int = 0
    alarm: str = ""
    trouble: str = ""


class StoreView(msgspec.Struct, frozen=True, omit_defaults=True):
    """store.status -> StoreView. `managed`: unios runs the etcd itself. `keys`, `leases`, `revision`: as the store answers, 0 and "" if it does not, which
    `trouble` says then. `quota_bytes`: what a member's file may have at most, 0: no bound is known."""

    engine: str
    managed: bool = False
    generation: str = ""
    revision: int = 0
    compacted: int = 0
    keys: int = 0
    leases: int = 0
    bytes: int = 0
    quota_bytes: int = 0
    members: tuple[StoreMember, ...] = ()
    trouble: str = ""
    asked: dict[str, tuple[int, int, int]] = {}
    """Of the store's process that the asked node uses, since it began: (messages, bytes, events) that it was asked, by operation and part of the store."""
    told: dict[str, tuple[int, int, int]] = {}
    """The same of what its watchers were told, by what they watch."""
    etcd: dict[str, tuple[int, int, int]] = {}
    """The same between a gateway and etcd."""


class BackUp(msgspec.Struct, frozen=True):
    """store.backup -> BackedUp (privileged). The file is made on the machine of the node that is asked, for its owner alone."""

    path: str


class BackedUp(msgspec.Struct, frozen=True):
    path: str
    revision: int
    records: int
    bytes: int


class Restore(msgspec.Struct, frozen=True):
    """store.restore -> Restored (privileged). The file lies on the machine of the node that is asked. Asked again it comes to the same."""

    path: str


class AskEngine(msgspec.Struct, frozen=True, omit_defaults=True):
    """`settled`: say also whether the store is being moved, and wait for one that nobody asks for any more."""

    settled: bool = False


class StoreEngine(msgspec.Struct, frozen=True, omit_defaults=True):
    """store.engine (AskEngine; a kernel, asked of a node of the store's machine): which one that is. `cluster`: what lets a gateway into etcd (`cluster.json`), for
    who speaks for all for whom the store's machine does; else empty. `moves`: how often it has moved, as that machine counts; `moving`: it is being moved."""

    engine: str
    cluster: bytes = b""
    moves: int = 0
    moving: bool = False


class Forgo(msgspec.Struct, frozen=True):
    """store.forgo -> Empty (a kernel that speaks for all for whom the asked one does): the machine has no gateway to etcd any more, until the attempt of the
    asking kernel's machine to have the store in a file of its own has come to its end. When it is answered the gateway's process has ended."""

    attempt: str


class Keys(msgspec.Struct, frozen=True):
    """store.keys -> Empty (a kernel, of another that speaks for all for whom it does): the keys of the system's own etcd from now on. `cluster`: as in
    StoreEngine."""

    cluster: bytes


class Rekeyed(msgspec.Struct, frozen=True):
    """store.rekey (Empty) -> Rekeyed (privileged): the keys of the system's own etcd are changed. `nodes`: those whose machines have the new ones."""

    nodes: tuple[str, ...]


class Move(msgspec.Struct, frozen=True):
    """store.move -> Moved (privileged), asked of a node of the store's machine. `to`: "etcd", one that the system runs itself, or "sqlite", back into a file of that
    machine. Asked again it comes to the same."""

    to: str


class Moved(msgspec.Struct, frozen=True):
    """Which engine the store had, and has."""

    before: str
    now: str


class Restored(msgspec.Struct, frozen=True, omit_defaults=True):
    """`made_ms`: when the backup was made. `lost`: processes that lived then; what has become of them is not known."""

    made_ms: int
    records: int
    changed: int
    lost: tuple[int, ...] = ()
