"""Starting a pending process when somebody else has changed it meanwhile: what is answered is what it has come to."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from unios.core.processes import ProcessRecord, process_key
from unios.errors import PeerRestarted
from unios.services.starter import Starter
from unios.store.model import RangeResult, Record, Revision, Transaction, TransactionResult

MINE = ProcessRecord(300, 1, "pending", "ann", node="n1")


def tried(now: ProcessRecord | None) -> tuple[str, str]:
    """Return state and reason as a submitter is told them, when n1 says that the process is not its own any more and the store has `now`."""

    async def refuses(*_args: object, **_options: object) -> object:
        raise PeerRestarted("process 300 is not assigned to n1 as incarnation 1 any more")

    async def transact(_transaction: Transaction) -> TransactionResult:
        records = () if now is None else (Record(process_key(300), msgspec.msgpack.encode(now), 1, 7, 2),)
        return TransactionResult(True, Revision("g", 7), (RangeResult(records),))

    view = SimpleNamespace(store=SimpleNamespace(transact=transact), lease_of=lambda _node: 1)
    starter = Starter(cast(Any, SimpleNamespace(call=refuses)), cast(Any, view), cast(Any, None), lambda: 0)
    found = asyncio.run(starter.start(MINE, 5))
    assert found.failure is None  # else the sentence of the one that refused would be shown as the reason
    return found.record.state, found.record.reason


def test_what_somebody_else_has_made_of_it_is_answered() -> None:
    assert tried(ProcessRecord(300, 1, "exited", "ann", exit_code=143, reason="cancelled by ann")) == ("exited", "cancelled by ann")
    assert tried(ProcessRecord(300, 2, "pending", "ann", reason="n1 was lost")) == ("pending", "n1 was lost")
    assert tried(None) == ("pending", "")
