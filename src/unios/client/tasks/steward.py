"""Steward: an executor's business with the kernel, in a thread of its own, since it is asked and waited for: the port, the processes, how they end.

A crew's process is placed, queued and accounted as any other. If there is no room for it, it is divided; only the smallest waits for its turn.
"""

import itertools
import os
import pwd
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from unios.client import nodes, processes
from unios.client.channel import Asked, unpack
from unios.client.connection import PASSING, Connection
from unios.client.listening import Listener
from unios.client.tasks import proofs
from unios.client.tasks.engine import Engine
from unios.client.tasks.losses import CUT
from unios.core.crews import Crew, plan_crews, smaller
from unios.core.nodes import may_speak_for
from unios.core.task_orders import Loss
from unios.demands import Placing, Queueing, Resources
from unios.errors import NotFound, UniosError
from unios.limits import CLIENT_RECONNECT_MS, CLIENT_RETRY_MS, CREW_END_MS, CREW_INQUEST_MS
from unios.wire.installation import PACKAGE
from unios.wire.operations import OfProcess, ProcessView, Program

_TURN_MS: Final = 20_000


class Wishes(msgspec.Struct, frozen=True):
    """What is asked for the workers, each."""

    cpu_milli: int
    memory_bytes: int
    devices: tuple[str, ...]
    node: str
    placing: Placing
    queueing: Queueing
    python: str
    env: dict[str, str]
    folder: bytes
    umask: int


class _Crew:
    __slots__ = ("asked", "deadline", "pid", "plan")

    def __init__(self, plan: Crew, pid: int) -> None:
        self.plan, self.pid = plan, pid
        self.asked: Asked | None = None
        self.deadline = 0.0
        """When to give up asking how it ended; 0: it is not known to have ended."""


