"""What is kept elsewhere of output whose node is away: asked of the service `archive`, of which each node of this machine can have one."""

from collections.abc import Iterator

from unios.client import ports
from unios.client.connection import Connection
from unios.log_limits import ARCHIVE_WAIT_MS
from unios.wire.archives import PORT, OfOutput
from unios.wire.operations import Chunk


def output(connection: Connection, pid: int, *, incarnation: int = 0, out: int = 0, err: int = 0) -> Iterator[Chunk]:
    """Yield it in order, stdout first. NotFound if there is none, Unavailable if nobody who can read it answers."""
    with ports.connect(connection, PORT, wait_ms=ARCHIVE_WAIT_MS) as channel:
        asked = channel.begin("output", OfOutput(pid, incarnation, out, err))
        try:
            while (chunk := asked.next(Chunk)) is not None:
                yield chunk
        finally:
            asked.close()
