"""Leader: the shell of the sequencer, the copy of rank 0: carries out what core/sequencing.py and core/caching.py decide.

`_turn` is held by the one call that is done on the object; `_changed` guards the deciders. Who holds `_turn` may take `_changed`, never the other way round.
"""

import os
import sys
import threading
import time

from unios.client.connection import Connection
from unios.client.replicas.config import Config, load
from unios.client.replicas.courier import Courier
from unios.client.replicas.directory import Host, hosts
from unios.client.replicas.held import Held
from unios.client.replicas.outcome import FORGOTTEN, raised
from unios.client.replicas.standby import keeps_state
from unios.core.caching import Holders
from unios.core.outcomes import Found, Request
from unios.core.replication import Commit, Have, Install, Message, Reply, filled
from unios.core.sequencing import Sequencer
from unios.core.strategies import STRATEGIES
from unios.errors import CallerError, DataLost, NotFound, PeerRestarted, Unavailable, UniosError
from unios.limits import OBJECT_LOOK_MS, OBJECT_POLL_MS, OBJECT_RETRY_MS

_ENDED = 75
"""What a sequencer ends with that has been replaced."""


def _now_ms() -> float:
    return time.monotonic() * 1000


class Leader:
    """The copy of rank 0 of the object `name`, in the process `pid`."""

    def __init__(self, name: str, pid: int, incarnation: int) -> None:
        self._name, self._pid = name, pid
        self._began_ms = _now_ms()
        self._sequencer = Sequencer(incarnation)
        self._holders: Holders | None = None
        self._held: Held | None = None
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._couriers: dict[int, Courier] = {}
        self._withdrawn = False
        self._unloadable = ""
        """Why what a copy has cannot be loaded here; it is asked again."""
        self._asked = self._answered = 0
        """Readings of the process table that were asked for, and that have been made."""
        threading.Thread(target=self._look, name="unios-look", daemon=True).start()

    # what the process table says

    def _look(self) -> None:
        with Connection(role="program") as connection:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._sequencer.wants_table or self._asked > self._answered)
                    asked = self._asked
                try:
                    found = hosts(connection, self._name)
                except UniosError:
                    time.sleep(OBJECT_RETRY_MS / 1000)
                    continue
                with self._changed:
                    self._table(found)
                    self._answered = asked
                    self._changed.notify_all()
                time.sleep(OBJECT_RETRY_MS / 1000)  # a copy that is away is not asked for all the time

    def _table(self, found: dict[int, Host]) -> None:
        mine = found.get(0, Host(0, 0, ""))
        if mine.pid == self._pid:
            others = dict.fromkeys(self._couriers, 0) | {rank: host.incarnation for rank, host in found.items() if rank}
            for rank, host in found.items():
                if rank and (rank not in self._couriers or self._couriers[rank].pid != host.pid):
                    self._couriers[rank] = self._courier(rank, host.pid)
            self._sequencer.table(mine.incarnation, others)
        else:
            self._sequencer.table(0, {})  # it was taken away
        if self._sequencer.phase == "fenced":
            print(f"{self._name}: another incarnation of this process has taken over", file=sys.stderr, flush=True)
            os._exit(_ENDED)

    def look(self) -> bool:
        """Read the process table now: a copy has come back. False if that is not done in OBJECT_LOOK_MS."""
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._answered >= asked, OBJECT_LOOK_MS / 1000)

    # the other copies

    def _courier(self, rank: int, pid: int) -> Courier:
        def next_message() -> Message:
            with self._changed:
                while True:
                    message = self._sequencer.to_send(rank)
                    if message is not None and self._couriers[rank].pid == pid:
                        try:
                            message = self._fill(message)
                            self._sequencer.sent(rank, message)
                            return message
                        except CallerError as error:
                            print(f"{self._name}: copy {rank} is not made: {error}", file=sys.stderr, flush=True)
                    self._changed.wait(None if message is None else OBJECT_LOOK_MS / 1000)

        def heard(message: Message, reply: Reply | None) -> None:
            with self._changed:
                if reply is not None:
                    held = self._loaded(reply)
                    if self._sequencer.heard(rank, reply) is not None and held is not None:
                        self._become(held)
                elif not isinstance(message, Commit):
                    self._sequencer.wants_table = True
                self._changed.notify_all()

        return Courier(pid, next_message, heard)

    def _fill(self, message: Message) -> Message:
        if not isinstance(message, Install):
            return message
        assert self._held is not None
        return filled(message, self._held.contents(self._sequencer.outcomes.keep()))

    def _loaded(self, reply: Reply) -> Held | None:
        """Return what a copy sent, before the sequencer takes it for adopted. CallerError if it cannot be loaded here; who waits is told so too."""
        contents = reply.contents if isinstance(reply, Have) else None
        if contents is None:
            return None
        try:
            config = load(contents.config)
            held = Held(config, contents.state, keeps_state=keeps_state(config))
        except Exception as error:
            self._unloadable = f"the object {self._name} cannot be loaded here: {error}"
            self._changed.notify_all()
            raise CallerError(self._unloadable) from error
        self._unloadable = ""
        return held

    def _become(self, held: Held) -> None:
        self._held = held
        self._sequencer.strategy = STRATEGIES[held.config.strategy]
        lease_ms = held.config.lease_ms if self._sequencer.strategy.reads == "caller" else 0
        self._holders = Holders(self._sequencer.epoch, lease_ms, self._began_ms)

    # what callers ask

    def _ready(self) -> None:
        """Wait until the object may be used. DataLost, NotFound, PeerRestarted; CallerError if it cannot be loaded here."""
        with self._changed:
            self._changed.wait_for(lambda: self._sequencer.phase in ("ready", "new", "lost", "fenced") or self._hinders)
            self._refuse()

    def _refuse(self) -> None:
        phase = self._sequencer.phase
        if phase == "lost":
            raise DataLost(
                f"the object {self._name} was lost with the node of its last copy; unios.discard({self._name!r}) makes its name free again"
            )
        if phase == "new":
            raise NotFound(f"there is no object {self._name}: it is being made, or never was")
        if phase == "fenced":
            raise PeerRestarted("another incarnation of this process has taken over")
        if self._hinders:
            raise CallerError(self._hinders)

    @property
    def _hinders(self) -> str:
        """Why the newest state that there is cannot be adopted at present."""
        return self._unloadable if self._sequencer.phase == "pulling" else ""

    @property
    def config(self) -> Config:
        """That of the object. DataLost, NotFound, CallerError."""
        self._ready()
        assert self._held is not None
        return self._held.config

    def create(self, config: Config, call: bytes) -> bytes | None:
        """Make the object; on every copy when this returns. Returns what prevents it. CallerError if there is another, Unavailable if a host was lost meanwhile."""
        if not self.look():  # which copies there are to be told
            raise Unavailable("the process table cannot be read")
        with self._turn:
            with self._changed:
                self._changed.wait_for(lambda: self._sequencer.phase not in ("starting", "sealing", "pulling", "settling") or self._hinders)
                phase = self._sequencer.phase
                if self._hinders:
                    raise CallerError(self._hinders)
            if phase == "ready" and self._held is not None and self._held.config.token == config.token:
                return None  # it is asked again
            if phase == "ready":
                raise CallerError(f"there is an object {self._name}: unios.find({self._name!r})")
            if phase != "new" or self._withdrawn:
                raise Unavailable("a node was lost while the object was made, or whoever else made it failed: make it again")
            try:
                held = Held.made(config, call, keeps_state=keeps_state(config))
            except BaseException as error:  # noqa: BLE001 - whatever its constructor raises is its caller's
                return raised(error)
            with self._changed:
                self._become(held)
                self._sequencer.create(STRATEGIES[config.strategy])
                self._changed.notify_all()
                self._wait(1)
            return None

    def withdraw(self, token: str) -> bool:
        """Refuse to become an object any more; False if this is one already, and another than that with the token."""
        with self._turn, self._changed:
            self._withdrawn = self._held is None or self._held.config.token == token
            return self._withdrawn

    def write(self, request: Request, cache: str, dropped: int) -> bytes:
        """Do a call that may change the object, once; its outcome is on every copy when this returns. The caller's own `cache` has nothing up to `dropped`."""
        with self._turn:
            self._ready()
            found = self._sequencer.find(request)
            if found is not Found.NEW:
                return FORGOTTEN if found is Found.FORGOTTEN else found
            held, holders = self._held, self._holders
            assert held is not None and holders is not None
            with self._changed:
                self._sequencer.begin()
                holders.begin(cache, dropped)
                self._changed.notify_all()
                self._wait_caches(holders)  # before any copy has the new state: a successor may show it at once
            try:
                outcome, state = held.write(request.call)
            except BaseException:
                with self._changed:
                    self._sequencer.undone()
                raise
            with self._changed:
                seq = self._sequencer.done(request, outcome, state)
                self._changed.notify_all()
                self._wait(seq)
            return outcome

    def _wait(self, seq: int) -> None:
        self._changed.wait_for(lambda: self._sequencer.committed >= seq or self._sequencer.phase == "fenced")
        self._refuse()

    def _wait_caches(self, holders: Holders) -> None:
        while (left := holders.wait_ms(_now_ms())) > 0 and self._sequencer.phase != "fenced":
            self._changed.wait(left / 1000)

    def read(self, call: bytes) -> bytes:
        """Answer a read."""
        with self._turn:
            self._ready()
            assert self._held is not None
            return self._held.run(call)

    def fetch(self, token: str, session: str, have: int) -> tuple[int, int, bytes | None]:
        """Return (number of the grant, of the write, the state after it), for a cache; without the state if `have` is that write.

        CallerError if it is a cache of another object, with the `token`, that had the name before.
        """
        with self._turn:
            self._ready()
            assert self._held is not None and self._holders is not None
            if token != self._held.config.token:
                raise CallerError(f"the object {self._name} of this handle is gone, and there is another of that name: unios.find({self._name!r})")
            with self._changed:
                number = self._holders.grant(session, _now_ms())
                seq = self._sequencer.committed
            return number, seq, None if have == seq else self._held.state()

    def retire(self) -> None:
        """The object is about to be taken away: when this returns no cache has it, and none keeps it any more; reads are answered as ever. Idempotent."""
        with self._turn:
            self._ready()
            with self._changed:
                assert self._holders is not None
                self._holders.retire()
                self._changed.notify_all()
                self._wait_caches(self._holders)

    def invalidation(self, session: str, dropped: int) -> int:
        """A cache has dropped all grants up to `dropped`: wait until it has to drop more, and return up to which. 0 after OBJECT_POLL_MS."""
        self._ready()
        with self._changed:
            holders = self._holders
            assert holders is not None
            holders.dropped(session, dropped)
            self._changed.notify_all()
            self._changed.wait_for(lambda: holders.to_drop(session) > dropped, OBJECT_POLL_MS / 1000)
            return holders.to_drop(session)
