"""Replication: what the copies of an object tell each other, and what a copy that is not the sequencer does about it. Decides only; sequencing.py is the other side.

Rank 0 is the **sequencer** of an object. Its **epoch** is the incarnation of its process: the store hands that out, by compare-and-set, and there is one
process for each. The other ranks follow. Their memory is known by their incarnations too: a message names the one that it is for, and no other takes it.

- A copy takes nothing of an epoch older than the newest that it has heard of (fencing).
- Writes come to it in the order of their numbers, without gaps; it says so if there is one, and is sent everything.
- It shows a write to readers when it has heard that all copies have it, and nothing while it has one of which it has not heard that.
"""

from dataclasses import dataclass, field, replace

from unios.core.outcomes import Kept, Outcomes, Request


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything of an object: how it is configured and its state, both opaque, and what has come of requests."""

    config: bytes
    state: bytes
    outcomes: Kept = ()


@dataclass(frozen=True, slots=True)
class Seal:
    """Take nothing of an older epoch any more, and say what you have."""

    to: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Pull:
    """Say what you have, and all of it."""

    to: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Install:
    """This is the object after write `seq`; all up to `committed` are committed. Whoever sends it fills the contents in."""

    to: int
    epoch: int
    seq: int
    committed: int
    contents: Contents | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """Write `seq`. `state` after it, or None: do it yourself."""

    to: int
    epoch: int
    seq: int
    request: Request
    outcome: bytes
    state: bytes | None


@dataclass(frozen=True, slots=True)
class Commit:
    """All copies have write `seq`. Not answered."""

    to: int
    epoch: int
    seq: int


Message = Seal | Pull | Install | Update | Commit


@dataclass(frozen=True, slots=True)
class Have:
    """The answer to Seal and, with the contents, to Pull. `seq` 0: nothing. `of_epoch`: in which epoch that was last installed."""

    incarnation: int
    epoch: int
    of_epoch: int
    seq: int
    contents: Contents | None = None


@dataclass(frozen=True, slots=True)
class Took:
    """It is in my memory."""

    incarnation: int
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Gap:
    """I cannot take it: I have not what came before, or am another incarnation than it is for."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """I have heard of a newer epoch."""

    incarnation: int
    epoch: int


Reply = Have | Took | Gap | Fenced


@dataclass(frozen=True, slots=True)
class Load:
    """Order: become this object."""

    contents: Contents


@dataclass(frozen=True, slots=True)
class Keep:
    """Order: keep this state; nobody reads it here."""

    state: bytes


@dataclass(frozen=True, slots=True)
class Do:
    """Order: do this call. What it returns is known already."""

    call: bytes


Order = Load | Keep | Do


@dataclass(slots=True)
class Follower:
    """A copy that is not the sequencer."""

    incarnation: int
    epoch: int = 0
    """The newest heard of."""
    of_epoch: int = 0
    """That in which it was installed."""
    seq: int = 0
    committed: int = 0
    outcomes: Outcomes = field(default_factory=Outcomes)

    @property
    def is_readable(self) -> bool:
        """Say whether reads may be answered here now."""
        return 0 < self.seq == self.committed

    def hear(self, message: Message) -> tuple[Order | None, Reply]:
        """Decide what to do about a message. The order is carried out before the answer is sent. Pull is answered without the contents: the shell adds them."""
        if message.to != self.incarnation:
            return None, Gap(self.incarnation)
        if message.epoch < self.epoch:
            return None, Fenced(self.incarnation, self.epoch)
        self.epoch = message.epoch
        if isinstance(message, Seal | Pull):
            return None, Have(self.incarnation, self.epoch, self.of_epoch, self.seq)
        if isinstance(message, Install):
            return self._install(message), Took(self.incarnation, self.epoch, self.seq)
        if message.epoch != self.of_epoch:
            return None, Gap(self.incarnation)
        if isinstance(message, Update):
            if message.seq > self.seq + 1:
                return None, Gap(self.incarnation)
            return self._update(message), Took(self.incarnation, self.epoch, self.seq)
        if message.seq > self.seq:
            return None, Gap(self.incarnation)
        self.committed = max(self.committed, message.seq)
        return None, Took(self.incarnation, self.epoch, self.seq)

    def _install(self, message: Install) -> Order | None:
        if message.epoch == self.of_epoch and message.seq <= self.seq:
            self.committed = max(self.committed, message.committed)
            return None  # an old one, come late
        assert message.contents is not None
        self.of_epoch, self.seq, self.committed = message.epoch, message.seq, message.committed
        self.outcomes = Outcomes(message.contents.outcomes)
        return Load(message.contents)

    def _update(self, message: Update) -> Order | None:
        if message.seq <= self.seq:
            return None
        self.seq = message.seq
        self.outcomes.note(message.request, message.outcome)
        return Do(message.request.call) if message.state is None else Keep(message.state)


def filled(message: Message, contents: Contents) -> Message:
    """Return an Install with its contents; anything else as it is."""
    return replace(message, contents=contents) if isinstance(message, Install) else message
