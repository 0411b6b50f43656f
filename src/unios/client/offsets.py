"""Where in the output of a process a point in time is; the node that made the output knows."""

from unios.client.connection import Connection
from unios.wire.terminals import AskOffsets, Offsets


def offsets_since(connection: Connection, pid: int, since_ms: int) -> dict[str, int]:
    """Return where the output of `since_ms` (wall clock; negative: so long ago) and later begins in the streams of the present incarnation."""
    found: Offsets = connection.ask("processes.offsets", AskOffsets(pid, since_ms), Offsets)
    return {"out": found.out, "err": found.err}
