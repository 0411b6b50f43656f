"""The archive service: what programs have said survives their node. One per node, started when the first process runs there while there is another node.

Every half second, in a flood every two, it looks at the files of this node's trees and appends what is new to a replicated log, which another machine
has too (core/archive.py decides). Whoever asks for output whose node is away reads it from there: `output` on the port `archive` of any node.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from unios.client.aio import Kernel, serve
from unios.client.log import LogCalls, LogReader, LogWriter, seal
from unios.core.archive import PREFIX, Gathering, Piece, Shelf, Want
from unios.core.logs import PREFIX as LOGS
from unios.core.logs import LogRecord
from unios.core.nodes import NodeRecord
from unios.core.processes import ProcessRecord, process_key
from unios.errors import CallerError, Compacted, DataLost, Denied, LeaseLost, NotFound, OutcomeUnknown, Unavailable
from unios.limits import BEAT_MS, STREAM_KEPT_BYTES
from unios.log_limits import ARCHIVE_BYTES_S, ARCHIVE_PIECE_BYTES, ARCHIVE_TICK_MS, ARCHIVE_TURN_BYTES
from unios.services.outputs import Outputs
from unios.store.client import StoreClient
from unios.store.model import UNDECODABLE
from unios.store.pages import every
from unios.wire.archives import PORT, OfOutput
from unios.wire.home import NodeFolder
from unios.wire.operations import Accepted, Chunk, Empty
from unios.wire.peer import Call
from unios.wire.segments import NAMES, StreamReader

NODES: Final = "/nodes/"
PROCESSES: Final = "/processes/"
TIDY_EVERY: Final = 1_000
"""Turns: some ten minutes."""
REST_S: Final = 2.0
"""After something that does not pass at once."""
AWAY: Final = (Unavailable, OutcomeUnknown, DataLost, LeaseLost)


class Archive:
    """The service."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._name = f"{PREFIX}{kernel.folder.name}"
        self._store = StoreClient(lambda: kernel.connect("store"))
        self._outputs = Outputs(os.fspath(kernel.folder.trees))
        self._shelf = Shelf()
        self._writer: LogWriter | None = None
        self._buffer = memoryview(bytearray(ARCHIVE_PIECE_BYTES))

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._kernel.listen(PORT, 0o666, self._serve)
        turns = 0
        while True:
            try:
                sent = await self._turn()
                turns += 1
                if turns % TIDY_EVERY == 0:
                    await self._tidy()
                await asyncio.sleep(max(ARCHIVE_TICK_MS / 1000, sent / ARCHIVE_BYTES_S))
            except AWAY:  # another writer is one of this node too, from before
                self._close()
                await asyncio.sleep(REST_S)

    async def _turn(self) -> int:
        """Send away what is new; return how many bytes that were."""
        for stream, start, end in self._outputs.look():
            self._shelf.saw(stream, start, end)
        for pid, incarnation in self._outputs.vanished():
            self._shelf.gone(pid, incarnation)
        if self._writer is None:
            if not self._shelf.plan(1):
                return 0
            self._writer = await self._open()
        pieces = [piece for want in self._shelf.plan(ARCHIVE_TURN_BYTES) for piece in self._read(want)]
        if pieces:
            first = await self._writer.append(*map(msgspec.msgpack.encode, pieces))
            for at, piece in enumerate(pieces, first):
                self._shelf.added(at, (piece.pid, piece.incarnation, piece.stream), piece.offset, len(piece.data))
        if upto := self._shelf.trim():
            await self._writer.trim(upto)
        return sum(len(piece.data) for piece in pieces)

    async def _open(self) -> LogWriter:
        """Take the log over, and see what it has: it may have been written by another process of this node."""
        shelf = Shelf()
        writer = await LogWriter.open(self._kernel, self._name)
        async for at, piece in _pieces(LogReader(self._kernel, self._name)):
            shelf.added(at, (piece.pid, piece.incarnation, piece.stream), piece.offset, len(piece.data))
        for stream, (start, end) in self._outputs.all.items():
            shelf.saw(stream, start, end)
        self._shelf = shelf
        return writer

    async def _tidy(self) -> None:
        """Let go of the logs of nodes that have left for good, once no record of a process says that it was there."""
        logs = await self._all_logs()
        nodes, _revision = await every(self._store, NODES)
        gone = [log for log in logs if not any(_is_joined(record.value, log.name) for record in nodes)]
        gone = [log for log in gone if log.spans and (log.spans[-1].is_open or log.first < log.closed_end)]
        if not gone:
            return
        processes, _revision = await every(self._store, PROCESSES)
        used = {_node_of(record.value) for record in processes}
        for log in gone:
            if log.name.removeprefix(PREFIX) not in used:
                end = await seal(self._kernel, log.name, user=log.user)
                await LogCalls(self._kernel, log.name, user=log.user).trim(end)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _read(self, want: Want) -> list[Piece]:
        """Return the bytes as they are in the files, perhaps in several parts; fewer if the oldest have gone meanwhile."""
        pid, incarnation, name = want.stream
        reader = StreamReader(self._kernel.folder.trees / f"{pid}.{incarnation}", name)
        pieces, at, end = [], want.offset, want.offset + want.size
        try:
            while at < end:
                begin, count = reader.read(at, self._buffer[: end - at])
                if not count or begin >= end:
                    break
                pieces.append(Piece(pid, incarnation, name, begin, bytes(self._buffer[:count])))
                at = begin + count
        except OSError:
            pass  # the tree has been tidied away
        finally:
            reader.close()
        return pieces

    # for readers

    async def _serve(self, stamp: Accepted, call: Call) -> object:
        if call.op != "output":
            raise CallerError(f"the archive service has no operation {call.op[:80]}")
        body = call.decode(OfOutput)
        record = await self._record(body.pid)
        if stamp.user != record.user and not stamp.privileged:
            raise Denied(f"process {body.pid} is {record.user}'s, and so is what it has said")
        gathering = Gathering(body.pid, body.incarnation or record.incarnation, STREAM_KEPT_BYTES)
        why = ""
        for user, log in await self._logs(record, body.incarnation):
            try:
                async for _at, piece in _pieces(LogReader(self._kernel, log, user=user)):
                    gathering.add(piece)
            except (*AWAY, NotFound) as error:
                why = f": {error}"
            if not gathering.is_empty:
                break
        if gathering.is_empty:
            raise NotFound(f"nothing that process {body.pid} has said is kept on another node than its own{why}")
        for name in NAMES:
            for offset, data, lost in gathering.read(name, body.out if name == "out" else body.err):
                await call.send(Chunk(name, body.incarnation or record.incarnation, offset, data, lost))
        return Empty()

    async def _record(self, pid: int) -> ProcessRecord:
        found, _revision = await self._store.range(process_key(pid))
        if not found.records:
            raise NotFound(f"there is no process {pid}")
        try:
            return msgspec.msgpack.decode(found.records[0].value, type=ProcessRecord)
        except UNDECODABLE as error:
            raise DataLost(f"the record of process {pid} makes no sense: {error}") from error

    async def _logs(self, record: ProcessRecord, incarnation: int) -> list[tuple[str, str]]:
        """Return (user, name) of the logs that may have it, the likeliest first."""
        found = [(log.user, log.name) for log in await self._all_logs()]
        own = f"{PREFIX}{record.node}"
        return (
            sorted(found, key=lambda log: (log[1] != own, log))
            if incarnation not in (0, record.incarnation)
            else [log for log in found if log[1] == own]
        )

    async def _all_logs(self) -> list[LogRecord]:
        records, _revision = await every(self._store, LOGS)
        found = []
        for each in records:
            with contextlib.suppress(*UNDECODABLE):
                found.append(msgspec.msgpack.decode(each.value, type=LogRecord))
        return [log for log in found if log.name.startswith(PREFIX)]


def _is_joined(value: bytes, log: str) -> bool:
    """Whether that is the record of the log's node, which is a member still. What cannot be read may be."""
    with contextlib.suppress(*UNDECODABLE):
        record = msgspec.msgpack.decode(value, type=NodeRecord)
        return f"{PREFIX}{record.name}" == log and record.state == "joined"
    return True


def _node_of(value: bytes) -> str:
    with contextlib.suppress(*UNDECODABLE):
        return msgspec.msgpack.decode(value, type=ProcessRecord).node
    return ""


async def _pieces(reader: LogReader) -> AsyncIterator[tuple[int, Piece]]:
    """Yield (offset, piece) of all that the log has."""
    record = await reader.calls.present()
    reader.offset = record.first
    while True:
        at = reader.offset
        try:
            entries = await reader.read()
        except Compacted:  # trimmed meanwhile
            reader.offset = (await reader.calls.present()).first
            continue
        if not entries:
            return
        for number, entry in enumerate(entries, at):
            with contextlib.suppress(*UNDECODABLE):
                yield number, msgspec.msgpack.decode(entry, type=Piece)


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Be the service of one node."""
    return serve(folder, beat, BEAT_MS / 1000, lambda kernel: Archive(kernel).run(), "archive")
