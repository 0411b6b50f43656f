"""etcd's v3 messages, those that we use: requests are made, answers read. Field numbers are those of etcd's rpc.proto and kv.proto (3.4 and 3.5).

Written out here since generated code needs protobuf's library in each gateway and a compiler for each change, for some two dozen fields.
"""

from typing import Final, NamedTuple

from unios.store.etcd.protobuf import blob, fields, integer

TARGETS: Final = {"version": (0, 4), "created": (1, 5), "modified": (2, 6), "value": (3, 7), "lease": (4, 8)}
"""Of a compare: its number, and the field of its operand."""
RESULTS: Final = {"==": 0, ">": 1, "<": 2, "!=": 3}
_UNSIGNED: Final = 2**64 - 1


class KeyValue(NamedTuple):
    key: bytes = b""
    value: bytes = b""
    created: int = 0
    modified: int = 0
    version: int = 0
    lease: int = 0


class Ranged(NamedTuple):
    """Answer to a range; `revision` is 0 within a transaction."""

    revision: int
    found: tuple[KeyValue, ...]
    more: bool
    total: int


class Deleted(NamedTuple):
    keys: int


class Done(NamedTuple):
    """Answer to a transaction: one entry per operation, None for a put."""

    revision: int
    succeeded: bool
    results: tuple["Ranged | Deleted | Done | None", ...]


class Change(NamedTuple):
    """One event. `before`: None if there was none, or it has been compacted meanwhile."""

    deleted: bool
    now: KeyValue
    before: KeyValue | None


class Watched(NamedTuple):
    """One message of a watch."""

    revision: int
    created: bool
    canceled: bool
    compacted: int
    reason: str
    fragment: bool
    changes: tuple[Change, ...]


def after(prefix: bytes) -> bytes:
    """Return the end of the range of all keys with that prefix."""
    for at in range(len(prefix) - 1, -1, -1):
        if prefix[at] < 255:
            return prefix[:at] + bytes((prefix[at] + 1,))
    return b"\0"


# requests


def range_(key: bytes, end: bytes = b"", *, limit: int = 0, revision: int = 0, count_only: bool = False) -> bytes:
    ends = blob(2, end) if end else b""
    return blob(1, key) + ends + integer(3, limit) + integer(4, revision) + integer(9, count_only)


def put(key: bytes, value: bytes, lease: int = 0) -> bytes:
    return blob(1, key) + blob(2, value) + integer(3, lease)


def delete(key: bytes, end: bytes = b"") -> bytes:
    return blob(1, key) + (blob(2, end) if end else b"")


def compare(key: bytes, target: str, op: str, operand: int | bytes) -> bytes:
    number, field = TARGETS[target]
    # an operand of 0 is written: it is one of a union, of which absent means none
    given = blob(field, operand) if isinstance(operand, bytes) else (integer(field, operand) or bytes((field << 3, 0)))
    return integer(1, RESULTS[op]) + integer(2, number) + blob(3, key) + given


def transaction(compares: list[bytes], then: list[bytes], otherwise: list[bytes]) -> bytes:
    """Each operation is one of `as_range`, `as_put`, `as_delete`, `as_transaction`."""
    return b"".join([*(blob(1, one) for one in compares), *(blob(2, one) for one in then), *(blob(3, one) for one in otherwise)])


def as_range(request: bytes) -> bytes:
    return blob(1, request)


def as_put(request: bytes) -> bytes:
    return blob(2, request)


def as_delete(request: bytes) -> bytes:
    return blob(3, request)


def as_transaction(request: bytes) -> bytes:
    return blob(4, request)


def watch(prefix: bytes, start: int, end: bytes = b"") -> bytes:
    """Watch a prefix, or what lies before `end`, from a revision on, with what was before each change; a long revision may come in fragments."""
    return blob(1, blob(1, prefix) + blob(2, end or after(prefix)) + integer(3, start) + integer(6, 1) + integer(8, 1))


def grant(lease: int, ttl_s: int) -> bytes:
    return integer(1, ttl_s) + integer(2, lease)


def revoke(lease: int) -> bytes:
    return integer(1, lease)


def compact(revision: int) -> bytes:
    return integer(1, revision)


def authenticate(user: str, password: str) -> bytes:
    return blob(1, user.encode()) + blob(2, password.encode())


def member_add(peer: str) -> bytes:
    """Add a member as a learner."""
    return blob(1, peer.encode()) + integer(2, 1)


def member_of(member: int, peer: str = "") -> bytes:
    """Name a member, to promote or remove it; with `peer` its new address."""
    return integer(1, member) + (blob(2, peer.encode()) if peer else b"")


def alarms(*, disarm: int = 0, alarm: int = 0) -> bytes:
    """Ask which alarms are raised; or, of the member `disarm`, take back one of them."""
    return integer(1, 2) + integer(2, disarm) + integer(3, alarm) if disarm else b""


# answers


def read_revision(data: bytes) -> int:
    """Return the revision in the header of any answer."""
    header = _fields(data).get(1, b"")
    return _int(_fields(header), 3) if isinstance(header, bytes) else 0