class Steward:
    """That of one executor."""

    def __init__(self, connection: Connection, engine: Engine, port: str, secret: bytes, wishes: Wishes, *, modest: bool) -> None:
        """`modest`: this program is itself a process of the system, or has another executor, so that this one must not wait for room that the program
        holds. In an embedded system nobody but the program, and what it has started, holds any."""
        self._connection, self._engine, self._port, self._secret, self._wishes = connection, engine, port, secret, wishes
        self._at_least_milli = 0 if modest or (connection.home.path / "owner.json").exists() else wishes.cpu_milli
        self._orders: deque[tuple[Callable[..., None], Any]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._crews: dict[int, _Crew] = {}
        self._ids = itertools.count(1)
        self._stopping = False
        self._silent_since = 0.0
        engine.inquire = lambda crew: self._order(self._inquire, crew)
        engine.hire = lambda plan: self._order(self._hire, plan)
        engine.listen = lambda: self._order(self._listen)
        engine.done = self.stop

    def _order(self, what: Callable[..., None], *about: Any) -> None:
        self._orders.append((what, about))
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """See that the crews end, then end."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def run(self, workers: int | None) -> None:
        """Open the port, have the first crews, then wait for what comes."""
        try:
            self._begin(workers)
            while not self._stopping:
                self._turn()
            self._see_off()
        except UniosError as error:
            self._engine.post(self._engine.fail, f"the system is not reached: {error}", error)
        except BaseException as error:
            self._engine.post(self._engine.fail, f"a defect of unios ended the executor: {type(error).__name__}: {error}", error)
            raise
        finally:
            self._connection.close()

    def _begin(self, workers: int | None) -> None:
        self._listen()
        cores = cores_of(self._connection, node=self._wishes.node, forbidden=self._wishes.placing.forbidden)
        count = workers if workers is not None else sum(cores)
        self._engine.post(self._engine.sized, count)
        plans = plan_crews(count, cores, cpu_milli=self._wishes.cpu_milli, memory_bytes=self._wishes.memory_bytes, single=bool(self._wishes.devices))
        for plan in plans:
            if not self._stopping:
                self._hire(plan)

    def _listen(self) -> None:
        listener = self._connection.persist(lambda: Listener(self._connection, self._port))
        self._engine.post(self._engine.listening, listener)

    # crews

    def _hire(self, plan: Crew) -> None:
        plans = deque([plan])
        while plans and not self._stopping:
            wanted = plans.popleft()
            crew = next(self._ids)
            self._engine.post(self._engine.hired, crew, wanted)
            try:
                placed = processes.submit(self._connection, self._program(crew, wanted))
            except UniosError as error:
                self._engine.post(self._engine.fail, f"no worker can be started: {error}", error)
                return
            if placed.state == "pending" and not placed.node:
                parts = smaller(wanted, at_least_milli=self._at_least_milli)
                if parts:
                    self._engine.post(self._engine.dismissed, crew)
                    self._end(placed.pid)
                    plans.extend(parts)
                    continue
            self._crews[crew] = _Crew(wanted, placed.pid)

    def _program(self, crew: int, plan: Crew) -> Program:
        wishes = self._wishes
        return Program(
            argv=tuple(map(os.fsencode, (wishes.python, "-m", "unios.client.tasks.parent"))),
            env=tuple(environment(f"{self._port} {crew} {self._secret.hex()}", wishes.env).items()),
            cwd=wishes.folder,
            umask=wishes.umask,
            restart="never",
            node=wishes.node,
            resources=Resources(cpu_milli=plan.cpu_milli, memory_bytes=plan.memory_bytes, devices=wishes.devices),
            queueing=wishes.queueing,
            placing=wishes.placing,
        )

    def _end(self, pid: int) -> None:
        try:
            processes.signal(self._connection, pid, signal.SIGKILL, tree=True)
        except UniosError:
            pass  # it has ended, or ends by itself when the connection to the executor does

    def _inquire(self, crew: int) -> None:
        found = self._crews.get(crew)
        if found is not None and not found.deadline:
            found.deadline = time.monotonic() + CREW_INQUEST_MS / 1000

    def _tell(self, crew: int, loss: Loss) -> None:
        self._crews.pop(crew)
        self._engine.post(self._engine.crew_told, crew, loss)

    # waiting

    def _turn(self) -> None:
        while self._orders and not self._stopping:
            what, about = self._orders.popleft()
            what(*about)
        try:
            self._watch()
            self._silent_since = 0.0
        except PASSING as error:
            self._unheard(error)

    def _watch(self) -> None:
        """Wait until a crew has ended, something is ordered, or an inquest has taken too long."""
        channel = self._connection.channel()
        for found in self._crews.values():
            if found.asked is None:
                found.asked = self._connection.begin("processes.wait", OfProcess(found.pid, _TURN_MS))
        deadlines = [found.deadline for found in self._crews.values() if found.deadline]
        patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        ready = _wait(patience, self._wake, channel.fileno())
        if self._wake in ready:
            os.eventfd_read(self._wake)
        if channel.fileno() in ready:
            channel.read_until(None, "processes.wait")
        for crew, found in list(self._crews.items()):
            if found.asked is not None and found.asked.ended:
                asked, found.asked = found.asked, None
                self._answered(crew, asked)
            elif found.deadline and time.monotonic() > found.deadline:
                self._end(found.pid)
                self._tell(crew, Loss("connection", "is not reached any more"))

    def _answered(self, crew: int, asked: Asked) -> None:
        if isinstance(asked.failure, NotFound):
            self._tell(crew, Loss("connection", "is not known to the system any more"))
        if asked.failure is not None:
            return  # it is asked again
        raw, _descriptors = asked.finish()
        view: ProcessView = unpack(raw, ProcessView)
        if view.state in processes.ENDED:
            self._tell(crew, loss_of(view))

    def _unheard(self, error: UniosError) -> None:
        """No kernel answers: try for as long as any caller does."""
        self._connection.close()
        for found in self._crews.values():
            found.asked = None
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since > CLIENT_RECONNECT_MS / 1000 or not self._connection.anybody():
            raise error
        _wait(CLIENT_RETRY_MS / 1000, self._wake)

    def _see_off(self) -> None:
        """Wait until the processes have ended; who does not by himself is ended."""
        for crew, found in self._crews.items():
            found.asked = None
            if crew not in self._engine.told:
                self._end(found.pid)
        for patience_s in (CREW_END_MS / 1000, 2.0):
            deadline = time.monotonic() + patience_s
            for crew, found in list(self._crews.items()):
                try:
                    view = processes.wait(self._connection, found.pid, timeout_s=max(0.0, deadline - time.monotonic()))
                except UniosError:
                    continue
                if view.state in processes.ENDED:
                    del self._crews[crew]
            if not self._crews:
                return
            for found in self._crews.values():
                self._end(found.pid)

    def release(self) -> None:
        """Close every descriptor, once the thread has ended or in a fork of the process."""
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1


def _wait(patience_s: float | None, *descriptors: int) -> list[int]:
    """Return which can be read. Not by select, which takes none over 1,023."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _mask in poll.poll(None if patience_s is None else patience_s * 1000)]


def cores_of(connection: Connection, *, node: str = "", forbidden: Iterable[str] = ()) -> list[int]:
    """Return how many cores each node offers that may be chosen; one node of one core if none is ready."""
    me = user()
    return [
        one.cores or 1
        for one in nodes.list_nodes(connection)
        if one.state == "ready" and may_speak_for(one.users, me) and one.name not in forbidden and node in ("", one.name)
    ] or [1]


def user() -> str:
    """Return the name of this process's user."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"#{os.geteuid()}"


def environment(introduction: str, more: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return this program's environment for another process: without what says who its user is here, and so that it finds unios."""
    found = dict(os.environb)
    for name in (b"HOME", b"USER", b"LOGNAME", b"UNIOS_PID", b"UNIOS_INCARNATION", b"UNIOS_NODE", b"UNIOS_HOME"):
        found.pop(name, None)
    found.update((os.fsencode(name), os.fsencode(value)) for name, value in more.items())
    paths = [path for path in found.get(b"PYTHONPATH", b"").split(b":") if path]
    found[b"PYTHONPATH"] = b":".join([*paths, os.fsencode(PACKAGE)])
    found[os.fsencode(proofs.VARIABLE)] = introduction.encode()
    return found


def loss_of(view: ProcessView) -> Loss:
    """Return how a crew's process was lost."""
    reason = f": {view.reason}" if view.reason else ""
    if view.state == "lost":
        return Loss("node", f"was lost with its node {view.node}{reason}")
    where = f" on node {view.node}" if view.node else ""
    if "out of memory" in view.reason:
        return Loss("memory", f"ended{where}{reason}")
    if view.exit_code == CUT:
        cut = f"lost its connection to the executor from node {view.node}"
        return Loss("connection", f"{cut}: a kernel on the way ended or was replaced, or the nodes did not reach each other")
    if view.signal is not None:
        return Loss("died", f"was killed by signal {view.signal}{where}, with process {view.pid}{reason}")
    return Loss("died", f"ended{where} with process {view.pid}, exit code {view.exit_code}{reason}; `unios logs {view.pid}` shows what it said")


def python() -> str:
    """Return the interpreter that workers run."""
    return sys.executable


def umask() -> int:
    """Return this process's umask, without changing it for a moment as os.umask would, for all threads."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next((int(line.split()[1], 8) for line in file if line.startswith("Umask:")), 0o022)
