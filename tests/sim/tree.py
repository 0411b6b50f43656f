"""A process tree in the simulation: an init with the shipped leash, and a program that tries to have effects until it ends."""

from typing import TYPE_CHECKING

from unios.core.fencing import ClaimConfirmed, ClaimSuperseded, DeadlineMoved, Freeze, Kill, Leash, LeashEvent, OnPartition, Thaw, Tick, WakeAt

if TYPE_CHECKING:
    from tests.sim.node import NodeSim

EFFECT_MS = 45.0


class TreeSim:
    """`state`: running or ended; `frozen`: its processes stand still. It lives on when its kernel dies, and dies with its node."""

    def __init__(self, node: "NodeSim", pid: int, incarnation: int, policy: OnPartition, ends_after_ms: float) -> None:
        self.node, self.pid, self.incarnation = node, pid, incarnation
        self.leash = Leash(policy, incarnation)
        self.state = "running"
        self.started = False
        """Whether its program has been executed, which it is not while the tree is frozen."""
        self.frozen = False
        self.fenced = False
        self._ends_at = node.world.now + ends_after_ms
        self.look()
        node.later(EFFECT_MS * node.world.rng.random(), self._step)

    def look(self) -> None:
        """As the init does after every wait and before it moves any byte."""
        if self.state == "running":
            self.tell(DeadlineMoved(*self.node.page))
            self.tell(Tick(self.node.now_ns()))

    def tell(self, event: LeashEvent) -> None:
        for order in self.leash.on(event):
            match order:
                case Freeze():
                    self.frozen = True
                    self.node.world.say(f"{self.node.name}: {self.pid}.{self.incarnation} freezes")
                case Thaw():
                    self.frozen = False
                    self.node.world.say(f"{self.node.name}: {self.pid}.{self.incarnation} thaws")
                case Kill(reason):
                    self.node.world.say(f"{self.node.name}: {self.pid}.{self.incarnation} is killed: {reason}")
                    self.state, self.fenced = "ended", True
                case WakeAt(at_ns):
                    self.node.later(max(0.0, self.node.clock.true_ms(at_ns / 1e6) - self.node.world.now) + 0.01, self.look)

    def confirm(self) -> None:
        self.look()
        if self.state == "running":
            self.tell(ClaimConfirmed(self.incarnation))

    def supersede(self, by: int) -> None:
        self.look()
        if self.state == "running":
            self.tell(ClaimSuperseded(by))

    def _step(self) -> None:
        """The program has run for a while: a byte in the pipe. The init looks at the clock before it takes it."""
        if self.state != "running":
            return
        self.look()
        if self.state == "running" and not self.frozen and not self.leash.by_lease:
            if not self.started:
                self.started = True
                self.node.tree_started(self)
            self.node.world.effect(self.node.name, self.pid, self.incarnation)
            if self.node.world.now >= self._ends_at:
                self.state = "ended"
                self.node.world.say(f"{self.node.name}: {self.pid}.{self.incarnation} ends")
                self.node.tree_ended(self)
                return
        self.node.later(EFFECT_MS, self._step)
