"""The gate: what a member that does not speak for root may do in the store of a system that is not its user's. Decides only; kernel/store_gate.py asks.

A member is a node with a certificate; it speaks for the users in it and for nobody else. Every check returns nothing or raises Denied with a sentence. The
rules:

- **Reading** (range, watch): everything but join tokens, the audit log, and the specifications and requests of users that it does not speak for. Those are left out.
- **Comparing**: never a token nor the audit log, and never the value of a specification or a request: comparing would be reading it bit by bit.
- **Putting**: /nodes/<its name> (name and machine its own, no users that its certificate lacks, its certificate as it is, or the next one
  that its record names, not once it has left), /alive/<its name>,
  /ports/<any>/<its name> (the owner one that it speaks for), /events/<time>-<its name>-<n>, /processes/<pid> (the user that is written, and the one in the
  record there now, are such that it speaks for; a new one comes with its specification, its own or that of another new one; what may be in it and what
  may change says core/gate_processes.py), /specs/<pid> (the same of its own user and of its process's),
  /requests/<id> (a new one only, that names a process of the same transaction), /next/pid (a pid),
  /logs/<user>/<name> (a user that it speaks for). Each value has to be what its key promises: others
  decode it, and a record under a wrong key would stand for another process.
- /usage/<user> is written by nobody who has to pass here: it is what users are judged by, and its tidying speaks for root.
- **Deleting**: /alive, /ports and /events alike; one key at a time, never by prefix. What processes were is tidied away by who speaks for root, who adds
  what they have used to the sums of their users.
- **Leases**: /alive and /ports are attached to a lease, and only to one that the member was granted over the gate; nothing else is.
- A transaction writes in its `then` only: what its `otherwise` writes could not be tied to the records that were judged.

What is judged is what was there when the gate looked. Whoever carries the transaction out has to make it depend on `needs(key)` being unchanged.
"""

import re
from collections.abc import Callable, Container, Mapping
from typing import Final, NamedTuple, TypeVar

import msgspec

from unios.core import bounds, gate_processes
from unios.core.logs import LogRecord, log_key
from unios.core.nodes import Alive, NodeRecord, may_speak_for
from unios.core.processes import ProcessRecord, ProcessSpec, process_key, spec_key_of
from unios.errors import CallerError, Denied
from unios.limits import GATE_VALUE_BYTES_MAX, PID_MAX, PID_MIN
from unios.undecodable import UNDECODABLE

T = TypeVar("T")

_EVENT: Final = re.compile(r"[0-9]{15}-(.+)-r?[0-9]{6}")
_PID: Final = re.compile(r"[0-9]{10}")
_NUMBER: Final = re.compile(rb"[1-9][0-9]{0,9}")
_REQUEST: Final = re.compile(r"[A-Za-z0-9]{1,64}")

LEASED: Final = frozenset({"alive", "ports"})
"""What goes when its node is lost."""
HIDDEN_VALUES: Final = frozenset({"specs", "requests"})
"""What belongs to its user alone."""


class Member(NamedTuple):
    """Who asks, as its certificate says."""

    node: str
    machine: str
    users: tuple[str, ...]

    def speaks_for(self, user: str) -> bool:
        return may_speak_for(self.users, user)


class PortForm(msgspec.Struct, frozen=True):
    """A port's record as all kernels decode it (PortRecord in kernel/ports.py): whole, since what others cannot decode must not get in."""

    name: str
    node: str
    owner: str
    mode: int


class EventForm(msgspec.Struct, frozen=True):
    """An event as all kernels decode it (EventView in wire/operations.py); whole likewise."""

    at_ms: int
    node: str
    kind: str
    text: str
    pid: int = 0


def is_trusted(users: tuple[str, ...], owner: str) -> bool:
    """Return whether a member may use the store of `owner`'s system as it is: it speaks for root, or for the ordinary user whose system it is."""
    return "root" in users or (owner != "root" and owner in users)


def _split(key: str) -> tuple[str, str]:
    """Return what a key is about and the rest of it."""
    kind, slash, name = key.removeprefix("/").partition("/")
    return (kind, name) if key.startswith("/") and slash else ("", key)


# reading


def may_read(member: Member, key: str, value: bytes, owner: str | None = None) -> bool:
    """Return whether the member may see a record. `owner`: of a request, the user of the process that it names, None if there is none."""
    kind, _name = _split(key)
    if kind in ("tokens", "audit"):
        return False
    if kind == "specs":
        spec = _try(value, ProcessSpec)
        return spec is not None and member.speaks_for(spec.user)
    if kind == "requests":
        return owner is not None and member.speaks_for(owner)
    return True


