"""The audit log: who did what to the system's safety, as the kernel asked reads and checks it."""

import msgspec

from unios.client.connection import Connection
from unios.wire.auditing import AuditVerdict, AuditView, ReadAudit


def read(connection: Connection, *, last: int = 0) -> tuple[list[AuditView], AuditVerdict]:
    """Return the entries, the oldest first, only the `last` of them if that is not 0, and whether the log is whole. Idempotent. Denied."""
    asked = connection.persist(lambda: connection.begin("node.audit", ReadAudit(last)))
    try:
        entries = []
        while (entry := asked.next(AuditView)) is not None:
            entries.append(entry)
        return entries, msgspec.msgpack.decode(asked.finish()[0], type=AuditVerdict)
    finally:
        asked.close()
