"""Election across nodes: of all who stand one leads, until it resigns, dies or is stopped past its lease; then the next does, in the order of standing."""

from typing import NamedTuple

from unios.client.synchronisation.lock import Lock
from unios.errors import LeaseLost
from unios.wire.synchronising import YES, Token


class Leader(NamedTuple):
    """Who leads. `token` is greater than that of every leader before: what it orders carries it, and whoever obeys refuses older ones (TokenGuard)."""

    who: str
    token: Token


class Election(Lock):
    """One office. Its methods are a lock's too: to lead is to hold it."""

    kind = "election"

    def stand(self, timeout: float | None = None) -> bool:
        """Wait to become the leader; False at the timeout (s)."""
        return self.acquire(timeout=-1 if timeout is None else timeout)

    def resign(self) -> None:
        """Let the next lead. LeaseLost if that has happened already."""
        self.release()

    @property
    def leads(self) -> bool:
        """Whether this object leads still, as far as this process can know: nobody else does before it becomes False."""
        try:
            return self._token is not None and self.check() == self._token
        except LeaseLost:
            return False

    def leader(self) -> Leader | None:
        """Return who leads, None if nobody does."""
        answer = self._asked("locked")
        if answer.outcome != YES or not answer.number:
            return None
        return Leader(answer.text, Token(int(answer.data), answer.number))