def names_process(key: str, value: bytes) -> str:
    """Return the key of the process that a request names; "" if it is none, or names nothing."""
    if _split(key)[0] != "requests" or not _NUMBER.fullmatch(value):
        return ""
    return process_key(int(value))


def check_compare(member: Member, key: str, target: str) -> None:
    """May it compare that of that key?"""
    kind, _name = _split(key)
    if kind in ("tokens", "audit") or (kind in HIDDEN_VALUES and target == "value"):
        raise Denied(f"{member.node} may not compare the {target} of {key[:80]}")


# writing


def needs(key: str) -> tuple[str, ...]:
    """Return the keys whose present values decide about a write to `key`; that key itself included if its own does."""
    kind, name = _split(key)
    if kind in ("nodes", "processes", "requests"):
        return (key,)
    if kind == "specs" and _PID.fullmatch(name):
        return (key, process_key(int(name)))
    return ()


def check_lease(member: Member, key: str, lease: int, granted: Container[int]) -> None:
    """May it put that key with that lease (0: none)? `granted`: its own leases."""
    kind, _name = _split(key)
    if kind in LEASED and not lease:
        raise Denied(f"{key[:80]} goes when {member.node} is lost: it has to be attached to a lease")
    if kind not in LEASED and lease:
        raise Denied(f"{key[:80]} outlives {member.node}: it is attached to no lease")
    if lease and lease not in granted:
        raise Denied(f"lease {lease} was not granted to {member.node}")


def check_put(member: Member, key: str, value: bytes, now: Mapping[str, bytes], together: Container[str], now_ms: int) -> None:
    """May it put that value? `now`: what there is of `needs(key)`. `together`: every key that the same transaction puts. `now_ms`: wall clock."""
    kind, name = _split(key)
    rule = _PUTS.get(kind)
    if rule is None:
        raise Denied(f"{member.node} may not write {key[:80]}: it speaks for {_listed(member)} only")
    if kind != "specs" and len(value) > GATE_VALUE_BYTES_MAX:
        raise Denied(f"the value of {key[:80]} has {len(value)} bytes; of {member.node} it may have {GATE_VALUE_BYTES_MAX}")
    rule(member, _Put(key, name, value, now, together, now_ms))


def check_delete(member: Member, key: str, *, prefix: bool) -> None:
    """May it delete that key?"""
    kind, name = _split(key)
    if prefix:
        raise Denied(f"{member.node} may not delete by prefix ({key[:80]})")
    if kind in ("alive", "ports", "events"):
        _own(member, key, _node_in(kind, name))
    else:
        raise Denied(f"{member.node} may not delete {key[:80]}")


class _Put(NamedTuple):
    key: str
    name: str
    value: bytes
    now: Mapping[str, bytes]
    together: Container[str]
    now_ms: int


def _put_node(member: Member, put: _Put) -> None:
    _own(member, put.key, put.name)
    record = _decoded(put, NodeRecord)
    if (record.name, record.machine) != (member.node, member.machine):
        raise Denied(f"the record of {member.node} has to name that node and its machine")
    more = [user for user in record.users if not member.speaks_for(user)]
    if more:
        raise Denied(f"{member.node} speaks for {_listed(member)}, not for {', '.join(more)[:200]}")
    old = _try(put.now.get(put.key, b""), NodeRecord)
    if old is not None and old.state == "left":
        raise Denied(f"{member.node} has left the system: join again with a new token")
    if old is not None and old.machine != member.machine:
        raise Denied(f"another machine has a node {member.node}: join again under another name")
    if old is None or not old.certificate:
        return
    renewed = bool(old.next_certificate) and (record.certificate, record.next_certificate) == (old.next_certificate, "")
    if not renewed and (record.certificate, record.next_certificate) != (old.certificate, old.next_certificate):
        raise Denied(
            f"the record of {member.node} names its certificate: that is written when it is let in, or another one is made for it, and stays"
        )


def _put_alive(member: Member, put: _Put) -> None:
    _own(member, put.key, put.name)
    _decoded(put, Alive)


def _put_port(member: Member, put: _Put) -> None:
    record = _decoded(put, PortForm)
    if f"{record.name}/{record.node}" != put.name or record.node != member.node:
        raise Denied(f"{put.key[:80]} is not where a port of {member.node} is described, or describes another one")
    if not member.speaks_for(record.owner):
        raise Denied(f"{member.node} does not speak for {record.owner[:80]}, whose port {put.key[:80]} would be")


def _put_event(member: Member, put: _Put) -> None:
    _own(member, put.key, _node_in("events", put.name))
    if _decoded(put, EventForm).node != member.node:
        raise Denied(f"{member.node} may tell of itself only")


