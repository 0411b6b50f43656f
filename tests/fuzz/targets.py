"""The targets: what takes bytes from outside, and which errors it promises. To add one: a function, and a line in TARGETS."""

import asyncio
import importlib
import pkgutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Final, NamedTuple

import msgspec

import unios.wire
from tests.sim import schedule
from unios.client.aio import stamp_of
from unios.client.messages import capabilities, travelling
from unios.core import addresses, log_frames, restoring
from unios.errors import CallerError, DataLost, Denied, ProtocolError, Unavailable
from unios.kernel import backups, certificates, cluster, interfaces, program, quorum_member, runfiles, system, time_index, tokens, trees_protocol
from unios.kernel.log_files import Damaged, LogFiles
from unios.store import model, requests
from unios.store.etcd import address
from unios.wire import conversations, installation, manifests, messages, parcels, values
from unios.wire.call import Call
from unios.wire.frames import FrameReader, frame
from unios.wire.home import Home, NodeFolder

Errors = tuple[type[Exception], ...]


class Target(NamedTuple):
    """`feed(data, folder)` takes an input; `folder` is its own to write to. `seeds` are inputs made from the program; the corpus has those that are worth keeping.
    `share`: of the inputs, compared with others: what goes to the disk gets few."""

    feed: Callable[[bytes, Path], object]
    errors: Errors
    seeds: Callable[[], Iterator[bytes]]
    share: float = 1.0


def _frames(data: bytes, decode: Callable[[Any], object]) -> None:
    """As a connection would: in pieces, of which the first says how long they are."""
    reader, size = FrameReader(), 1 + (data[0] if data else 0)
    for at in range(0, len(data), size):
        for payload in reader.feed(data[at : at + size]):
            decode(payload)


MESSAGES: Final = (
    messages.Hello(1, 2, "kernel", {"node": "n1"}),
    messages.Request(1, "process.list", messages.pack({"all": True}), "n1", "ann", 500),
    messages.Reply(1, messages.pack([1, "two", None]), True, 1),
    messages.Fault(1, "denied", "no"),
    messages.Item(1, messages.pack(b"x" * 40), True),
    messages.Cancel(1),
    messages.Credit(1, 4096, True),
)


def _message_seeds() -> Iterator[bytes]:
    for message in MESSAGES:
        yield b"\xff" + frame(messages.encode(message))
    yield b"\x03" + b"".join(frame(messages.encode(message)) for message in MESSAGES)


def _structs() -> list[type[msgspec.Struct]]:
    """Return all that is sent between processes: what the modules of wire and of the store's requests define."""
    names = [f"unios.wire.{found.name}" for found in pkgutil.iter_modules(unios.wire.__path__)]
    modules = [*map(importlib.import_module, names), requests, model]
    return [
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
    ]


STRUCTS: Final = _structs()


def _operations(data: bytes, _folder: Path) -> None:
    """The arguments of every operation: each type is asked to take them, as its handler would."""
    for kind in STRUCTS:
        call = object.__new__(Call)
        call.op, call.body = kind.__name__, msgspec.Raw(data)
        try:
            found = call.decode(kind)
        except CallerError:
            continue
        msgspec.msgpack.encode(found)


def plausible(kind: Any, depth: int = 0) -> Any:
    """Return something that a value of that type might look like on the wire."""
    info = msgspec.inspect.type_info(kind) if isinstance(kind, type | UnionType) or not isinstance(kind, msgspec.inspect.Type) else kind
    inspect = msgspec.inspect
    if isinstance(info, inspect.StructType):
        fields = [plausible(field.type, depth + 1) for field in info.fields]
        head = [] if info.tag is None else [info.tag]
        if info.array_like:
            return [*head, *fields]
        tag = {} if info.tag is None else {info.tag_field: info.tag}
        return {**tag, **dict(zip([field.encode_name for field in info.fields], fields, strict=True))}
    if isinstance(info, inspect.UnionType):
        return plausible(info.types[0], depth + 1)
    if isinstance(info, inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType):
        return [plausible(info.item_type, depth + 1)] if depth < 8 else []
    if isinstance(info, inspect.TupleType):
        return [plausible(each, depth + 1) for each in info.item_types]
    if isinstance(info, inspect.NamedTupleType):
        return [plausible(field.type, depth + 1) for field in info.fields]
    if isinstance(info, inspect.DictType):
        return {plausible(info.key_type, depth + 1): plausible(info.value_type, depth + 1)} if depth < 8 else {}
    if isinstance(info, inspect.LiteralType):
        return info.values[0]
    simple: dict[type, object] = {
        inspect.IntType: 7,
        inspect.FloatType: 0.5,
        inspect.BoolType: True,
        inspect.BytesType: b"\x00\xff",
        inspect.StrType: "n1",
    }
    return simple.get(type(info))


def _operation_seeds() -> Iterator[bytes]:
    for kind in STRUCTS:
        yield msgspec.msgpack.encode(plausible(kind))


