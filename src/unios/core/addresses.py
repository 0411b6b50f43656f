"""Addresses: how one is written, and which of a machine's a node tells the others. Decides only; kernel/interfaces.py asks Linux what there is.

A node that listens at one address tells that one. A node that listens everywhere tells every address by which another machine may reach it, the best
first: what the person said, the one by which it reached the system, IPv4 before IPv6 since that is what most small networks route; never a loopback
or link-local one, never one of a bridge for containers or virtual machines. Links try them in turn and check who answers, so that one too many costs
an attempt and no harm.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from unios.errors import CallerError
from unios.limits import ADDRESSES_MAX

_ADDRESS: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?)\]|(?P<host>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{0,5}))?|(?P<bare>[0-9A-Fa-f]*(?::[0-9A-Fa-f]*){2,})"
)
_INNER: Final = re.compile(r"(docker|virbr|br-|veth|cni|flannel|lxcbr|lxdbr|podman|vnet|cali)[0-9A-Za-z-]*")
"""Interfaces that lead into the machine itself."""
EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})
LOOPBACK: Final = "127.0.0.1"


class Local(NamedTuple):
    """An address of this machine."""

    interface: str
    address: str


def split_address(address: str, default_port: int = 0) -> tuple[str, int]:
    """Return host and port of HOST[:PORT] or [HOST6]:PORT. Raises CallerError."""
    match = _ADDRESS.fullmatch(address)
    host = (match["six"] or match["host"] or match["bare"]) if match else ""
    port = int(match["port"] or default_port) if match else -1
    if not host or not 0 <= port <= 65_535:
        raise CallerError(f"{address[:80]!r} is no address: write HOST or HOST:PORT")
    return host, port


def join_address(host: str, port: int) -> str:
    """Return an address as it is written; the inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches that host."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def told(listen: str, port: int, advertise: str, local: Iterable[Local], preferred: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the addresses that a node tells which listens at `listen` (a host), the best first; at least one, at most ADDRESSES_MAX.

    `advertise`: what its owner says that others use. `preferred`: hosts that are known to lead here, the best first.
    """
    first = [join_address(*split_address(advertise, port))] if advertise else []
    if listen not in EVERYWHERE:
        return (*first, join_address(listen, port))[: 1 if first else ADDRESSES_MAX]
    usable = [each.address for each in local if _leads_here(each) and (listen == "::" or ":" not in each.address)]
    order = [host for host in preferred if host in usable]
    order += sorted((host for host in usable if host not in order), key=lambda host: ":" in host)
    found = (*first, *(join_address(host, port) for host in order))
    return tuple(dict.fromkeys(found))[:ADDRESSES_MAX] or (join_address(LOOPBACK if listen == "0.0.0.0" else "::1", port),)


def _leads_here(local: Local) -> bool:
    try:
        address = ipaddress.ip_address(local.address)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_multicast or _INNER.fullmatch(local.interface))
