"""Caller: what stands behind a handle: asks the copies of one object, again where that is safe, and knows where they are.

A write has a number in its session, and is asked for again under it until its outcome is known: it is done once. Threads may share a caller.
"""

import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from unios.client.connection import Connection
from unios.client.embedded import system
from unios.client.messages.port import Port
from unios.client.replicas.config import Config
from unios.client.replicas.directory import Host, hosts, port_of
from unios.client.replicas.outcome import FORGOTTEN
from unios.core.outcomes import Request
from unios.counted import counted
from unios.errors import NotFound, OutcomeUnknown, PeerRestarted, Unavailable, UniosError
from unios.limits import OBJECT_CALL_MS, OBJECT_ENDS_MAX, OBJECT_LOOK_MS, OBJECT_RETRY_MS, OBJECT_WRITES_OPEN_MAX
from unios.wire.operations import NodeInfo

_PASSING = (OutcomeUnknown, PeerRestarted, Unavailable, NotFound)


class _Session:
    """The numbers of one series of writes."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.pid = os.getpid()
        self._next = 1
        self._open: set[int] = set()
        self._lock = threading.Lock()

    def begin(self) -> tuple[int, int] | None:
        """Return (a number, the lowest that is not answered); None if too many are under way."""
        with self._lock:
            if len(self._open) >= OBJECT_WRITES_OPEN_MAX or self._next - min(self._open, default=self._next) >= OBJECT_WRITES_OPEN_MAX:
                return None
            number = self._next
            self._next += 1
            self._open.add(number)
            return number, min(self._open)

    def end(self, number: int) -> None:
        with self._lock:
            self._open.discard(number)


class Caller:
    """That of one object and process. `home`: of another system than the program uses. `timeout`: seconds that a call may take; None: it waits for ever."""

    def __init__(self, name: str, *, home: "Path | str | None" = None, node: str = "", timeout: float | None = None) -> None:
        self.name = name
        self.timeout = timeout
        self._home, self._node = system().home if home is None else home, node
        self._lock = threading.RLock()
        self._hosts: dict[int, Host] = {}
        self._ports: dict[int, tuple[int, Port]] = {}
        """By pid, with the incarnation for which each was made."""
        self._here = ""
        self._session = _Session()

    def _fork_check(self) -> None:
        if self._session.pid != os.getpid():
            self._lock, self._session = threading.RLock(), _Session()  # the parent of a forked process goes on with its own

    def connection(self) -> Connection:
        """Return a connection of one's own to the system."""
        return Connection(self._home, self._node, role="program")

    def look(self) -> dict[int, Host]:
        """Read where the copies are. NotFound if the object has none, Unavailable if no kernel answers."""
        with self.connection() as connection:
            found = hosts(connection, self.name)
            if 0 not in found:
                found = hosts(connection, self.name, returning=True)
            if not self._here:
                self._here = connection.ask("node.info", None, NodeInfo).name
        if 0 not in found:
            raise NotFound(f"there is no object {self.name}")
        with self._lock:
            self._hosts = found
        return found

    def port(self, host: Host, timeout: float) -> Port:
        """Return the port of a host; waits so many seconds for it. NotFound, OutcomeUnknown, Unavailable."""
        self._fork_check()
        with self._lock:
            incarnation, port = self._ports.get(host.pid, (0, None))
        if port is not None and incarnation < host.incarnation:
            port.close()  # the older one may be stopped, and its connection not broken
            port = None
        if port is None:
            port = self.new_port(host.pid, timeout)
            with self._lock:
                self._ports[host.pid] = host.incarnation, port
        return port

    def new_port(self, pid: int, timeout: float) -> Port:
        """Return a port of one's own."""
        return Port(port_of(pid), home=self._home, node=self._node, timeout=timeout)

    def ask(self, op: str, *args: object, deadline: float | None = None) -> Any:
        """Ask the first copy what may be asked twice, until it answers or the deadline (time.monotonic); OutcomeUnknown then. NotFound: there is no such object.

        Unavailable: no kernel answers, and nothing was done; OutcomeUnknown if it may have been.
        """
        if deadline is None and self.timeout is not None:
            deadline = time.monotonic() + self.timeout
        may_be_done = False
        first = 0
        while True:
            host = self._hosts.get(0) or self.look()[0]
            first = first or host.incarnation
            if first and host.incarnation - first >= OBJECT_ENDS_MAX:
                raise OutcomeUnknown(
                    f"process {host.pid} of the object {self.name} has ended {counted(host.incarnation - first, 'time')} since this call was begun: "
                    f"one of the calls that are under way may be what ends it; this one may have been done (`unios logs {host.pid}` shows what it said)"
                )
            turn = OBJECT_CALL_MS / 1000
            if deadline is not None:
                turn = min(turn, deadline - time.monotonic())
                if turn <= 0:
                    raise OutcomeUnknown(f"the object {self.name} did not answer in time; what was asked may have been done")
            try:
                return self.port(host, turn).options(timeout=turn, idempotent=True).call(op, *args)
            except _PASSING as error:
                may_be_done = may_be_done or isinstance(error, OutcomeUnknown | PeerRestarted)
                time.sleep(OBJECT_RETRY_MS / 1000)
            try:
                self.look()  # NotFound if it is gone for good
            except Unavailable as error:
                if not may_be_done:
                    raise
                raise OutcomeUnknown(f"the object {self.name} cannot be reached any more; what was asked may have been done: {error}") from error

    def write(self, call: bytes, cache: str = "", dropped: int = 0) -> bytes:
        """Have a call done that may change the object; return its outcome. `cache`: that of the caller, which has nothing up to grant `dropped`."""
        self._fork_check()
        while (numbers := (mine := self._session).begin()) is None:
            self._session = _Session()
        number, answered = numbers
        try:
            outcome: bytes = self.ask("write", Request(mine.id, number, answered, call), cache, dropped)
        except UniosError:
            self._session = _Session()  # nobody knows whether that number was done: no later one may say that it was answered
            raise
        if outcome == FORGOTTEN:
            self._session = _Session()
        mine.end(number)
        return outcome

    def read_near(self, call: bytes) -> bytes:
        """Have a call done that changes nothing, by the nearest copy, or the first if that one is not sure."""
        if not self._hosts:
            self.look()
        near = next((host for rank, host in sorted(self._hosts.items()) if host.node == self._here and rank), None)
        first = self._hosts.get(0)
        if near is not None and not (first is not None and first.node == self._here):
            try:
                timeout = OBJECT_LOOK_MS / 1000
                outcome: bytes | None = self.port(near, timeout).options(timeout=timeout, idempotent=True).call("read", call)
                if outcome is not None:
                    return outcome
            except _PASSING:
                self.look()
        return self.read(call)

    def read(self, call: bytes) -> bytes:
        """Have a call done that changes nothing, by the first copy."""
        outcome: bytes = self.ask("read", call)
        return outcome

    def config(self, timeout_s: float) -> Config:
        """Return how the object is configured. NotFound, DataLost, OutcomeUnknown."""
        config: Config = self.ask("describe", deadline=time.monotonic() + timeout_s)
        return config

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return (all messages, those between nodes) by kind, of the copies as they are; one that was lost has taken its figures along."""
        both: tuple[dict[str, int], dict[str, int]] = ({}, {})
        for host in self.look().values():
            for sums, found in zip(both, self.port(host, OBJECT_CALL_MS / 1000).call("counts"), strict=True):
                for kind, number in found.items():
                    sums[kind] = sums.get(kind, 0) + number
        return both

    def close(self) -> None:
        """End the connections."""
        with self._lock:
            ports, self._ports = list(self._ports.values()), {}
        for _incarnation, port in ports:
            port.close()
