"""The etcd cluster behind the store of this machine: `cluster.json` in the store's folder, and how it comes there.

It holds all that lets one in, certificates and keys among it, so it may go to another machine as it is; only its owner may read it.
"""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from unios import durable
from unios.errors import CallerError, Unavailable
from unios.kernel import certificates, interfaces
from unios.kernel.certificates import new_authority, write_secret
from unios.store.etcd.address import Address, parse
from unios.undecodable import UNDECODABLE
from unios.wire.home import Home

FILE: Final = "cluster.json"
STEPS: Final = 3
"""Of a change of keys."""
SERVER: Final = "etcd.unios"
"""What the certificates of our own members are for, wherever those are."""
COMES_S: Final = 10.0
"""So long an etcd is waited for that has perhaps just been started and has no leader yet."""
LOOK_S: Final = 0.2


class Cluster(msgspec.Struct, frozen=True, omit_defaults=True):
    """`ca`, `cert`, `key`: what is in those files, empty without TLS. `ca_key`: of a cluster that unios runs by itself (core/quorum.py): with it each machine
    issues its own certificates, so that it can have a member, or reach one, whoever else is there. Who has it may read and write all that the store has,
    which a gateway may anyway."""

    members: tuple[str, ...]
    system: str
    user: str = ""
    password: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    ca_key: str = ""
    also: str = ""
    """Another authority whose certificates count too, while the keys are changed."""
    also_key: str = ""
    """Of that one, as long as it is the next: then nobody shows anything of it yet."""
    rotation: int = 0
    """Grows with each step of a change of keys (`following_step`): of two, the one with the larger is right."""
    quota_bytes: int = 4 * 1024**3
    """What each member's file may have at most, if unios runs them; then etcd takes no writes. Read when a member, or a gateway, begins."""

    @property
    def managed(self) -> bool:
        """Whether its members are unios's own."""
        return bool(self.ca_key)

    @property
    def trusted(self) -> str:
        """The authorities whose certificates count; the first has made those that are shown."""
        return self.ca + self.also

    @property
    def is_settled(self) -> bool:
        """Whether no change of keys is under way."""
        return self.rotation % STEPS == 0

    @property
    def shows_anew(self) -> bool:
        """Whether this step changes what is shown, and not who counts."""
        return bool(self.also) and not self.also_key


def following_step(cluster: Cluster, fresh: Cluster) -> Cluster:
    """Return the next step of a change of keys: the next authority counts beside the present one; certificates of it are shown; the former counts no more. A step
    may be taken when everybody has taken the one before. `fresh`: where the next authority is from."""
    match cluster.rotation % STEPS:
        case 0:
            changed = msgspec.structs.replace(cluster, also=fresh.ca, also_key=fresh.ca_key)
        case 1:
            changed = msgspec.structs.replace(cluster, ca=cluster.also, ca_key=cluster.also_key, also=cluster.ca, also_key="")
        case _:
            changed = msgspec.structs.replace(cluster, also="")
    return msgspec.structs.replace(changed, rotation=cluster.rotation + 1)


def new(system: str) -> Cluster:
    """Return a cluster of our own that has no member yet. Loads a large library: call it in a child."""
    key, certificate = new_authority(f"unios etcd {system}")
    return Cluster((), system, ca=certificate.decode(), ca_key=key.decode())


def begun(system: str, rotation: int = 0) -> Cluster:
    """Return the same, made by a program of its own. `rotation`: the number of the change of keys that it is made for. Blocks. Raises InternalError."""
    made = certificates.ask({"authority": f"unios etcd {system}" + (f" {rotation}" if rotation else "")})
    return Cluster((), system, ca=made["certificate"], ca_key=made["key"])


def of_text(text: str, system: str) -> Cluster:
    """Read an address etcd://...; `system`: the name in etcd if it gives none. Raises Misused, CallerError for a certificate that cannot be read."""
    address = parse(text, system)
    try:
        ca, cert, key = (Path(path).read_text() if path else "" for path in (address.ca, address.cert, address.key))
    except (OSError, UnicodeDecodeError) as error:
        raise CallerError(f"a certificate for etcd cannot be read: {error}") from error
    return Cluster(address.members, address.system, address.user, address.password, ca, cert, key)


def write(home: Home, cluster: Cluster) -> None:
    """Keep it for the gateways of this machine."""
    durable.make_folders(home.store)
    write_secret(home.store / FILE, msgspec.json.encode(cluster))


