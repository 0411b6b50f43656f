"""Where an etcd cluster is, and which system in it is ours: etcd://[user:password@]host:port[,host:port...]/system[?ca=FILE&cert=FILE&key=FILE]."""

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from unios.errors import Misused

_SYSTEM: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
PORT: Final = 2379


class Address(NamedTuple):
    """`ca`, `cert`, `key`: files, empty without TLS. `server`: the name that members' certificates are for, if not their hosts'.
    `root`: what all keys of the system begin with."""

    members: tuple[str, ...]
    system: str
    user: str = ""
    password: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    server: str = ""

    @property
    def root(self) -> bytes:
        return b"/unios/" + self.system.encode() + b"/"

    def __repr__(self) -> str:
        """No password: this ends in logs."""
        return f"etcd://{','.join(self.members)}/{self.system}"


def parse(text: str, system: str = "") -> Address:
    """Read an address; `system`: if it names none. Raises Misused."""
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise Misused(f"this is no address of an etcd cluster: {error}"[:200]) from error
    login, _, hosts = parts.netloc.rpartition("@")
    system = parts.path.strip("/") or system
    members = tuple(host if re.search(r":\d+$", host) else f"{host}:{PORT}" for host in hosts.split(",") if host)
    if parts.scheme != "etcd" or not members:
        raise Misused("an etcd cluster is given as etcd://host:port,host:port/system")
    if not _SYSTEM.fullmatch(system):
        raise Misused("the name of the system in etcd has 1 to 128 letters, digits, '.', '_' or '-'")
    user, _, password = login.partition(":")
    given = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := given.keys() - {"ca", "cert", "key"}:
        raise Misused(f"the address of an etcd cluster knows no {min(unknown)}: ca, cert and key")
    return Address(members, system, unquote(user), unquote(password), **given)
