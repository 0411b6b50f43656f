"""Sequencing: what the first copy of an object does: it orders the writes, tells the other copies, and knows when a write is safe. Decides only.

Its epoch is the incarnation of its process. A new one **seals** the copies that there are, adopts the newest state among them and sends it to all; only
then it answers anything. So a write that was acknowledged is never lost with one node, and one that was half done is either done or has never been.

- A write is acknowledged when every *member* has it: every copy that was ever sent the object, until the process table says that its incarnation is over.
- Members are dropped only by a reading of the table in which this sequencer's own incarnation is still the newest one: an older one can drop nobody any
  more, and who is left has been sealed by its successor (PacificA, 2008: the configuration is changed where it cannot be forked).
- Copies that come back empty are sent everything, and are members from that moment.
- One write at a time: reads wait for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from unios.core.outcomes import Found, Outcomes, Request
from unios.core.replication import Commit, Contents, Fenced, Gap, Have, Install, Message, Pull, Reply, Seal, Took, Update
from unios.core.strategies import Strategy

Phase = Literal["starting", "sealing", "pulling", "new", "settling", "ready", "lost", "fenced"]
"""new: nothing was ever made. settling: adopted, and not yet with all copies. lost: the state is gone. fenced: there is a newer sequencer."""
Standing = Literal["asked", "sealed", "empty", "installing", "following"]


@dataclass(slots=True)
class Member:
    """What is known of a copy. `standing`: asked to seal; sealed; empty: has nothing and is not waited for; being sent everything; up to `seq`."""

    incarnation: int
    standing: Standing
    of_epoch: int = 0
    seq: int = 0
    told: int = 0
    """The last commit that it was told of."""

    @property
    def counts(self) -> bool:
        """Say whether a write waits for it."""
        return self.standing != "empty"


class Sequencer:
    """Of one object, in one epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.phase: Phase = "starting"
        self.strategy: Strategy | None = None
        """Known when the object is."""
        self.seq = 0
        self.committed = 0
        self.members: dict[int, Member] = {}
        self.outcomes = Outcomes()
        self.busy = False
        """A write is being done: the state is neither the old nor the new one."""
        self.wants_table = True
        """The process table should be read."""
        self._update: Update | None = None
        self._source = 0

    # events

    def table(self, mine: int, others: Mapping[int, int]) -> None:
        """The process table says: this process is at incarnation `mine`; each other rank at that of its number, 0 if it does not run and will not by itself."""
        self.wants_table = False
        if mine != self.epoch:
            self.phase = "fenced"
        if self.phase == "fenced":
            return
        for rank, incarnation in others.items():
            member = self.members.get(rank)
            if member is not None and (incarnation == 0 or incarnation > member.incarnation):
                del self.members[rank]
                member = None
            if member is None and incarnation:
                self.members[rank] = Member(incarnation, "asked" if self.phase == "starting" else "empty")
        if self.phase == "starting":
            self.phase = "sealing"
        self._choose()
        self._commit()

    def heard(self, rank: int, reply: Reply) -> Contents | None:
        """A copy has answered. Returns the contents to become, if that was them."""
        member = self.members.get(rank)
        if isinstance(reply, Fenced) and reply.epoch > self.epoch:
            self.phase, self.wants_table = "fenced", True
        if self.phase == "fenced" or member is None:
            return None
        if reply.incarnation != member.incarnation:
            self.wants_table = self.wants_table or reply.incarnation > member.incarnation
            return None
        if isinstance(reply, Took) and reply.epoch == self.epoch and member.standing in ("installing", "following"):
            member.standing, member.seq = "following", max(member.seq, reply.seq)
            self._commit()
        elif isinstance(reply, Gap) and member.standing == "following":
            member.standing, member.told = "installing", 0
        elif isinstance(reply, Have) and reply.epoch == self.epoch:
            return self._have(rank, member, reply)
        return None

    def _have(self, rank: int, member: Member, reply: Have) -> Contents | None:
        if self.phase == "sealing" and member.standing == "asked":
            member.of_epoch, member.seq = reply.of_epoch, reply.seq
            member.standing = "sealed" if reply.seq else "empty"
            self._choose()
        elif self.phase == "pulling" and rank == self._source and reply.contents is not None:
            self.seq, self.outcomes = reply.seq, Outcomes(reply.contents.outcomes)
            self.phase = "settling"
            for each in self.members.values():
                each.seq = 0
                each.standing = "installing" if each.counts else "empty"
            return reply.contents
        return None

    def _choose(self) -> None:
        """Once every copy is sealed, choose whose state is adopted: the newest."""
        if self.phase == "pulling" and self._source not in self.members:
            self.phase = "sealing"
        if self.phase != "sealing" or any(member.standing == "asked" for member in self.members.values()):
            return
        found = [(member.of_epoch, member.seq, rank) for rank, member in self.members.items() if member.standing == "sealed"]
        if found:
            self.phase, self._source = "pulling", max(found)[2]
        else:
            self.phase = "new" if self.epoch == 1 else "lost"

    # what a caller asks

    def create(self, strategy: Strategy) -> None:
        """The object is made now: it is ready when every copy that there is has it. Only in phase new."""
        assert self.phase == "new"
        self.strategy, self.seq, self.phase = strategy, 1, "settling"
        for member in self.members.values():  # all are empty: if none were waited for, it would be acknowledged with one copy
            member.standing = "installing"
        self._commit()

    def find(self, request: Request) -> bytes | Found:
        """Return what came of a request, if it was done: it may be told once all is committed."""
        return self.outcomes.find(request)

    def begin(self) -> None:
        """A write is being done from now on. Only in phase ready."""
        assert self.phase == "ready" and not self.busy and self.committed == self.seq
        self.busy = True

    def undone(self) -> None:
        """The write came to nothing: the state is the old one."""
        self.busy = False

    def done(self, request: Request, outcome: bytes, state: bytes | None) -> int:
        """The write has been done here. Returns its number: it is acknowledged when that is committed. `state`: what copies are sent."""
        self.busy = False
        self.seq += 1
        self.outcomes.note(request, outcome)
        self._update = Update(0, self.epoch, self.seq, request, outcome, state)
        self._commit()
        return self.seq

    def _commit(self) -> None:
        if self.phase not in ("settling", "ready") or self.busy or not self.seq:
            return
        if all(member.seq >= self.seq for member in self.members.values() if member.counts):
            self.committed = self.seq
            self.phase = "ready"

    # what copies are told

    def to_send(self, rank: int) -> Message | None:
        """Return what a copy is to be told now, again and again until it has answered; None: nothing. Say `sent` before it is sent."""
        member = self.members.get(rank)
        if member is None:
            return None
        to = member.incarnation
        if self.phase == "sealing":
            return Seal(to, self.epoch) if member.standing == "asked" else None
        if self.phase == "pulling":
            return Pull(to, self.epoch) if rank == self._source else None
        if self.phase not in ("settling", "ready"):
            return None
        update = self._update
        if member.standing != "following" or (member.seq < self.seq and (update is None or update.seq != self.seq or member.seq != self.seq - 1)):
            return None if self.busy else Install(to, self.epoch, self.seq, self.committed)
        if member.seq < self.seq and update is not None:
            return Update(to, self.epoch, update.seq, update.request, update.outcome, update.state)
        if self.strategy is not None and self.strategy.tells_commits and member.told < self.committed:
            return Commit(to, self.epoch, self.committed)
        return None

    def sent(self, rank: int, message: Message) -> None:
        """It is sent now: from an Install on a copy counts; a Commit is not sent again."""
        member = self.members.get(rank)
        if member is None or member.incarnation != message.to:
            return
        if isinstance(message, Install):
            member.standing = "installing"
        elif isinstance(message, Commit):
            member.told = max(member.told, message.seq)
