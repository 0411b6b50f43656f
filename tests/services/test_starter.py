"""Starting a pending process when somebody else has changed it meanwhile: what is answered is what it has come to."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from tests.services.test_assigning import node, view_of
from unios.client.aio import Kernel
from unios.core.forecast import Lengths
from unios.core.outlook import outlook
from unios.core.processes import ProcessRecord, process_key
from unios.core.queue import Queue
from unios.core.share import Shares
from unios.errors import NoRoom, PeerRestarted, UniosError, UserUnknown
from unios.services.policies import Policies
from unios.services.starter import Starter
from unios.store.model import Put, RangeResult, Record, Revision, Transaction, TransactionResult

UNKNOWN = "there is no user bob: add it there (useradd bob), or run it as another user"
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


class Machines:
    """Three nodes, of which one is away; those that are ready answer a start as they are told to. What is written is kept."""

    def __init__(self, **answers: UniosError) -> None:
        self.answers: dict[str, UniosError] = dict(answers)
        self.asked: list[str] = []
        self.written: list[ProcessRecord] = []
        view = view_of("n1", *(node(name, "*", "root") for name in ("n1", "n2", "n3")))
        cast(Any, view).ready = lambda: sorted(self.answers)
        cast(Any, view).store = SimpleNamespace(transact=self._transact)
        cast(Any, view).lease_of = lambda _node: 1
        self.view = view
        self.starter = Starter(cast(Kernel, SimpleNamespace(call=self._call)), view, Policies(view.books), lambda: 0)

    async def _call(self, *_args: object, node: str, **_options: object) -> object:
        self.asked.append(node)
        raise self.answers[node]

    async def _transact(self, transaction: Transaction) -> TransactionResult:
        put = transaction.then[0]
        assert isinstance(put, Put)
        self.written.append(msgspec.msgpack.decode(put.value, type=ProcessRecord))
        return TransactionResult(True, Revision("g", 7 + len(self.written)), ())

    def start(self, record: ProcessRecord) -> ProcessRecord:
        asyncio.run(self.starter.start(record, 5))
        return self.written[-1]

    def why(self, record: ProcessRecord) -> str:
        """Return what any node says, which knows the record and nothing of who was asked."""
        queue = Queue(self.view.books, Shares())
        queue.put(record.pid, record)
        return outlook(queue, self.view.books, Lengths(), self.view.ready(), 1)[0].reason


BOBS = ProcessRecord(300, 2, "pending", "bob", node="n1", reason="n2 was lost")


def test_while_the_machine_that_knows_its_user_is_away_it_says_so_on_every_node() -> None:
    machines = Machines(n1=UserUnknown(UNKNOWN), n3=UserUnknown(UNKNOWN))
    waits = machines.start(BOBS)
    assert (waits.state, waits.node, waits.refused) == ("pending", "", ("n1", "n3"))
    assert machines.why(waits) == waits.reason == f"n1, n3: {UNKNOWN}"


def test_one_that_is_asked_again_before_the_others_does_not_make_them_forgotten() -> None:
    machines = Machines(n1=UserUnknown(UNKNOWN), n3=UserUnknown(UNKNOWN))
    machines.start(BOBS)
    cast(Any, machines.view).lease_of = lambda name: 2 if name == "n1" else 1  # it has registered anew
    waits = machines.start(BOBS)
    assert machines.asked == ["n1", "n3", "n1"]
    assert sorted(waits.refused) == ["n1", "n3"] and machines.why(waits) == waits.reason


def test_one_node_that_cannot_run_it_and_one_that_has_no_room_are_told_apart() -> None:
    machines = Machines(n1=UserUnknown(UNKNOWN), n3=NoRoom("n3 has no room: 4 of 4 cores are set aside"))
    waits = machines.start(BOBS)
    assert (waits.node, waits.refused) == ("", ("n1",))
    assert machines.why(waits) == "waits for a core: 0 of 4 are set aside; 0 before it"