def change(home: Home, wanted: Callable[[Cluster], Cluster]) -> Cluster | None:
    """Keep what `wanted` makes of what is kept; return it, None if nothing is. The gateway, and each kernel of this machine, may do so at the same time."""
    with _alone(home.store / "cluster.lock"):
        kept = read(home)
        if kept is None:
            return None
        changed = wanted(kept)
        if changed != kept:
            write(home, changed)
        return changed


def read(home: Home) -> Cluster | None:
    """Return what was kept; None if this machine has no gateway. Unavailable if it is damaged."""
    try:
        return msgspec.json.decode((home.store / FILE).read_bytes(), type=Cluster)
    except FileNotFoundError:
        return None
    except (OSError, *UNDECODABLE) as error:
        raise Unavailable(f"{home.store / FILE} cannot be read ({error}): copy it from another machine of the system, or join again") from error


def issue(cluster: Cluster, name: str, hosts: Sequence[str], folder: Path) -> None:
    """Leave in `folder` what a member or a gateway of our own cluster shows: etcd-ca.pem, etcd-cert.pem, etcd-key.pem. Blocks. Raises InternalError."""
    made = certificates.ask({"issue": [cluster.ca_key, cluster.ca, name, [SERVER, *hosts]]})
    for part, text in (("key", made["key"]), ("cert", made["certificate"]), ("ca", cluster.trusted)):  # the last says that all are there
        write_secret(folder / f"etcd-{part}.pem", text.encode())


def lies_in(folder: Path, cluster: Cluster) -> bool:
    """Whether that was left in `folder` by these keys."""
    return (folder / "etcd-cert.pem").exists() and _kept(folder / "etcd-ca.pem") == cluster.trusted


def counts_in(folder: Path, cluster: Cluster) -> bool:
    """Whether each authority that counts with these keys does so with whom what lies in `folder` was left for."""
    kept = _kept(folder / "etcd-ca.pem")
    return cluster.ca in kept and cluster.also in kept


def address_of(home: Home, cluster: Cluster) -> Address:
    """Return where it is; certificates lie in files beside `cluster.json` from then on."""
    if cluster.managed:
        with _alone(home.store / "etcd.lock"):  # each node of this machine may begin a gateway: one's key is none for another's certificate
            if not lies_in(home.store, cluster):
                issue(cluster, "gateway", (), home.store)
        ca, cert, key = (str(home.store / f"etcd-{part}.pem") for part in ("ca", "cert", "key"))
        return Address(nearest_first(cluster.members), cluster.system, ca=ca, cert=cert, key=key, server=SERVER)
    paths = []
    for name in ("ca", "cert", "key"):
        text, path = getattr(cluster, name), home.store / f"etcd-{name}.pem"
        if text:
            write_secret(path, text.encode())
        paths.append(str(path) if text else "")
    return Address(nearest_first(cluster.members), cluster.system, cluster.user, cluster.password, *paths)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process of this machine is at this."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _kept(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def nearest_first(members: Sequence[str]) -> tuple[str, ...]:
    """Return them with that of this machine first: the one that cannot be away alone."""
    here = {local.address for local in interfaces.local_addresses()} | {"127.0.0.1", "::1", "localhost"}
    return tuple(sorted(members, key=lambda member: member.rpartition(":")[0].strip("[]") not in here))


def check_empty(home: Home, cluster: Cluster) -> None:
    """Raise Unavailable if etcd cannot be reached, CallerError if it has a system of that name. Loads a large library: call it in a child."""
    from unios.store.etcd import messages
    from unios.store.etcd.channel import Channel

    async def look() -> int:
        address = address_of(home, cluster)
        channel = Channel(address)
        asked, until = messages.range_(address.root, messages.after(address.root), count_only=True), time.monotonic() + COMES_S
        try:
            while True:
                try:
                    return messages.read_range(await channel.call("KV/Range", asked)).total
                except Unavailable:
                    if time.monotonic() > until:
                        raise
                    await asyncio.sleep(LOOK_S)
        finally:
            await channel.close()

    if asyncio.run(look()):
        raise CallerError(
            f"etcd has a system {cluster.system} already: join that with a token of one of its machines, "
            f"give this one another name (etcd://{','.join(cluster.members)}/NAME), or remove that one's keys below /unios/{cluster.system}/ if nobody needs it"
        )
