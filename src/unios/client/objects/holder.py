"""Holder: keeps the objects of one user on one node in memory files, until nobody refers to them. What it decides is core/objects.py.

The port's operations (docs/objects.md has the protocol); `known` is (id, node, size):

- put(id, data, inside, born) -> whether the caller is noted as a reader; get(known, token) -> (is noted, data), or None: it has to be brought first
- bring(known): have it here; may last. fetch(id) -> data: for other nodes' holders
- one-way: tie(all known, reading, token), hold(known, token), drop(id), lend(ids, token), reads(id), read(id), leave()

The lock is held by whoever changes the ledger or the data, never while something is waited for.
"""

import os
import pickle
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from unios.client.messages import memory
from unios.client.messages.acceptor import me
from unios.client.messages.server import Server, caller
from unios.client.objects.releasing import Releases
from unios.client.objects.spilling import is_whole, spill
from unios.client.objects.tie import Gone, Tie
from unios.counted import counted
from unios.errors import DataLost, InternalError, NotFound, OutcomeUnknown, PeerRestarted, Unavailable, UniosError, fresh
from unios.object_limits import OBJECTS_FILES_KEPT, OBJECTS_IDLE_MS, OBJECTS_MAX
from unios.wire.objects import Acquire, Drop, Known, Ledger, Order, port_of
from unios.wire.operations import Accepted

