"""The manager of locks ends the session of a process that the records say is over, and no other's."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from unios.core.processes import ProcessRecord, process_key
from unios.errors import Unavailable
from unios.services import locks as service
from unios.services.locks import Manager
from unios.wire.operations import Accepted

STAMP = Accepted(1, "locks", "root", True, "n2", 300, 2)


def record(state: str, incarnation: int = 2) -> bytes:
    return msgspec.msgpack.encode(ProcessRecord(300, incarnation, cast(Any, state), "root"))


def ended(monkeypatch: pytest.MonkeyPatch, *records: bytes | None, there: bool = True, back: bool = False, holds: bool = True) -> list[str]:
    """Return which sessions are ended when the store answers so, one after the other; None: it does not."""
    monkeypatch.setattr(service, "ENDED_S", (0.0,) * len(records))
    answers = iter(records)

    async def found(key: str) -> object:
        assert key == process_key(300)
        value = next(answers)
        if value is None:
            raise Unavailable("it is away")
        return SimpleNamespace(records=(SimpleNamespace(value=value),) if value else ()), None

    told: list[str] = []
    manager: Any = Manager.__new__(Manager)
    manager._locks = SimpleNamespace(sessions={"s": None} if there else {}, ended=lambda session: told.append(session) or [])
    manager._lines = {"s": None} if back else {}
    manager._store = SimpleNamespace(range=found)
    manager._lease, manager._number = SimpleNamespace(holds_as=lambda _number: holds), 1
    asyncio.run(manager._look_for_end("s", STAMP))
    return told


def test_one_that_is_over_is_ended_once_its_end_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(monkeypatch, record("running"), None, b"", b"\xc1", record("exited")) == ["s"]


def test_no_other_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for state in ("pending", "running", "frozen", "lost", "failed"):
        assert ended(monkeypatch, record(state)) == []
    assert ended(monkeypatch, record("exited", 1)) == ended(monkeypatch, record("exited", 3)) == []
    assert ended(monkeypatch, record("exited"), back=True) == []
    assert ended(monkeypatch, record("exited"), there=False) == []
    assert ended(monkeypatch, record("exited"), holds=False) == []
