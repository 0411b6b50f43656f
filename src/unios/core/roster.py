"""Roster: the sessions of the locks' manager, what each was answered, and those whose lease has ended. Decides only, for core/locks.py.

A session has incarnations: when its lease has ended its process goes on as the next one, which holds nothing, and asks again what it has no answer to. What
leaves a trace is done once all the same: the answers of an ended incarnation are kept for the next, by the numbers of their questions. Where the manager
cannot know any more whether it was done it says so.
"""

from collections.abc import Set
from typing import Final

from unios.core.grants import Answer, Ask, Key, Open, Waiter, fault
from unios.synchronisation_limits import SYNC_ANSWERS_KEPT, SYNC_GONE_BYTES_MAX, SYNC_GONE_MAX

ONCE: Final = frozenset({"put", "get", "back", "done", "release"})
"""What may not be done a second time."""


class Session:
    """One incarnation of a process that synchronises."""

    __slots__ = ("answers", "forgotten", "id", "incarnation", "inherited", "is_known", "label", "things", "turn", "until_ms", "user", "waiting")

    def __init__(self, user: str, opened: Open) -> None:
        self.id, self.user, self.label, self.incarnation = opened.session, user, opened.label, opened.incarnation
        self.until_ms = self.turn = 0
        self.waiting: dict[int, tuple[Key, Waiter]] = {}
        self.answers: dict[int, Answer] = {}
        """Of what leaves no trace here: told again if it was not heard."""
        self.inherited: set[int] = set()
        """Of them, those of an earlier incarnation."""
        self.forgotten = 0
        """The greatest number of a question whose answer was kept and is not any more, though nobody has said that it was heard."""
        self.is_known = False
        """Whether what it has asked before came to this manager as far as it came to anybody."""
        self.things: dict[Key, None] = {}

    def is_later(self, opened: Open) -> bool:
        """Say whether this is of a later incarnation, or on a later connection, than what has opened."""
        return (opened.incarnation, opened.turn) < (self.incarnation, self.turn)

    def keep(self, answer: Answer) -> None:
        """Keep an answer until it is heard."""
        self.answers[answer.id] = answer
        if len(self.answers) > SYNC_ANSWERS_KEPT:
            oldest = next(iter(self.answers))
            del self.answers[oldest]
            self.forgotten = max(self.forgotten, oldest)

    def heard(self, number: int) -> None:
        """All answers up to that number have come."""
        for answered in [one for one in self.answers if one <= number]:
            del self.answers[answered]

    def doubt(self, ask: Ask) -> Answer | None:
        """Return what is answered to a question that may have been asked before, if it may have been done then and nobody knows; else None."""
        if ask.op not in ONCE or (self.is_known and ask.id > self.forgotten):
            return None
        return fault(
            ask.id, "outcome-unknown", f"{ask.op} of {ask.kind} {ask.name}: the connection was lost for so long that nobody knows whether it was done"
        )


class Gone:
    """What is kept of sessions whose lease has ended: the answers that they may not have heard. Bounded: then the longest ended is forgotten."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session, taken_back: Set[int]) -> None:
        """A lease has ended. `taken_back`: the questions whose answers count no more, since what was granted has gone back."""
        self.pop(session.id)
        session.waiting, session.things = {}, {}
        session.answers = {id_: answer for id_, answer in session.answers.items() if id_ not in taken_back}
        self._sessions[session.id] = session
        self._bytes += _size(session)
        while len(self._sessions) > SYNC_GONE_MAX or self._bytes > SYNC_GONE_BYTES_MAX:
            self.pop(next(iter(self._sessions)))

    def has_ended(self, user: str, opened: Open) -> bool:
        """Say whether the lease of that incarnation has ended here; or it is no session of that user."""
        former = self._sessions.get(opened.session)
        return former is not None and (former.user != user or opened.incarnation <= former.incarnation)

    def pop(self, id_: str) -> Session | None:
        found = self._sessions.pop(id_, None)
        if found is not None:
            self._bytes -= _size(found)
        return found

    def follow(self, session: Session, opened: Open) -> None:
        """Let a new incarnation know what its predecessor was answered."""
        former = self.pop(session.id)
        session.is_known = former is not None or opened.epoch != 0
        if former is not None:
            session.answers, session.forgotten = former.answers, former.forgotten
            session.inherited = set(former.answers)


def _size(session: Session) -> int:
    return sum(len(answer.data) for answer in session.answers.values())