Data = list[pickle.PickleBuffer]
_LARGE_BYTES: Final = 4 * 1024 * 1024
_NEVER: Final = 1 << 62
_DAMAGED: Final = "it was spilled to the disk of that node, and is not there as it was written"


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Holder:
    """Answers on its port from `open` until `serve` returns."""

    def __init__(self, node: str, folder: str, *, memory_bytes_max: int, disk_bytes_max: int, files_max: int) -> None:
        self.node, self._folder = node, folder
        files = max(16, (files_max - OBJECTS_FILES_KEPT) // 2)
        self._ledger = Ledger(memory_bytes_max=memory_bytes_max, disk_bytes_max=disk_bytes_max, objects_max=OBJECTS_MAX, files_max=files)
        self._changed = threading.Condition(threading.RLock())
        self._room = threading.Lock()
        """Held by the one who makes room."""
        self._data: dict[str, list[memoryview]] = {}
        self._checks: dict[str, bytes] = {}
        """Of what is on disk, by id: its checksum."""
        self._dropped: list[memoryview] = []
        """Of large objects: `serve` gives their memory back, for that takes 3 ms for 100 MB, in which others want the lock."""
        self._stamps: dict[int, Accepted] = {}
        self._ties: dict[str, Tie] = {}
        self._releases = Releases(self._changed, self._tie, self._is_wanted)
        self._coming: dict[str, Future[UniosError | None]] = {}
        self._idle_since: int | None = now_ms()
        self._alarm = 0
        """Until when `serve` sleeps, ms: woken by each operation it would take the lock from the next."""

    def serve(self) -> None:
        """Answer until nobody has been there, and nothing kept, for OBJECTS_IDLE_MS."""
        operations = (
            self.put,
            self.get,
            self.bring,
            self.fetch,
            self.tie,
            self.hold,
            self.drop,
            self.lend,
            self.reads,
            self.read,
            self.leave,
            self.loans,
            self.statistics,
        )
        target = {operation.__name__: operation for operation in operations}
        with Server(port_of(me(), self.node), target, keeps=True, left=self._left, node=self.node) as server:
            while not server.wait(0):
                with self._changed:
                    now = now_ms()
                    self._carry_out(self._ledger.expired(now))
                    if self._idle_since is not None and now - self._idle_since >= OBJECTS_IDLE_MS:
                        break
                    self._alarm = self._next()
                    if not self._dropped:
                        self._changed.wait(None if self._alarm == _NEVER else max(0.001, (self._alarm - now) / 1000))
                    self._alarm = 0
                    dropped, self._dropped = self._dropped, []
                memory.let_go(dropped)
        for tie in self._ties.values():
            tie.close()

    def _next(self) -> int:
        """Return when there is something to do without being asked, ms."""
        due = self._ledger.due()
        idle = _NEVER if self._idle_since is None else self._idle_since + OBJECTS_IDLE_MS
        return idle if due is None else min(due, idle)

    def _changed_something(self) -> None:
        """Wake `serve` if it sleeps for longer than it may."""
        if not self._ledger.is_idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now_ms()
        if self._dropped or self._next() < self._alarm:
            self._changed.notify()

    # who asks

    def _party(self) -> str:
        """Return the party that asks, known from now on: its connection."""
        stamp = caller()
        if id(stamp) not in self._stamps:
            self._stamps[id(stamp)] = stamp
            self._ledger.joined(f"c{id(stamp)}", far=stamp.node != self.node)
            self._changed_something()
        return f"c{id(stamp)}"

    def _left(self, stamp: Accepted) -> None:
        with self._changed:
            if self._stamps.pop(id(stamp), None) is not None:
                self._carry_out(self._ledger.left(f"c{id(stamp)}", now_ms()))

    def _carry_out(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if isinstance(order, Drop):
                self._forget(order.id)
            elif isinstance(order, Acquire):
                tie, known, token = self._tie(order.node), (order.id, order.node, 0), order.token
                tie.post(partial(tie.hold, known, token))
                self._releases.acquired(order.node)
            else:
                self._releases.released(order.id, order.node)
        self._changed_something()

    def _is_wanted(self, id_: str, node: str) -> bool:
        found = self._ledger.look(id_)
        return found is not None and found[1] == node

    def _forget(self, id_: str) -> None:
        self._checks.pop(id_, None)
        views = self._data.pop(id_, [])
        if sum(view.nbytes for view in views) >= _LARGE_BYTES:
            self._dropped += views

    def _tie(self, node: str) -> Tie:
        if node not in self._ties:
            self._ties[node] = Tie(port_of(me(), node), keeps=True)
        return self._ties[node]

    # references

    def tie(self, known: list[Known], reading: dict[str, int], token: str) -> None:
        """Say all that a party refers to and reads: it has just connected."""
        with self._changed:
            party = self._party()
            for one in known:
                self._hold(one, token, party)
            for id_, times in reading.items():
                for _ in range(times):
                    self._ledger.reading(id_, party)

    def hold(self, known: Known, token: str) -> None:
        """Refer to an object from now on; `token` of the loan with which the reference came."""
        with self._changed:
            self._hold(known, token, self._party())

    def _hold(self, known: Known, token: str, party: str) -> None:
        id_, node, size = known
        self._carry_out(self._ledger.held(id_, party, now_ms(), origin="" if node == self.node else node, size=size, token=token))

    def drop(self, id_: str) -> None:
        """Refer to it no more."""
        with self._changed:
            self._carry_out(self._ledger.dropped(id_, self._party(), now_ms()))

    def lend(self, ids: list[str], token: str) -> None:
        """References to these are about to be sent."""
        with self._changed:
            for id_ in ids:
                self._carry_out(self._ledger.lent(id_, token, now_ms()))

    def reads(self, id_: str) -> None:
        """A reading in place of what came along with a reference has begun."""
        with self._changed:
            self._ledger.look(id_)
            self._ledger.reading(id_, self._party())

    def read(self, id_: str) -> None:
        """A reading in place has ended."""
        with self._changed:
            self._ledger.read(id_, self._party())

    def leave(self) -> None:
        """Refer to nothing any more: the process ends well."""
        with self._changed:
            party = self._party()
            del self._stamps[id(caller())]
            self._carry_out(self._ledger.ended(party, now_ms()))

    # data

    def put(self, id_: str, data: list[Any], inside: list[Known], born: bool) -> bool:
        """Keep an object. `inside`: what its data refer to. `born`: the caller has its memory mapped. Idempotent."""
        views = [memoryview(one) for one in data]
        size, files = weight(views)
        with self._changed:
            found = self._ledger.look(id_)
            if found is not None and found[0] != "away":
                return born and self._ledger.reading(id_, self._party())
        self._make_room(size, files)
        with self._changed:
            party = self._party()
            orders = self._ledger.kept(id_, party, size, now_ms(), files=files, inside=[one[0] for one in inside])
            self._data.setdefault(id_, views)
            self._carry_out(orders)
            return born and self._ledger.reading(id_, party)

    def get(self, known: Known, token: str = "") -> tuple[bool, Data] | None:
        """Return an object's data in place, and whether the caller is noted as a reader; None if they have to be brought. DataLost. He refers to it from now
        on, as with `hold`."""
        with self._changed:
            party = self._party()
            self._hold(known, token, party)
            found = self._ledger.look(known[0])
            if found is None and known[1] != self.node:
                raise Unavailable(f"{describe(known)} cannot be fetched: {self._ledger.full()}")
            if found is None:
                raise DataLost(f"{describe(known)} is lost: the holder of objects there is another one by now")
            if found[0] == "away":
                if found[1]:
                    return None
                raise DataLost(f"{describe(known)} is lost: {_DAMAGED}")
            views, check = self._data[known[0]], self._checks.get(known[0])
            if check is None:
                is_large = any(memory.mapping_of(view) is not None for view in views)
                return is_large and self._ledger.reading(known[0], party), buffers_of(views)
        if self._is_whole(known[0], views, check):
            return False, buffers_of(views)
        return self.get(known)

    def fetch(self, id_: str) -> Data:
        """Return an object's data for another node. DataLost."""
        with self._changed:
            views, check = self._data.get(id_), self._checks.get(id_)
            if views is None:
                raise DataLost(
                    _DAMAGED if self._ledger.look(id_) else f"node {self.node} does not keep it any more, as its holder of objects has ended"
                )
        if check is not None and not self._is_whole(id_, views, check):
            return self.fetch(id_)
        return buffers_of(views)

    def _is_whole(self, id_: str, views: list[memoryview], check: bytes) -> bool:
        """Return whether what is on disk of an object is as it was; if not it is forgotten."""
        if is_whole(views, check):
            return True
        print(f"objects: object {id_[:8]}: {_DAMAGED}", file=sys.stderr, flush=True)
        with self._changed:
            if self._data.get(id_) is views:
                self._ledger.damaged(id_)
                self._forget(id_)
        return False

    def bring(self, known: Known) -> None:
        """Have the data of another node's object here. DataLost, Unavailable."""
        id_, _node, size = known
        with self._changed:
            found = self._ledger.look(id_)
            if found is None:
                raise DataLost(f"{describe(known)} is lost: nothing is known of it here")
            if found[0] != "away":
                return
            if not found[1]:
                raise DataLost(f"{describe(known)} is lost: {_DAMAGED}")
            coming, is_mine = self._coming.get(id_), False
            if coming is None:
                coming, is_mine = Future(), True
                self._coming[id_] = coming
        if is_mine:
            try:
                self._bring(known, found[1], size or found[2])
                coming.set_result(None)
            except UniosError as error:
                coming.set_result(error)
            except BaseException as error:  # noqa: BLE001 - told to all who wait for it
                coming.set_result(InternalError(f"{type(error).__name__}: {error}"))
            finally:
                with self._changed:
                    del self._coming[id_]
        failure = coming.result()
        if failure is not None:
            raise fresh(failure)

    def _bring(self, known: Known, origin: str, size: int) -> None:
        with self._changed:
            tie = self._tie(origin)
        self._make_room(size, 1)
        try:
            views = [memoryview(one) for one in tie.wait("fetch", known[0], deadline=None)]
        except (Gone, DataLost) as error:
            with self._changed:
                self._ledger.unreserve(size)
            why = "; that node or its holder of objects has ended" if isinstance(error, Gone) else ""
            raise DataLost(f"{describe(known)} is lost: {error}{why}") from error
        except (OutcomeUnknown, PeerRestarted, NotFound) as error:  # of that holder: whoever asked this one would take it for its own
            with self._changed:
                self._ledger.unreserve(size)
            raise Unavailable(f"{describe(known)} cannot be fetched now: {error}") from error
        except BaseException:
            with self._changed:
                self._ledger.unreserve(size)
            raise
        with self._changed:
            if self._ledger.came(known[0], size, files=weight(views)[1]):
                self._data[known[0]] = views

    def _make_room(self, size: int, files: int) -> None:
        """Reserve memory, and spill for it. Unavailable if there is none."""
        with self._room:
            while True:
                with self._changed:
                    victims = {id_: self._data[id_] for id_ in self._ledger.reserve(size, files=files)}
                if not victims:
                    return
                for id_, views in victims.items():
                    spilled, check = spill(self._folder, views)
                    with self._changed:
                        if self._data.get(id_) is views and self._ledger.spilled(id_):
                            self._data[id_], self._checks[id_] = spilled, check

    def loans(self, id_: str) -> int:
        """Return how many loans keep an object. For tests."""
        with self._changed:
            return self._ledger.loans(id_)

    def statistics(self) -> dict[str, int]:
        """Return what is counted now; bytes. For a person, and tests."""
        with self._changed:
            found = self._ledger.statistics()
        return {name: getattr(found, name) for name in found.__slots__} | {"pid": os.getpid(), "files": len(os.listdir("/proc/self/fd"))}


def describe(known: Known) -> str:
    """Return what a sentence calls an object."""
    return f"the object {known[0][:8]} of {counted(known[2], 'byte')}, put on node {known[1]},"


def weight(views: Iterable[memoryview]) -> tuple[int, int]:
    """Return how many bytes the data take, whole memory files among them, and how many files that are."""
    files = {}
    rest = 0
    for view in views:
        mapping = memory.mapping_of(view)
        if mapping is None:
            rest += view.nbytes
        else:
            files[id(mapping)] = len(mapping)
    return rest + sum(files.values()), len(files)


def buffers_of(views: Iterable[memoryview]) -> Data:
    """Return data as they travel."""
    return [pickle.PickleBuffer(view) for view in views]