def _values(data: bytes, _folder: Path) -> None:
    """A value of another user's program, small or beside its body."""
    for value in (values.Value(msgspec.Raw(data), (), False), values.Value(msgspec.Raw(b"\xa0"), [memoryview(data)], False)):
        try:
            found = values.decode(value, trusted=False)
        except (ProtocolError, Denied):
            continue
        repr(found)


def _value_seeds() -> Iterator[bytes]:
    port = travelling._travelled("a/port", None, False)
    for value in (None, [1, -1, 2**63, 0.5, "text", b"bytes", {"a": [1]}], {"port": port, "right": capabilities.Capability("p", "m", "s")}):
        yield bytes(values.encode(value, trusted=False).body)
    yield bytes(values.encode({1, 2}, trusted=True).body)


def _parcels(data: bytes, _folder: Path) -> None:
    reader, size = parcels.ParcelReader(), 1 + (data[0] if data else 0)
    for at in range(0, len(data), size):
        reader.feed(data[at : at + size])


def _parcel_seeds() -> Iterator[bytes]:
    for head in (parcels.Fork(worker=3), parcels.Welcome(sizes=(4, 3), proof=b"p"), parcels.Gone(worker=1, memory=True)):
        yield b"\xff" + parcels.head_of(head) + b"PARTpar"


def _manifest_seeds() -> Iterator[bytes]:
    names = manifests.name_of(b"block")
    entries = [
        manifests.Entry(b"a", "d", 0o755),
        manifests.Entry(b"a/f", "f", 0o644, 5, 0, names),
        manifests.Entry(b"a/l", "l", 0o777, 0, 0, b"", b"f"),
    ]
    yield manifests.encode(entries)


def _trees(data: bytes, _folder: Path) -> None:
    """What reaches a guard or an init, and then the job that it may ask for."""
    for found in trees_protocol.Decoder().feed(data):
        if found.fields is not None:
            try:
                program.parse(found.fields)
            except program.Refused:
                continue


def _tree_seeds() -> Iterator[bytes]:
    job = {
        "pid": 300,
        "incarnation": 1,
        "argv": ["true"],
        "env": [["A", "b"]],
        "cwd": "/",
        "uid": 0,
        "groups": [0],
        "umask": 18,
        "limits": {"core": [0, 0]},
    }
    yield trees_protocol.encode(job) + trees_protocol.encode_data(b"stdin")


def _log_seeds() -> Iterator[bytes]:
    yield log_frames.encode(7, 3, 10, [b"ten", b""]) + log_frames.encode(7, 3, 12, [b"x" * 100]) + bytes(64)
    yield log_frames.encode(7, 3, 10, [b"ten"]) + b"damaged" * 20 + log_frames.encode(7, 3, 12, [b"twelve"])


def _log(data: bytes, _folder: Path) -> None:
    found = log_frames.scan(7, 3, data, 10)
    assert 0 <= found.good <= len(data)
    for place in found.places:
        decoded = log_frames.decode(7, 3, data, place.position)
        assert decoded is None or len(decoded[1]) == place.entries


def _log_folder(data: bytes, folder: Path) -> None:
    """The folder of a replica after a bad day: the state file up to the first zero, then the newest file of entries."""
    state, _, entries = data.partition(b"\0")
    (folder / "x").mkdir()
    (folder / "x" / "state").write_bytes(state)
    (folder / "x" / "1.3.10.00000007.log").write_bytes(entries)
    files = LogFiles(f"{folder}/x")
    try:
        for kept in files.open().spans():
            if kept.first < kept.end:
                files.read(kept.number, kept.first, kept.end)
    finally:
        files.close()


def _log_folder_seeds() -> Iterator[bytes]:
    for entries in _log_seeds():
        yield b'{"fence":3,"first":10}\0' + entries


def _key_of_joiner(data: bytes, folder: Path) -> None:
    """A stranger's public key, which the authority is asked to sign."""
    for name, pem in zip(("ca.key", "ca.crt"), _authority(), strict=True):
        (folder / name).write_bytes(pem)
    certificates.sign(folder, data, certificates.Identity("s", "n2", "m", ("*",)))


_made: list[tuple[bytes, bytes]] = []


def _authority() -> tuple[bytes, bytes]:
    if not _made:
        _made.append(certificates.new_authority("fuzz"))
    return _made[0]


def _key_seeds() -> Iterator[bytes]:
    yield certificates.make_key()[1]


def _uri(data: bytes, _folder: Path) -> None:
    certificates.parse_uri(data.decode("latin-1"))


def _uri_seeds() -> Iterator[bytes]:
    yield certificates.Identity("a1", "n1", "m1", ("*", "root")).uri().encode()


def _token_seeds() -> Iterator[bytes]:
    yield tokens.encode(tokens.TokenText(("127.0.0.1:1",), "f" * 64, "5" * 40)).encode()


def _backup(data: bytes, folder: Path) -> None:
    """A file that a person says is a backup, and the plan of its restore."""
    path = folder / "backup"
    path.write_bytes(data)
    _header, records = backups.read(path)
    restoring.plan(records, {}, made="then", now_ms=0, is_lost=True)


