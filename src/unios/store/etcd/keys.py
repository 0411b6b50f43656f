"""Where things of a system are in etcd. All below one root: two systems in one etcd do not meet.

d/KEY         a record of ours: its key follows
l/LEASE       a lease that runs: its time to live in ms; every renewal writes it anew
e/LEASE       a lease that is being made or ended: what etcd has of it is to be revoked
g/GATEWAY     written by a gateway that wants to know whether etcd takes writes
generation    drawn once
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
        self.generation = root + b"generation"
        self.data_end, self.leases_end, self.endings_end = (messages.after(key) for key in (self.data, self.leases, self.endings))

    def record(self, key: str) -> bytes:
        return self.data + key.encode()

    def lease(self, lease: int) -> bytes:
        return self.leases + b"%d" % lease

    def ending(self, lease: int) -> bytes:
        return self.endings + b"%d" % lease


def number(key: bytes) -> int:
    """Return the lease that a key in l/ or e/ is about."""
    return int(key.rpartition(b"/")[2])
