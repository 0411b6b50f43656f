"""Join tokens while the store has just lost a machine: it is asked again, and whether somebody was let in is read where its answer was lost."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from unios.core.nodes import NodeRecord, node_key
from unios.errors import Denied, OutcomeUnknown, Unavailable
from unios.kernel.tokens import Tokens, key_of
from unios.store.model import Put, Transaction

ENTRY = NodeRecord("n4", "m4", 0, certificate="c4")
ADMISSION = Transaction((), (Put(node_key("n4"), msgspec.msgpack.encode(ENTRY)),))


class Store:
    """Loses its answer to a transaction, before or after it is done; does not answer the next two reads."""

    def __init__(self, *, done: bool, by: str = "c4") -> None:
        self._done, self._by = done, by
        self._away = [Unavailable("no leader"), OutcomeUnknown("given up")]
        self.records: dict[str, bytes] = {}

    async def transact(self, transaction: Transaction) -> Any:
        if self._done:
            put = transaction.then[0]
            assert isinstance(put, Put)
            self.records[put.key] = msgspec.msgpack.encode(msgspec.structs.replace(ENTRY, certificate=self._by))
        raise OutcomeUnknown("another member is asked now")

    async def range(self, key: str) -> Any:
        if self._away:
            raise self._away.pop()
        found = [SimpleNamespace(key=key, value=self.records[key])] if key in self.records else []
        return SimpleNamespace(records=found), 1


def tokens(store: Store) -> Tokens:
    return Tokens(SimpleNamespace(store=store))  # type: ignore[arg-type]


@pytest.mark.parametrize(("store", "let_in"), [(Store(done=True), True), (Store(done=False), False), (Store(done=True, by="another's"), False)])
def test_whether_somebody_was_let_in_is_read_where_the_answer_was_lost(store: Store, let_in: bool) -> None:
    assert asyncio.run(tokens(store)._written(ADMISSION, ENTRY)) is let_in


def test_a_token_is_looked_for_again_while_the_store_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Denied, match="never made it"):
        asyncio.run(tokens(Store(done=False))._valid("secret"))
    assert key_of("secret") != key_of("other")
    monkeypatch.setattr("unios.kernel.tokens.PERSIST_S", 0.0)
    with pytest.raises((Unavailable, OutcomeUnknown)):
        asyncio.run(tokens(Store(done=False))._valid("secret"))
