"""The output of a process as one stream, whatever happens to kernels and nodes meanwhile.

`follow` yields chunks in order, each byte once, and `Anew` where another incarnation begins: what that one says starts from
nothing, so it is never joined silently to what was said before. A broken connection is made again at the offset reached.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import msgspec

from unios.client import archive, processes
from unios.client.channel import Asked
from unios.client.connection import PASSING, Connection
from unios.client.flowing import Flowing
from unios.client.processes import ENDED
from unios.errors import NotFound, Unavailable, UniosError
from unios.limits import CLIENT_LOOK_MS, CLIENT_OUTPUT_RETRY_MS, CLIENT_RETRY_MS
from unios.wire.operations import Chunk, Follow, ProcessView

_TURN_S = 0.2


class Anew(NamedTuple):
    """From here on the output is another incarnation's."""

    pid: int
    incarnation: int
    node: str
    node_before: str
    reason: str

    def __str__(self) -> str:
        why = f"its node {self.node_before} was lost" if self.node_before not in ("", self.node) else "it had ended"
        return f"{self.pid} was started again on {self.node} ({self.reason or why}); output begins anew"


class Passing(msgspec.Struct, frozen=True):
    """A Chunk whose bytes are looked at where they came in, and not copied."""

    stream: str
    incarnation: int
    offset: int
    data: memoryview
    lost: int = 0


C = TypeVar("C", Chunk, Passing)


class _Place:
    """How far the reading has come."""

    def __init__(self, view: ProcessView, out: int, err: int) -> None:
        self.node = view.node
        self.incarnation = view.incarnation
        self.offsets = {"out": out, "err": err}

    def pass_by(self, chunk: Chunk | Passing) -> None:
        self.incarnation = chunk.incarnation
        self.offsets[chunk.stream] = chunk.offset + len(chunk.data)

    def flow_by(self, flowing: Flowing) -> None:
        """It has been moved, as far as it came."""
        self.incarnation = flowing.incarnation
        self.offsets[flowing.stream] = flowing.offset

    def move(self, view: ProcessView) -> Anew:
        anew = Anew(view.pid, view.incarnation, view.node, self.node, view.reason if view.state not in ENDED else "")
        self.node, self.incarnation = view.node, view.incarnation
        self.offsets = {"out": 0, "err": 0}
        return anew


def read(connection: Connection, pid: int, *, incarnation: int = 0, out: int = 0, err: int = 0) -> Iterator[Chunk]:
    """Yield what is kept of an incarnation's output (0: the present one's), without waiting for more. Negative offsets count from the end.

    Where its node does not have it, or is away, what other nodes keep of it is yielded; what was raised, if that is nothing.
    """
    offsets = {"out": out, "err": err}
    try:
        for chunk in _chunks(connection.begin("processes.follow", Follow(pid, incarnation, out, err, follow=False))):
            offsets[chunk.stream] = chunk.offset + len(chunk.data)
            yield chunk
    except (*PASSING, NotFound) as error:
        yield from _archived(connection, pid, incarnation, offsets, error)


def _archived(connection: Connection, pid: int, incarnation: int, offsets: dict[str, int], failure: UniosError) -> Iterator[Chunk]:
    try:
        yield from archive.output(connection, pid, incarnation=incarnation, out=offsets["out"], err=offsets["err"])
    except (*PASSING, NotFound):
        raise failure from None


def follow(
    connection: Connection, pid: int, *, view: ProcessView | None = None, out: int = 0, err: int = 0, hold: bool = False
) -> Iterator[Chunk | Anew]:
    """Yield the output until the process has ended for good. `hold`: it waits for this reader rather than lose output.

    `passing` does the same for one who only passes the bytes on.
    Raises NotFound if there is no such process, and Unavailable when no kernel answers for CLIENT_RECONNECT_MS or the output of a
    process that has ended cannot be reached any more.
    """
    return _follow(connection, pid, _Place(view or processes.view(connection, pid), out, err), hold, Chunk)  # type: ignore[return-value]  # nothing flows


