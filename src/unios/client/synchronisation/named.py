"""Named: what all that synchronises has in common: a name, and the session over which it is used."""

import math
from typing import Any

from unios.client.connection import Connection
from unios.client.synchronisation import memory
from unios.client.synchronisation.pending import OnToken, ignore
from unios.client.synchronisation.session import Session
from unios.client.synchronisation.sessions import forks, session
from unios.wire.synchronising import NOWAIT, TIMED, YES, Answer, Ask


class Named:
    """Something of that name in the system, the same for all programs of its user. Making one asks nobody; the first use does."""

    kind = ""

    def __init__(self, name: str, via: Connection | None = None) -> None:
        """`via`: another system than that of UNIOS_HOME, or a node of it."""
        if not isinstance(name, str) or not name:
            raise ValueError("what synchronises programs needs a name")
        self.name = name
        self._via = via
        self._session: Session | None = None
        self._forks = -1

    def __repr__(self) -> str:
        return f"unios.{type(self).__name__}({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels as its name, whether it was used or not: nobody holds anything by what arrives. TypeError if it was made for another system."""
        if self._via is not None:
            raise TypeError(f"{self!r} was made for another system than that of UNIOS_HOME: it cannot be sent")
        return type(self), (self.name, *self._more())

    def _more(self) -> tuple[Any, ...]:
        """Return what is said beside the name when one is made."""
        return ()

    @property
    def session(self) -> Session:
        """This process's session; a forked child has another than its parent."""
        if self._session is None or self._forks != forks():
            self._session, self._forks = session(self._via), forks()
        return self._session

    def _ask(
        self, op: str, *, timeout_s: float | None = None, flags: int = 0, size: int = 1, spec: int = 0, data: bytes = b"", on_token: OnToken = ignore
    ) -> Answer | None:
        flags |= TIMED if timeout_s is not None else 0
        return self.session.call(Ask(0, op, self.kind, self.name, memory.actor(), size, spec, flags, data=data), timeout_s, on_token)

    def _asked(self, op: str, *, size: int = 1, spec: int = 0) -> Answer:
        """Ask what is answered at once."""
        answer = self._ask(op, size=size, spec=spec)
        assert answer is not None
        return answer


def patience(blocking: bool, timeout: float | None) -> tuple[int, float | None]:
    """Return flags and seconds for what `threading` calls blocking and timeout; ValueError where that raises it."""
    if not blocking:
        if timeout is not None and timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        return NOWAIT, None
    if timeout is None or timeout == -1:
        return 0, None
    if timeout < 0 or math.isnan(timeout):
        raise ValueError("timeout value must be a non-negative number")
    return (NOWAIT, None) if timeout == 0 else (0, timeout)


def is_yes(answer: Answer | None) -> bool:
    return answer is not None and answer.outcome == YES
