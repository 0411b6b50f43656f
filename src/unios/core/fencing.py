"""Fencing: what a process tree must do about its node's lease. Decides only: the tree's init freezes, thaws and kills.

Interface: `Leash(on_partition, incarnation).on(event)` -> orders. Events are facts (`Tick`, `DeadlineMoved`, `ClaimConfirmed`, ...), orders are
what the init has to do now. Light on purpose: every init imports it and the simulator drives it, so no msgspec and no dataclasses.

Invariants:
- At or after the deadline a `replace` tree is frozen and a `stop` tree is killed; a `keep` tree goes on.
- A deadline that moves does not undo a freeze: in between, another node may have claimed the process. Only `ClaimConfirmed` for this very
  incarnation does, and only if the deadline is not past again.
- A lease that ended and was replaced while the leash looked away counts as a deadline that passed.
- A confirmation counts under the lease that it was given under, and under no later one: it may have lain in a queue while this init stood still.
- A newer incarnation kills, whatever the policy is. After `Kill` there are no more orders.
- A freeze by the lease and one by the user are two holds; the tree runs when neither holds.

Source: leases as in Gray and Cheriton 1989, fencing as in the design's section 6.
"""

from typing import Final, Literal, NamedTuple

OnPartition = Literal["replace", "stop", "keep"]
FOREVER: Final = 2**64 - 1
"""The deadline of a node that needs no lease."""


class DeadlineMoved(NamedTuple):
    """The node's lease now counts until `deadline_ns`, CLOCK_BOOTTIME. `lease` numbers the node's leases: another one means that the former
    ended in between, unseen by a leash that was paused."""

    deadline_ns: int
    lease: int = 0


class Tick(NamedTuple):
    """It is `now_ns`, CLOCK_BOOTTIME."""

    now_ns: int


class ClaimConfirmed(NamedTuple):
    """The store still says, as of after the freeze, that this node holds the process as `incarnation`. `lease`: the number of the node's lease under
    which it was asked; while that stands nobody can claim the process. 0: whatever it is."""

    incarnation: int
    lease: int = 0


class ClaimSuperseded(NamedTuple):
    """The store says that the process has become `incarnation`."""

    incarnation: int


class UserFroze(NamedTuple):
    pass


class UserThawed(NamedTuple):
    pass


class Freeze(NamedTuple):
    """Order: stop every process of the tree, and take no byte from it while `by_lease`."""

    by_lease: bool


class Thaw(NamedTuple):
    """Order: let the tree run."""


class Kill(NamedTuple):
    """Order: end every process of the tree; its bytes and its exit no longer count for anything."""

    reason: str


class WakeAt(NamedTuple):
    """Order: look at deadline and clock again at `at_ns`, CLOCK_BOOTTIME."""

    at_ns: int


LeashEvent = DeadlineMoved | Tick | ClaimConfirmed | ClaimSuperseded | UserFroze | UserThawed
LeashOrder = Freeze | Thaw | Kill | WakeAt


class Leash:
    """The leash of one tree. Starts as if the lease had ended at time 0, so that it must be told the deadline before anything else."""

    __slots__ = ("_deadline_ns", "_incarnation", "_lease", "_now_ns", "_policy", "_wake_ns", "by_lease", "by_user", "killed")

    def __init__(self, on_partition: OnPartition, incarnation: int) -> None:
        self._policy: OnPartition = on_partition
        self._incarnation = incarnation
        self._deadline_ns = 0
        self._lease: int | None = None
        self._now_ns = 0
        self._wake_ns = -1
        self.by_lease = False
        """Frozen since the deadline passed; nothing that the tree does now counts until the claim is confirmed."""
        self.by_user = False
        self.killed = ""
        """Why it was killed; empty while it may live."""

    @property
    def frozen(self) -> bool:
        return self.by_lease or self.by_user

    def on(self, event: LeashEvent) -> list[LeashOrder]:
        """Take in `event` and return what to do now, in order. Repeating an event repeats no freeze, thaw or kill."""
        if self.killed:
            return []
        match event:
            case Tick(now_ns):
                self._now_ns = max(self._now_ns, now_ns)
                return self._look()
            case DeadlineMoved(deadline_ns, lease):
                lost = self._lease not in (None, lease)
                self._deadline_ns, self._lease = deadline_ns, lease
                return self._look(lost=lost)
            case ClaimConfirmed(incarnation, lease):
                return self._confirmed(incarnation, lease)
            case ClaimSuperseded(incarnation):
                return self._kill(f"incarnation {incarnation} took its place") if incarnation > self._incarnation else []
            case UserFroze():
                return self._hold(by_user=True)
            case UserThawed():
                return self._hold(by_user=False)

    def _expired(self) -> bool:
        return self._now_ns >= self._deadline_ns

    def _look(self, *, lost: bool = False) -> list[LeashOrder]:
        """Compare clock and deadline; with `lost`, the lease that counted has ended whatever the deadline is."""
        if self._policy == "keep" or self.by_lease:
            return []
        if not lost and not self._expired():
            return self._wake()
        if self._policy == "stop":
            return self._kill("its node lost the lease, and its policy is to stop")
        self.by_lease = True
        self._wake_ns = -1
        return [Freeze(by_lease=True)]  # also to a tree that its user froze: from now on its bytes do not count

    def _wake(self) -> list[LeashOrder]:
        if self._wake_ns == self._deadline_ns or self._deadline_ns == FOREVER:
            return []
        self._wake_ns = self._deadline_ns
        return [WakeAt(self._deadline_ns)]

    def _confirmed(self, incarnation: int, lease: int) -> list[LeashOrder]:
        if incarnation > self._incarnation:
            return self._kill(f"incarnation {incarnation} took its place")
        if incarnation != self._incarnation or lease not in (0, self._lease) or not self.by_lease or self._expired():
            return []
        self.by_lease = False
        return [*self._wake(), *([] if self.by_user else [Thaw()])]

    def _hold(self, *, by_user: bool) -> list[LeashOrder]:
        was, self.by_user = self.frozen, by_user
        if was == self.frozen:
            return []
        return [Freeze(by_lease=False)] if self.frozen else [Thaw()]

    def _kill(self, reason: str) -> list[LeashOrder]:
        self.killed = reason
        return [Kill(reason)]