def passing(
    connection: Connection, pid: int, *, view: ProcessView, hold: bool, flows: frozenset[str] = frozenset()
) -> Iterator[Passing | Flowing | Anew]:
    """Like `follow`, from the beginning. `flows`: the streams of which large chunks may be given as Flowing, to be moved before the next is asked for."""
    return _follow(connection, pid, _Place(view, 0, 0), hold, Passing, flows)


def _follow(
    connection: Connection, pid: int, place: _Place, hold: bool, type_: type[C], flows: frozenset[str] = frozenset()
) -> Iterator[C | Flowing | Anew]:
    give_up_at = 0.0
    watch = processes.Watch(connection, pid)
    while True:
        failure: UniosError | None = None
        try:
            yield from _segment(connection, pid, place, hold, type_, flows)
        except (*PASSING, NotFound) as error:
            failure = error
        now = settled(connection, pid, watch)
        if now.incarnation > place.incarnation:
            yield place.move(now)
            give_up_at = 0.0
        elif now.state in ENDED:
            if failure is None or now.state == "failed" or not now.node:  # what was never started has said nothing
                return
            give_up_at = give_up_at or time.monotonic() + CLIENT_OUTPUT_RETRY_MS / 1000
            if time.monotonic() >= give_up_at:
                away = Unavailable(f"the rest of the output of {pid} cannot be reached: {failure}")
                for chunk in _archived(connection, pid, place.incarnation, place.offsets, away):
                    yield chunk if type_ is Chunk else Passing(chunk.stream, chunk.incarnation, chunk.offset, memoryview(chunk.data), chunk.lost)  # type: ignore[misc]
                return
        if failure is not None:
            time.sleep(CLIENT_RETRY_MS / 1000)


def abandon(connection: Connection, pid: int, *, timeout_s: float) -> None:
    """Let go of output that nobody will read any more, so that a program that is ending is not held up by it. Waits for the end, at most so long.

    Whoever reads with `hold` and vanishes is waited for; this takes the hold over, at the present end.
    """
    deadline = time.monotonic() + timeout_s
    asked = connection.begin("processes.follow", Follow(pid, 0, -1, -1, True, True))
    try:
        while (left := deadline - time.monotonic()) > 0 and asked.next(Chunk, timeout_s=left) is not None:
            pass
    except UniosError:
        pass  # it has ended, or cannot be reached: then the hold lapses by itself
    finally:
        asked.close()


def settled(connection: Connection, pid: int, watch: processes.Watch | None = None) -> ProcessView:
    """Return the record once it is not pending: where the process runs now, or how it ended."""
    while True:
        now = processes.wait(connection, pid, timeout_s=_TURN_S)
        if watch is not None and now.state not in ENDED:
            watch.look()
        if now.state != "pending":
            return now


def _segment(connection: Connection, pid: int, place: _Place, hold: bool, type_: type[C], flows: frozenset[str]) -> Iterator[C | Flowing]:
    """Yield one incarnation's output until it ends, or until the record shows that it is not this one that runs any more."""
    offsets = place.offsets
    asked = connection.begin("processes.follow", Follow(pid, place.incarnation, offsets["out"], offsets["err"], True, hold))
    try:
        while True:
            if not asked.wait(CLIENT_LOOK_MS / 1000, flows) and processes.view(connection, pid).incarnation != place.incarnation:
                return
            if (flowing := asked.take_flowing()) is not None:
                flowing.lost = max(0, flowing.offset - offsets[flowing.stream])
                yield flowing
                place.flow_by(flowing)
            elif asked.ready:
                chunk: C | None = asked.next(type_)
                if chunk is None:
                    return
                place.pass_by(chunk)
                yield chunk
    finally:
        asked.close()


def _chunks(asked: Asked) -> Iterator[Chunk]:
    try:
        while (chunk := asked.next(Chunk)) is not None:
            yield chunk
    finally:
        asked.close()