def _put_process(member: Member, put: _Put) -> None:
    pid = _pid(member, put.key, put.name)
    record = _decoded(put, ProcessRecord)
    if record.pid != pid:
        raise Denied(f"{put.key} describes process {record.pid}")
    if not member.speaks_for(record.user):
        raise Denied(f"{member.node} speaks for {_listed(member)}, not for {record.user[:80]}: it may not write {put.key}")
    try:
        bounds.check(record.resources, record.queueing, record.placing)
    except CallerError as error:
        raise Denied(f"{put.key} demands what cannot be: {error}") from error
    if put.key in put.now:
        gate_processes.check_change(member.node, put.key, record, _of_its_users(member, put.key, put.now[put.key]), put.now_ms)
        return
    gate_processes.check_new(member.node, put.key, record, put.now_ms)
    if spec_key_of(record) not in put.together:
        # Else it would run what another's left-over specification says, and show its environment.
        raise Denied(f"a new process is written together with its specification; {put.key} comes alone")


def _put_spec(member: Member, put: _Put) -> None:
    process = process_key(_pid(member, put.key, put.name))
    spec = _decoded(put, ProcessSpec)
    if not member.speaks_for(spec.user):
        raise Denied(f"{member.node} does not speak for {spec.user[:80]}: it may not write {put.key}")
    if process in put.now:
        _of_its_users(member, process, put.now[process])
        _spec_of_its_users(member, put.key, put.now)
    elif process not in put.together:
        raise Denied(f"there is no process to which {put.key} would belong")


def _put_request(member: Member, put: _Put) -> None:
    if not _REQUEST.fullmatch(put.name):
        raise Denied(f"{put.key[:80]} is no request")
    if put.key in put.now:
        raise Denied(f"{put.key} has been made before")
    if names_process(put.key, put.value) not in put.together:
        raise Denied(f"{put.key} names no process that is begun with it")


def _put_next(member: Member, put: _Put) -> None:
    if put.name != "pid" or not _NUMBER.fullmatch(put.value) or not PID_MIN <= int(put.value) <= PID_MAX:
        raise Denied(f"{put.key[:80]} holds a pid from {PID_MIN} to {PID_MAX}, and {member.node} may write nothing else there")


def _put_log(member: Member, put: _Put) -> None:
    record = _decoded(put, LogRecord)
    if log_key(record.user, record.name) != put.key:
        raise Denied(f"{put.key[:80]} is not where the log {record.name[:80]} is described")
    if not member.speaks_for(record.user):
        raise Denied(f"{member.node} does not speak for {record.user[:80]}, whose log {put.key[:80]} is")


_PUTS: Final[dict[str, Callable[[Member, _Put], None]]] = {
    "nodes": _put_node,
    "alive": _put_alive,
    "ports": _put_port,
    "events": _put_event,
    "processes": _put_process,
    "specs": _put_spec,
    "requests": _put_request,
    "next": _put_next,
    "logs": _put_log,
}


# parts of rules


def _node_in(kind: str, name: str) -> str:
    """Return the node that a key of that kind belongs to, "" if it is none."""
    if kind == "ports":
        return name.rpartition("/")[2]
    if kind == "events":
        found = _EVENT.fullmatch(name)
        return found[1] if found else ""
    return name


def _own(member: Member, key: str, node: str) -> None:
    if node != member.node:
        raise Denied(f"{key[:80]} belongs to another node: {member.node} may not write it")


def _pid(member: Member, key: str, name: str) -> int:
    if not _PID.fullmatch(name) or not PID_MIN <= int(name) <= PID_MAX:
        raise Denied(f"{key[:80]} belongs to no process: {member.node} may not write it")
    return int(name)


def _of_its_users(member: Member, key: str, value: bytes) -> ProcessRecord:
    """Return the process record that is at `key`, which has to be one of its users'."""
    record = _try(value, ProcessRecord)
    if record is None or not member.speaks_for(record.user):
        raise Denied(f"{key} belongs to {record.user if record else 'nobody known'}, for whom {member.node} does not speak")
    return record


def _spec_of_its_users(member: Member, key: str, now: Mapping[str, bytes]) -> None:
    """The specification at `key`, if there is one, is one of its users'."""
    if key in now:
        spec = _try(now[key], ProcessSpec)
        if spec is None or not member.speaks_for(spec.user):
            raise Denied(f"{key} belongs to a user for whom {member.node} does not speak")


def _listed(member: Member) -> str:
    return ", ".join(member.users)[:200]


def _decoded(put: _Put, type_: type[T]) -> T:
    found = _try(put.value, type_)
    if found is None:
        raise Denied(f"the value of {put.key[:80]} is not what belongs there")
    return found


def _try(value: bytes, type_: type[T]) -> T | None:
    try:
        return msgspec.msgpack.decode(value, type=type_)
    except UNDECODABLE:
        return None
