"""Doors: how a client asks the system, and what the end of that means for the history: it was done, it was not, or nobody knows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.histories.history import Outcome
from unios.client.channel import Channel
from unios.client.connection import Connection
from unios.client.ports import connect_raw
from unios.errors import CallerError, DataLost, LeaseLost, OutcomeUnknown, Unavailable, UniosError
from unios.store.model import Compare, Operation, Put, Range, RangeResult, Record, Transaction, TransactionResult

TIMEOUT_S = 5.0
Told = tuple[Outcome, Any, str]


def told(work: Callable[[], Any]) -> Told:
    """Do it; say how it ended. A note says which error it was."""
    try:
        return "ok", work(), ""
    except (DataLost, LeaseLost):
        return "fail", None, "lost"
    except (Unavailable, CallerError) as error:
        return "fail", None, f"{type(error).__name__}: {error}"
    except (UniosError, OSError) as error:
        return "unknown", None, f"{type(error).__name__}: {error}"


class Store:
    """The store as a privileged program has it, by way of one node. Belongs to one thread. Nothing is asked twice."""

    def __init__(self, home: Path, node: str) -> None:
        self._connection = Connection(home, node, role="history")
        self._channel: Channel | None = None

    def transact(self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()) -> TransactionResult:
        """As store/model.py has it. Unavailable: nothing was asked, or nothing was done."""
        if self._channel is None or self._channel.is_closed:
            try:
                self._channel = Channel(connect_raw(self._connection, "store"), role="history")
            except (UniosError, OSError) as error:
                self._connection.close()
                raise Unavailable(f"the store is not reached: {error}") from error
        try:
            asked = Transaction(tuple(compares), tuple(then), tuple(otherwise))
            found: TransactionResult = self._channel.call("store.transact", asked, TransactionResult, timeout_s=TIMEOUT_S)
        except (OutcomeUnknown, Unavailable, OSError):
            self._channel.close()
            self._connection.close()
            raise
        return found

    def read(self, *keys: str, prefix: bool = False) -> list[dict[str, Record]]:
        """Return the records of each key, or below each prefix, all as of one moment."""
        found = self.transact((), [Range(key, prefix) for key in keys])
        return [{record.key: record for record in part.records} for part in found.results if isinstance(part, RangeResult)]

    def put_if(self, seen: dict[str, Record | None], values: dict[str, bytes]) -> bool:
        """Write all if none of what was seen has changed; return whether it was done."""
        compares = [Compare(key, "modified", "==", record.modified if record else 0) for key, record in seen.items()]
        return self.transact(compares, [Put(key, value) for key, value in values.items()]).succeeded
