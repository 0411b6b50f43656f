"""What the answer to a signal says: that it waits, where a user has frozen the process."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from tests.kernel.test_unbegun import ANN, PENDING, Scene
from unios.kernel.process_operations import ProcessOperations
from unios.wire.operations import Signal, Signalled


class Init:
    """Takes everything."""

    async def ask(self, _op: str, **_fields: Any) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("state", "number", "waits"),
    [("frozen", signal.SIGUSR1, True), ("running", signal.SIGUSR1, False), ("frozen", signal.SIGKILL, False), ("frozen", 0, False)],
)
def test_a_signal_waits_if_the_process_is_frozen_and_it_does_not_kill(state: Any, number: int, waits: bool) -> None:
    async def main() -> None:
        scene = Scene(here=True)
        scene.node.trees = SimpleNamespace(trees={(300, 1): None}, init=lambda *_key: Init(), wait_up=lambda: asyncio.sleep(0))
        await scene.assigned()
        record = structs.replace(PENDING, state=state)
        answer = await ProcessOperations(scene.node)._signal(ANN, record, Signal(300, number))
        assert answer == Signalled(waits)

    asyncio.run(main())
