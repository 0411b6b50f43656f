"""What unios acknowledges as durable, kind by kind: shipped code that brings something to a disk, and shipped code that reads what is there.

    python -m tests.durability.workloads KIND FOLDER

does the work of a kind step by step. After each it says on stdout what has been acknowledged since it began (a JSON list), or `{"refused": ...}`, and goes on
when it is told to, by a line on stdin.
"""

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from unios import durable
from unios.client.synchronisation.token_guard import TokenGuard
from unios.core.log_replica import Commit, Kept, Write
from unios.errors import UniosError
from unios.ids import Generation
from unios.kernel import backups, certificates, cluster, founding, store_operations, system
from unios.kernel.blocks import BlockStore
from unios.kernel.certificates import Identity
from unios.kernel.log_files import Damaged, LogFiles
from unios.kernel.system import NodeFile, SystemFile
from unios.store.model import Put, Record, Revision
from unios.store.requests import Dumped
from unios.wire.home import Home
from unios.wire.manifests import name_of

Facts = list[str]


class Kind(NamedTuple):
    """`work` yields what is acknowledged by then, and `found` returns what of that is in a folder after a power cut. Raises nothing for what is not there."""

    work: Callable[[Path], Iterator[Facts]]
    found: Callable[[Path], Facts]


# logs

_MADE: Final = Kept(1, 3, 0, 0)


def _append(folder: Path) -> Iterator[Facts]:
    files = LogFiles(f"{folder}/logs/u-ann/mine", file_bytes=300)
    replica = files.open()
    kept = replica.spans()[0] if replica.spans() else None
    if kept is None:
        files.commit(Commit((_MADE,), (), 3, 0))
    told = ["fence 3", *(f"entry {number}" for number in range(kept.end if kept else 0))]
    yield list(told)
    for first in range(kept.end if kept else 0, 12, 2):
        files.commit(Commit((), (Write(1, first, (b"entry %d" % first, b"entry %d" % (first + 1))),), 0, 0))
        told += [f"entry {first}", f"entry {first + 1}"]
        yield list(told)
    files.commit(Commit((), (), 7, 0))
    yield [*told, "fence 7"]


def _appended(folder: Path) -> Facts:
    files = LogFiles(f"{folder}/logs/u-ann/mine")
    try:
        replica = files.open()
        spans = replica.spans()
    except (OSError, Damaged):
        return []
    facts = [f"fence {fence}" for fence in (3, 7) if replica.fence >= fence]
    for span in spans:
        at = span.first
        while at < span.end:
            entries = files.read(span.number, at, span.end)
            facts += [entry.decode() for entry in entries]
            at += len(entries)
    return facts


# blocks


def _nothing() -> frozenset[tuple[str, bytes]]:
    return frozenset()


def _put(folder: Path) -> Iterator[Facts]:
    store = BlockStore(f"{folder}/blocks")
    told: Facts = []
    for user, count in (("ann", 2), ("bob", 1), ("ann", 40)):  # the last are so many that the whole file system is synced at once
        blocks = [b"%d of %d" % (number, count) * 100 for number in range(count)]
        with store.batch(user, _nothing) as batch:
            for block in blocks:
                batch.add(block)
            batch.commit()
        told += [f"{user} {name_of(block).hex()}" for block in blocks]
        yield list(told)


def _kept(folder: Path) -> Facts:
    store = BlockStore(f"{folder}/blocks")
    return [f"{user} {name.hex()}" for user in ("ann", "bob") for name, _size in store.list(user, b"", 1000) if store.get(user, name) is not None]


# keys, certificates, and what else a machine knows of its system


def _found(folder: Path) -> Iterator[Facts]:
    home = Home(folder / "home")
    founding.prepare(home)
    if home.system_file.exists():
        yield _kept_keys(folder)
    else:
        founding.found(home, 2, "", "", "")
    told = ["system", "authority", "node n1", "node n2"]
    yield list(told)
    file = system.read(home.node("n1").node_file, NodeFile)
    file.address = "127.0.0.1:7"
    system.write(home.node("n1").node_file, file)
    told.append("address 127.0.0.1:7")
    yield list(told)
    cluster.write(home, cluster.Cluster(("127.0.0.1:2379",), "mine", password="first"))
    cluster.write(home, cluster.Cluster(("127.0.0.1:2379",), "mine", password="second"))
    yield [*told, "cluster second"]


