"""Roster: the sessions of the locks' manager, what each was answered, and those whose lease has ended. Decides only, for core/locks.py.

A session has incarnations: when its lease has ended its process goes on as the next one, which holds nothing, and asks again what it has no answer to. What
leaves a trace is done once all the same: the answers of an ended incarnation are kept for the next, by the numbers of their questions. Where the manager
cannot know any more whether it was done it says so.
"""

from collections import Counter
from collections.abc import Container, Set
from typing import Final

from unios.core.grants import Answer, Ask, Key, Open, Out, Over, Waiter, fault
from unios.core.refusals import is_called_too_long
from unios.core.shares import Shares
from unios.synchronisation_limits import (
    SYNC_ACTOR_BYTES_MAX,
    SYNC_ANSWER_BYTES,
    SYNC_ANSWERS_BYTES_MAX,
    SYNC_ANSWERS_KEPT,
    SYNC_GONE_BYTES_MAX,
    SYNC_GONE_MAX,
    SYNC_SESSIONS_MAX,
    SYNC_USER_ANSWERS_BYTES_MAX,
    SYNC_USER_SESSIONS_MAX,
)

ONCE: Final = frozenset({"put", "get", "back", "done", "release"})
"""What may not be done a second time."""
ENDED: Final = "its lease has ended: what it held may be another's"


class Session:
    """One incarnation of a process that synchronises."""

    __slots__ = (
        "_kept",
        "answers",
        "forgotten",
        "id",
        "incarnation",
        "inherited",
        "is_known",
        "label",
        "things",
        "turn",
        "unknown",
        "until_ms",
        "user",
        "waiting",
    )

    def __init__(self, user: str, opened: Open, kept: Shares) -> None:
        """`kept`: what the answers count for that are kept of all sessions."""
        self._kept = kept
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
        self.unknown: set[int] = set()
        """Questions that are to be said later, of which the same could not be said when it was opened."""
        self.things: dict[Key, None] = {}

    def is_later(self, opened: Open) -> bool:
        """Say whether this is of a later incarnation, or on a later connection, than what has opened."""
        return (opened.incarnation, opened.turn) < (self.incarnation, self.turn)

    def keep(self, answer: Answer) -> None:
        """Keep an answer until it is heard, or there are too many."""
        self._drop(answer.id)
        self.answers[answer.id] = answer
        self._kept.add(self.user, _cost(answer))
        while self.answers and (len(self.answers) > SYNC_ANSWERS_KEPT or not self._kept.has_room(self.user)):
            oldest = next(iter(self.answers))
            self._drop(oldest)
            self.forgotten = max(self.forgotten, oldest)

    def _drop(self, id_: int) -> None:
        answer = self.answers.pop(id_, None)
        if answer is not None:
            self._kept.add(self.user, -_cost(answer))

    def heard(self, number: int) -> None:
        """All answers up to that number have come."""
        for answered in [one for one in self.answers if one <= number]:
            self._drop(answered)

    def inherit(self, former: "Session") -> None:
        """Know what an incarnation that has ended was answered."""
        self.forgotten, self.inherited = former.forgotten, set(former.answers)
        for answer in former.answers.values():
            self.keep(answer)

    def end(self) -> None:
        """It has ended: what was kept of its answers counts for living sessions no more."""
        self._kept.add(self.user, -sum(map(_cost, self.answers.values())))

    def doubt(self, ask: Ask) -> Answer | None:
        """Return what is answered to a question that may have been asked before, if it may have been done then and nobody knows; else None."""
        if ask.op not in ONCE or (self.is_known and ask.id > self.forgotten and ask.id not in self.unknown):
            return None
        return fault(
            ask.id, "outcome-unknown", f"{ask.op} of {ask.kind} {ask.name}: the connection was lost for so long that nobody knows whether it was done"
        )


class Gone:
    """What is kept of sessions whose lease has ended: the answers that they may not have heard. Bounded: then of the user of whom most is kept the longest
    ended is forgotten."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._bytes = 0
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session, taken_back: Set[int]) -> None:
        """A lease has ended. `taken_back`: the questions whose answers count no more, since what was granted has gone back."""
        self.pop(session.id)
        session.waiting, session.things = {}, {}
        session.answers = {id_: answer for id_, answer in session.answers.items() if id_ not in taken_back}
        self._sessions[session.id] = session
        self._count(session, _size(session))
        while len(self._sessions) > SYNC_GONE_MAX or self._bytes > SYNC_GONE_BYTES_MAX:
            ((most, _bytes),) = self._of.most_common(1)
            self.pop(next(id_ for id_, one in self._sessions.items() if one.user == most))

    def _count(self, session: Session, by: int) -> None:
        self._bytes += by
        self._of[session.user] += by
        if not self._of[session.user]:
            del self._of[session.user]

    def has_ended(self, user: str, opened: Open) -> bool:
        """Say whether the lease of that incarnation has ended here; or it is no session of that user."""
        former = self._sessions.get(opened.session)
        return former is not None and (former.user != user or opened.incarnation <= former.incarnation)

    def pop(self, id_: str) -> Session | None:
        found = self._sessions.pop(id_, None)
        if found is not None:
            self._count(found, -_size(found))
        return found

    def follow(self, session: Session, opened: Open) -> None:
        """Let a new incarnation know what its predecessor was answered."""
        former = self.pop(session.id)
        session.is_known = former is not None or opened.epoch != 0
        if former is not None:
            session.inherit(former)


class Roster:
    """Who lives, and what is kept of who did."""

    def __init__(self, epoch: int, free: Container[str]) -> None:
        """`free`: see Shares."""
        self._epoch = epoch
        self.sessions: dict[str, Session] = {}
        self.gone = Gone()
        self._number = Shares("programs that use locks, events, queues and so on", "end", SYNC_SESSIONS_MAX, SYNC_USER_SESSIONS_MAX, free)
        self._kept = Shares("bytes of answers", "hear them", SYNC_ANSWERS_BYTES_MAX, SYNC_USER_ANSWERS_BYTES_MAX, free)

    def refusal(self, user: str, opened: Open, *, is_shut: bool) -> Over | None:
        """Return why a session that does not live here does not begin either. `is_shut`: one of an earlier manager may still come back."""
        if is_called_too_long(opened):
            return Over(f"a session, or its program, is called by more than {SYNC_ACTOR_BYTES_MAX} bytes")
        if text := self._number.refusal(user):
            return Over(text)
        was_here = opened.epoch == self._epoch or any(held.token.epoch >= self._epoch or not is_shut for held in opened.held)
        return Over(ENDED) if was_here or self.gone.has_ended(user, opened) else None

    def begin(self, user: str, opened: Open) -> Session:
        session = self.sessions[opened.session] = Session(user, opened, self._kept)
        self._number.add(user, 1)
        self.gone.follow(session, opened)
        return session

    def end(self, session: Session) -> None:
        del self.sessions[session.id]
        self._number.add(session.user, -1)
        session.end()

    def keep(self, said: Out) -> None:
        """Keep what was answered until it is heard."""
        for id_, answer in said:
            session = self.sessions.get(id_)
            if session is not None and isinstance(answer, Answer) and answer.id:
                session.keep(answer)


def _cost(answer: Answer) -> int:
    return SYNC_ANSWER_BYTES + len(answer.data)


def _size(session: Session) -> int:
    return SYNC_ANSWER_BYTES + sum(map(_cost, session.answers.values()))