def read_token(data: bytes) -> str:
    return _bytes(_fields(data), 2).decode()


def read_member(data: bytes) -> int:
    """Return which member has answered, from the header of any answer."""
    header = _fields(data).get(1, b"")
    return _int(_fields(header), 2) & _UNSIGNED if isinstance(header, bytes) else 0


def read_database_bytes(data: bytes) -> int:
    """Of an answer to Status."""
    return _int(_fields(data), 3)


class Status(NamedTuple):
    """How a member stands, as it says itself. `used_bytes`: 0 from an etcd that does not say."""

    member: int
    version: str
    bytes: int
    used_bytes: int
    leader: int
    errors: tuple[str, ...]


def read_status(data: bytes) -> Status:
    found = _fields(data)
    errors = tuple(value.decode(errors="replace") for field, value in fields(data) if field == 8 and isinstance(value, bytes))
    leader = _int(found, 4) & _UNSIGNED
    return Status(read_member(data), _bytes(found, 2).decode(errors="replace"), _int(found, 3), _int(found, 9), leader, errors)


def read_alarms(data: bytes) -> tuple[tuple[int, int], ...]:
    """Return (member, alarm) of each that is raised; alarm 1 is NOSPACE, 2 CORRUPT."""
    raised = [_fields(value) for field, value in fields(data) if field == 2 and isinstance(value, bytes)]
    return tuple((_int(one, 1) & _UNSIGNED, _int(one, 2)) for one in raised)


class Listed(NamedTuple):
    """A member of the cluster; nameless and without `clients` until it has started."""

    id: int
    name: str
    peers: tuple[str, ...]
    clients: tuple[str, ...]
    learner: bool


def read_members(data: bytes, field: int = 2) -> tuple[Listed, ...]:
    """Of an answer to MemberList; `field`: 3 of one to MemberAdd."""
    return tuple(_read_member(value) for number, value in fields(data) if number == field and isinstance(value, bytes))


def _read_member(data: bytes) -> Listed:
    peers: list[str] = []
    clients: list[str] = []
    rest: dict[int, int | bytes] = {}
    for field, value in fields(data):
        if field in (3, 4) and isinstance(value, bytes):
            (peers if field == 3 else clients).append(value.decode())
        else:
            rest[field] = value
    # an id is a uint64, which the wire's reader takes for signed
    return Listed(_int(rest, 1) & _UNSIGNED, _bytes(rest, 2).decode(), tuple(peers), tuple(clients), bool(_int(rest, 5)))


def read_range(data: bytes) -> Ranged:
    found: list[KeyValue] = []
    rest: dict[int, int | bytes] = {}
    for field, value in fields(data):
        if field == 2 and isinstance(value, bytes):
            found.append(read_key_value(value))
        else:
            rest[field] = value
    return Ranged(_int(_fields(_bytes(rest, 1)), 3), tuple(found), bool(_int(rest, 3)), _int(rest, 4))


def read_transaction(data: bytes) -> Done:
    results: list[Ranged | Deleted | Done | None] = []
    rest: dict[int, int | bytes] = {}
    for field, value in fields(data):
        if field == 3 and isinstance(value, bytes):
            results.append(_read_result(value))
        else:
            rest[field] = value
    return Done(_int(_fields(_bytes(rest, 1)), 3), bool(_int(rest, 2)), tuple(results))


def _read_result(data: bytes) -> Ranged | Deleted | Done | None:
    for field, value in fields(data):
        if not isinstance(value, bytes):
            continue
        match field:
            case 1:
                return read_range(value)
            case 3:
                return Deleted(_int(_fields(value), 2))
            case 4:
                return read_transaction(value)
    return None


def read_key_value(data: bytes) -> KeyValue:
    found = _fields(data)
    return KeyValue(_bytes(found, 1), _bytes(found, 5), _int(found, 2), _int(found, 3), _int(found, 4), _int(found, 6))


def read_watch(data: bytes) -> Watched:
    changes: list[Change] = []
    rest: dict[int, int | bytes] = {}
    for field, value in fields(data):
        if field == 11 and isinstance(value, bytes):
            event = _fields(value)
            before = _bytes(event, 3)
            changes.append(Change(_int(event, 1) == 1, read_key_value(_bytes(event, 2)), read_key_value(before) if before else None))
        else:
            rest[field] = value
    revision = _int(_fields(_bytes(rest, 1)), 3)
    reason = _bytes(rest, 6).decode(errors="replace")
    return Watched(revision, bool(_int(rest, 3)), bool(_int(rest, 4)), _int(rest, 5), reason, bool(_int(rest, 7)), tuple(changes))


def _fields(data: bytes) -> dict[int, int | bytes]:
    return dict(fields(data))


def _int(found: dict[int, int | bytes], field: int) -> int:
    value = found.get(field, 0)
    return value if isinstance(value, int) else 0


def _bytes(found: dict[int, int | bytes], field: int) -> bytes:
    value = found.get(field, b"")
    return value if isinstance(value, bytes) else b""
