"""Outcomes: what has come of the requests to a replicated object, so that one that is asked again is not done again.

Part of the object's replicated state: every copy notes the same outcomes in the same order, so every copy forgets the same ones. Decides only.

Bounded: a session keeps what its caller has not acknowledged; OBJECT_SESSIONS_MAX sessions, the longest silent goes first; OBJECT_OUTCOMES_BYTES_MAX of
outcomes, the oldest go first. What is forgotten is never done again: whoever asks for it is told that its outcome is unknown.
"""

from dataclasses import dataclass
from enum import Enum

from unios.limits import OBJECT_OUTCOMES_BYTES_MAX, OBJECT_SESSIONS_MAX


@dataclass(frozen=True, slots=True)
class Request:
    """A write. `number`: counts the session's writes from 1; all below `answered` have been answered. `call`: what to do, opaque."""

    session: str
    number: int
    answered: int
    call: bytes


class Found(Enum):
    """What is known of a request whose outcome is not kept."""

    NEW = "new"
    FORGOTTEN = "forgotten"


Kept = tuple[tuple[str, int, tuple[tuple[int, bytes | None], ...]], ...]
"""All of it, as data: (session, answered, (number, outcome) ...), the longest silent session first."""


class _Session:
    __slots__ = ("answered", "done")

    def __init__(self, answered: int, done: dict[int, bytes | None]) -> None:
        self.answered, self.done = answered, done


class Outcomes:
    """Those of one object."""

    def __init__(self, kept: Kept = ()) -> None:
        self._sessions = {session: _Session(answered, dict(done)) for session, answered, done in kept}
        self._bytes = sum(len(outcome or b"") for session in self._sessions.values() for outcome in session.done.values())

    def find(self, request: Request) -> bytes | Found:
        """Return the outcome of a request that was done; else whether it is new, or may have been done and is forgotten."""
        session = self._sessions.get(request.session)
        if session is None:
            return Found.NEW if request.answered <= 1 else Found.FORGOTTEN  # one that was answered had been known here
        if request.number in session.done:
            outcome = session.done[request.number]
            return Found.FORGOTTEN if outcome is None else outcome
        return Found.FORGOTTEN if request.number < session.answered else Found.NEW

    def note(self, request: Request, outcome: bytes) -> None:
        """Note what came of a request that was done now."""
        session = self._sessions.pop(request.session, None) or _Session(1, {})
        self._sessions[request.session] = session
        session.answered = max(session.answered, request.answered)
        for number in [number for number in session.done if number < session.answered]:
            self._bytes -= len(session.done.pop(number) or b"")
        session.done[request.number] = outcome
        self._bytes += len(outcome)
        self._bound()

    def _bound(self) -> None:
        while len(self._sessions) > OBJECT_SESSIONS_MAX:
            oldest = self._sessions.pop(next(iter(self._sessions)))
            self._bytes -= sum(len(outcome or b"") for outcome in oldest.done.values())
        if self._bytes > OBJECT_OUTCOMES_BYTES_MAX:
            for session in self._sessions.values():
                for number, outcome in session.done.items():
                    if self._bytes <= OBJECT_OUTCOMES_BYTES_MAX:
                        return
                    self._bytes -= len(outcome or b"")
                    session.done[number] = None

    def keep(self) -> Kept:
        """Return all of it, as data: for a new copy."""
        return tuple((name, session.answered, tuple(session.done.items())) for name, session in self._sessions.items())
