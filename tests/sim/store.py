"""The store in the simulation: the shipped engine and the shipped judge of leases; commits take time, and a crash loses what was not committed."""

from collections.abc import Callable
from typing import Any

from tests.sim.ledger import Ledger
from tests.sim.world import Clock, World
from unios.core.leases import Leases
from unios.errors import NotFound
from unios.ids import Generation
from unios.store.sqlite import End, Grant, Job, SqliteEngine

Reply = Callable[[Any], None]


class StoreSim:
    """One store process. Requests: a Job, or ("renew", lease)."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.engine = SqliteEngine(":memory:", Generation("sim"))
        self.ledger = Ledger(self.engine, world.fail)
        world.look = self.ledger.look
        self.clock = Clock(world.rng)
        self.life = 0
        self.up = False
        self.paused_until = 0.0
        self._jobs: list[tuple[Job, Reply | None]] = []
        self._busy = False
        self.start()

    def _now(self) -> int:
        return self.clock.local_ms(self.world.now)

    def start(self) -> None:
        self.life += 1
        self.up = True
        self.leases = Leases(self.engine.leases(), self._now())
        self._jobs, self._busy = [], False
        self._later(self.leases.wait_ms(self._now()), self._judge)

    def crash(self) -> None:
        self.world.say("store: crashes")
        self.life += 1
        self.up = False
        if self.engine._db.in_transaction:  # what the engine has not committed by now is gone
            self.engine._db.execute("ROLLBACK")
        self.engine._set_up(self.engine.generation)

    def pause(self, ms: float) -> None:
        self.world.say(f"store: pauses for {ms:.0f} ms")
        self.paused_until = self.world.now + ms

    def _later(self, delay_ms: float, work: Callable[[], None]) -> None:
        life = self.life

        def due() -> None:
            if life != self.life:
                return
            if self.world.now < self.paused_until:
                self.world.after(self.paused_until - self.world.now + self.world.rng.random(), due)
            else:
                work()

        self.world.after(delay_ms, due)

    def request(self, job: Job | tuple[str, int], reply: Reply) -> None:
        """Take in a request that has arrived."""
        if self.up:
            self._later(0, lambda: self._handle(job, reply))

    def _handle(self, job: Job | tuple[str, int], reply: Reply) -> None:
        if isinstance(job, tuple) and job and job[0] == "renew":
            ttl = self.leases.renewed(int(job[1]), self._now())
            reply(ttl if ttl else NotFound("ended"))
            return
        self._push(job, reply)  # type: ignore[arg-type]

    def _push(self, job: Job, reply: Reply | None) -> None:
        self._jobs.append((job, reply))
        if not self._busy:
            self._busy = True
            self._later(self.world.rng.expovariate(1 / 1.5), self._commit)

    def _commit(self) -> None:
        batch, self._jobs = self._jobs, []
        outcomes = self.engine.run([job for job, _reply in batch])
        for (job, reply), outcome in zip(batch, outcomes, strict=True):
            if isinstance(job, Grant) and isinstance(outcome.result, int):
                self.leases.granted(outcome.result, job.ttl_ms, self._now())
            for event in outcome.events:
                self.world.say(f"store: {event.kind} {event.record.key} at {event.number}")
            if reply is not None:
                self.ledger.acknowledge(job, outcome.result)
                reply(outcome.result)
        self._busy = False
        if self._jobs:
            self._busy = True
            self._later(self.world.rng.expovariate(1 / 1.5), self._commit)

    def _judge(self) -> None:
        ended = self.leases.look(self._now())
        if ended:
            self._push(End(tuple(ended)), None)
        self._later(self.leases.wait_ms(self._now()), self._judge)
