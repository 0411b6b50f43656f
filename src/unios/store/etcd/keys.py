"""Where things of a system are in etcd. All below one root: two systems in one etcd do not meet.

d/KEY         a record of ours: its key follows
l/LEASE       a lease that runs: its time to live in ms; every renewal writes it anew
e/LEASE       a lease that is being made or ended: what etcd has of it is to be revoked
g/GATEWAY     written by a gateway that wants to know what has happened up to then
g/group       written with each group of transactions (group_commit.py), so that etcd counts it
generation    drawn once
base          of a store that was moved here: what its revisions had come to before, to which etcd's own are added
left          the attempt by which the store has gone back into a file of a machine, or is about to: MACHINE.MOVES-NUMBER; nobody writes anything here any more then
j/N           a seat of those that judge leases: the gateway that has it (judging.py)
lg/GATEWAY    written by a judge that hears nothing: what it hears then is this, after all renewals before it

What is heard by gateways that do not judge lies before l/.
"""

from unios.store.etcd import messages


class Keys:
    """Those of one system. `leases_end` and the like are the ends of ranges."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.data = root + b"d/"
        self.leases = root + b"l/"
        self.endings = root + b"e/"
        self.gateways = root + b"g/"
        self.seats = root + b"j/"
        self.signs = root + b"lg/"
        self.generation = root + b"generation"
        self.base_key = root + b"base"
        self.left = root + b"left"
        self.base = 0
        """What is added to etcd's revisions for whoever asks: no number that was given before the store was moved here is given, or holds, once more."""
        self.seats_end = messages.after(self.seats)
        self.data_end, self.leases_end, self.endings_end = (messages.after(key) for key in (self.data, self.leases, self.endings))

    def section(self, key: bytes) -> str:
        """Return which of the above a key is, "l/" say; for people."""
        name, slash, _rest = key.removeprefix(self.root).decode(errors="replace").partition("/")
        return name + slash

    def record(self, key: str) -> bytes:
        return self.data + key.encode()

    def lease(self, lease: int) -> bytes:
        return self.leases + b"%d" % lease

    def ending(self, lease: int) -> bytes:
        return self.endings + b"%d" % lease


def base_of(value: bytes) -> int:
    """Return what a record at `base_key` says."""
    return int(value or b"0")


def number(key: bytes) -> int:
    """Return the lease that a key in l/ or e/ is about."""
    return int(key.rpartition(b"/")[2])