def _sealed(data: bytes, folder: Path) -> None:
    """Records of a backup that is whole, so that they are looked at: KEY 0 VALUE."""
    key, _, value = data.partition(b"\0")
    _backup(_backup_of({key.decode("latin-1"): value, "/processes/0000000300": value}), folder)


def _backup_of(records: dict[str, bytes]) -> bytes:
    async def pages() -> Any:
        made = tuple(model.Record(key, value, 1, 1, 1) for key, value in records.items())
        yield requests.Dumped(model.Revision("g", 5), made)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "backup")
        asyncio.run(backups.write(path, pages(), backups.Header("s", "sqlite", "0", 1, "g", 5)))
        return path.read_bytes()


def _backup_seeds() -> Iterator[bytes]:
    yield _backup_of({"/a": b"\x80", "/b": b"\x01"})


def _sealed_seeds() -> Iterator[bytes]:
    for kind, key in ((restoring.ProcessRecord, restoring.PROCESSES + "300"), (restoring.NodeRecord, restoring.NODES + "n1")):
        yield key.encode() + b"\0" + msgspec.msgpack.encode(plausible(kind))
    yield restoring.EPOCH.encode() + b"\0" + msgspec.msgpack.encode({"epoch": 4, "clean": True})


def _files(data: bytes, folder: Path) -> None:
    """Small files of a home that a disk, or a person, has changed. Each says what it says or is told by name."""
    home, node = Home(folder), NodeFolder(folder / "n1")
    for path in (home.system_file, home.store / cluster.FILE, node.path / "run" / "member.json", folder / installation.FILE, folder / "times"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for read in (
        lambda: system.read(home.system_file, system.SystemFile),
        lambda: system.read(home.system_file, system.NodeFile),
        lambda: cluster.read(home),
        lambda: quorum_member.read(node),
        lambda: installation.remembered(folder),
        lambda: runfiles.parse(data),
        lambda: time_index._index(data),
        lambda: interfaces.parse(data),
    ):
        try:
            read()
        except (DataLost, Unavailable):
            continue


def _file_seeds() -> Iterator[bytes]:
    for kind in (system.SystemFile, system.NodeFile, cluster.Cluster, quorum_member.MemberFile):
        yield msgspec.json.encode(plausible(kind))
    yield b'{"now":["/a","b"],"before":["/a","b"]}'
    yield b'{"pid":1,"start":2}'
    yield struct.pack("<q", 1000) * 5


def _words(data: bytes, _folder: Path) -> None:
    """Addresses as people write them."""
    text = data.decode("utf-8", "surrogateescape")
    for read in (addresses.split_address, lambda text: address.parse(text, "s")):
        try:
            read(text)
        except CallerError:
            continue


def _word_seeds() -> Iterator[bytes]:
    yield from (b"host:7400", b"[fe80::1%eth0]:7400", b"10.0.0.1", b"etcd://u:p@a:2379,b/name?ca=/x&cert=/y&key=/z")


def _schedules(data: bytes, _folder: Path) -> None:
    schedule.parse(data)


def _schedule_seeds() -> Iterator[bytes]:
    yield schedule.Schedule("logs", 1, {"nodes": 3}, (schedule.Step(1.5, "pause", {"node": "n1"}),)).text().encode()


def _stamp_seeds() -> Iterator[bytes]:
    yield msgspec.msgpack.encode([1, "port", "ann", False, "n1", 300])


def _travellers(data: bytes, _folder: Path) -> None:
    stamp_of(data)
    for read in (travelling.read, capabilities.read):
        try:
            read(data)
        except ValueError:
            continue


TARGETS: Final[dict[str, Target]] = {
    "messages": Target(lambda data, _: _frames(data, messages.decode), (ProtocolError,), _message_seeds, 4),
    "conversations": Target(lambda data, _: _frames(data, lambda one: conversations.decode(one, False)), (ProtocolError,), _message_seeds, 4),
    "operations": Target(_operations, (), _operation_seeds, 2),
    "values": Target(_values, (), _value_seeds, 4),
    "travellers": Target(_travellers, (), _stamp_seeds),
    "parcels": Target(_parcels, (ProtocolError,), _parcel_seeds, 2),
    "manifests": Target(lambda data, _: manifests.decode(data), (CallerError,), _manifest_seeds, 2),
    "trees": Target(_trees, (trees_protocol.Garbage,), _tree_seeds, 2),
    "log-frames": Target(_log, (), _log_seeds, 2),
    "log-folder": Target(_log_folder, (Damaged,), _log_folder_seeds, 0.2),
    "joiners-key": Target(_key_of_joiner, (ValueError,), _key_seeds, 0.5),
    "identities": Target(_uri, (ProtocolError,), _uri_seeds),
    "tokens": Target(lambda data, _: tokens.decode(data.decode("latin-1")), (CallerError,), _token_seeds),
    "backups": Target(_backup, (CallerError,), _backup_seeds),
    "backup-records": Target(_sealed, (CallerError,), _sealed_seeds, 0.2),
    "files": Target(_files, (), _file_seeds, 0.3),
    "addresses": Target(_words, (), _word_seeds),
    "schedules": Target(_schedules, (msgspec.MsgspecError,), _schedule_seeds, 0.5),
}