def _kept_keys(folder: Path) -> Facts:
    home = Home(folder / "home")
    facts: Facts = []
    if _makes_sense(lambda: system.read(home.system_file, SystemFile)):
        facts.append("system")
    identity = Identity("s", "n", "m", ("ann",))
    if _makes_sense(lambda: certificates.sign(home.ca, certificates.make_key()[1], identity)):
        facts.append("authority")
    for name in ("n1", "n2"):
        node = home.node(name)
        if _makes_sense(lambda node=node: (system.read(node.node_file, NodeFile), _matches(node.path))):  # type: ignore[misc]
            facts.append(f"node {name}")
    if "node n1" in facts and (address := system.read(home.node("n1").node_file, NodeFile).address):
        facts.append(f"address {address}")
    try:
        seen = cluster.read(home)
    except UniosError:
        seen = None
    return [*facts, *([f"cluster {seen.password}"] if seen else [])]


def _matches(folder: Path) -> None:
    """Raise if the key of a node is not that of its certificate."""
    import ssl

    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "node.crt", folder / "node.key")


def _makes_sense(read: Callable[[], object]) -> bool:
    try:
        read()
    except (OSError, UniosError, ValueError):
        return False
    return True


# tokens that were let pass


def _admit(folder: Path) -> Iterator[Facts]:
    guard = TokenGuard(folder / "tokens")
    for number in (1, 2, 5)[max(0, guard.greatest.number - 1) :]:
        guard.admit((1, number))
        yield [f"token {number}"]


def _admitted(folder: Path) -> Facts:
    try:
        seen = TokenGuard(folder / "tokens").greatest
    except UniosError:
        return []
    return [f"token {number}" for number in range(seen.number + 1)]


# backups, and stores that are made from them


async def _pages(number: int) -> AsyncIterator[Dumped]:
    yield Dumped(Revision(Generation("g"), number), (Record("/kept", b"%d" % number, 1, 1, 1),))


def _back_up(folder: Path) -> Iterator[Facts]:
    for number in (1, 2):
        asyncio.run(backups.write(folder / "backup", _pages(number), backups.Header("s", "sqlite", "1", 7, "", 0)))
        yield [f"backup {number}"]


def _backed_up(folder: Path) -> Facts:
    try:
        return [f"backup {number}" for number in range(int(backups.read(folder / "backup")[1]["/kept"]) + 1)]
    except UniosError:
        return []


def _make_anew(folder: Path) -> Iterator[Facts]:
    durable.make_folders(folder / "store")
    store_operations.make_file(folder / "store", tuple(Put(f"/k/{number}", b"%d" % number) for number in range(50)))
    yield [f"/k/{number}" for number in range(50)]


def records(folder: Path) -> Facts:
    """Return the keys in the store's file of a folder, or in nothing if that is not there."""
    path = folder / "store" / "store.db"
    if not path.exists():
        return []
    try:
        with sqlite3.connect(path) as database:
            return [str(key) for (key,) in database.execute("SELECT key FROM records")]
    except sqlite3.Error:
        return []


KINDS: Final = {
    "log": Kind(_append, _appended),
    "blocks": Kind(_put, _kept),
    "keys": Kind(_found, _kept_keys),
    "tokens": Kind(_admit, _admitted),
    "backup": Kind(_back_up, _backed_up),
    "restored": Kind(_make_anew, records),
}


def main(kind: str, folder: str) -> None:
    try:
        for facts in KINDS[kind].work(Path(folder)):
            _say(facts)
    except (OSError, UniosError, Damaged) as error:
        _say({"refused": f"{type(error).__name__}: {error}"})


def _say(what: object) -> None:
    os.write(1, msgspec.json.encode(what) + b"\n")
    sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
