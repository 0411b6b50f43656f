"""A signal that ends a process which is assigned to a node and has not begun there."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.kernel.test_stopping import MemoryStore
from unios.core.processes import ProcessRecord, ProcessSpec, process_key
from unios.errors import Unavailable
from unios.kernel.callers import Caller
from unios.kernel.process_operations import ProcessOperations
from unios.kernel.records import Records
from unios.kernel.spawning import Given, Starts, start
from unios.store.model import Put, Transaction
from unios.wire.operations import Signal

ANN = Caller("ann", 1000, False, "n1")
PENDING = ProcessRecord(300, 1, "pending", "ann", node="n1")


class Scene:
    """A node to which a process is assigned; `here`: its tree is there, and its init does not answer."""

    def __init__(self, *, here: bool = False) -> None:
        self.store = MemoryStore()
        self.node: Any = SimpleNamespace(
            name="n1",
            records=Records(self.store),  # type: ignore[arg-type]
            starts=Starts(),
            trees=SimpleNamespace(trees={(300, 1): None} if here else {}, init=self._init, wait_up=lambda: asyncio.sleep(0)),
            leasing=SimpleNamespace(incarnation=1, left_ms=lambda: 1000, wait_standing=lambda _ms: asyncio.sleep(0)),
            recorder=SimpleNamespace(know=lambda *_given: None, forget=lambda *_key: None),
            admission=SimpleNamespace(give_back=lambda *_key: None),
            holds_pending=lambda *_key: False,
            wall_ms=lambda: 1,
        )

    def _init(self, *_key: int) -> Any:
        raise Unavailable("nobody listens")

    async def assigned(self) -> None:
        await self.store.transact(Transaction(then=(Put(process_key(300), msgspec.msgpack.encode(PENDING)),)))

    async def signalled(self, number: int) -> None:
        await ProcessOperations(self.node)._signal(ANN, PENDING, Signal(300, number))

    async def record(self) -> ProcessRecord:
        return (await self.node.records.read(300))[0]


def test_it_ends_and_a_start_that_comes_yet_with_a_record_from_before_is_refused() -> None:
    async def main() -> None:
        scene = Scene()
        await scene.assigned()
        await scene.signalled(signal.SIGTERM)
        record = await scene.record()
        assert (record.state, record.exit_code, record.reason) == ("exited", 143, "ann ended it before it began")
        late = Given(PENDING, ProcessSpec(argv=(b"true",), user="ann"), 1, 1)
        with pytest.raises(Unavailable, match="ended before it began"):
            await start(scene.node, 300, 1, late)

    asyncio.run(main())


def test_what_runs_and_does_not_answer_is_not_written_down_as_ended() -> None:
    async def main() -> None:
        scene = Scene(here=True)
        await scene.assigned()
        with pytest.raises(Unavailable, match="nobody listens"):
            await scene.signalled(signal.SIGTERM)
        assert (await scene.record()).state == "pending"

    asyncio.run(main())


def test_a_signal_that_does_not_end_says_that_it_did_not_arrive() -> None:
    async def main() -> None:
        scene = Scene()
        await scene.assigned()
        with pytest.raises(Unavailable):
            await scene.signalled(signal.SIGUSR1)
        assert (await scene.record()).wanted != "stopped"

    asyncio.run(main())
