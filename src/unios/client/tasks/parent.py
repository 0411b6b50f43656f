"""Parent: the process of the system from which an executor's workers on one node are forked, after it has imported what they will need.

It forks, reaps, says how a worker has ended, and takes back what a worker has not begun. It runs no task. It has one thread, so that a fork is safe. It
ends, with all its workers, when the executor says so or when the connection to it ends. A worker that Linux has no room for waits, and costs no other its task.
"""

import contextlib
import gc
import importlib
import os
import select
import signal
import sys
import time
from collections import deque
from types import ModuleType
from typing import Any

from unios.client.tasks import proofs, worker
from unios.client.tasks.line import Line
from unios.client.tasks.losses import CUT
from unios.client.tasks.page import Page
from unios.client.tasks.talk import reach
from unios.client.tasks.values import unpack
from unios.errors import UniosError
from unios.wire.parcels import Bar, Barred, Fork, Gone, Head, Kill, Ready, Stop, Unwanted

_FAREWELL_S = 1.0
_AGAIN_S = 0.1
"""So often it is tried to fork those for whom Linux had no process, or no memory, left."""
_SHORT_S = 10.0
"""And so long while there is no worker at all: then there are none to be had here."""


class _Child:
    __slots__ = ("descriptor", "id", "pid", "place")

    def __init__(self, id_: int, pid: int, place: int) -> None:
        self.id, self.pid, self.place = id_, pid, place
        try:
            self.descriptor = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise


class Parent:
    """That of one crew."""

    def __init__(self, line: Line, secret: bytes, port: str, crew: int, node: str) -> None:
        self._line, self._secret, self._port, self._crew, self._node = line, secret, port, crew, node
        self._page = Page()
        self._wanted: deque[int] = deque()
        """Workers that are to be forked."""
        self._short_since = 0.0
        """Since when none could be forked; 0: the last could."""
        self._children: dict[int, _Child] = {}
        self._by_descriptor: dict[int, _Child] = {}
        self._poll = select.epoll()
        self._poll.register(line.fileno(), select.EPOLLIN)
        self._told_kills = memory_kills()
        """So many that Linux has killed for want of memory are told of."""

    def run(self) -> bool:
        """Serve until the end, then take the workers along. Returns whether it was told to end; else its connection did. OSError if none can be forked."""
        self._line.say(Ready())
        try:
            while not self._line.over:
                pending = not self._line.flush()
                self._poll.modify(self._line.fileno(), select.EPOLLIN | (select.EPOLLOUT if pending else 0))
                for descriptor, _mask in self._poll.poll(_AGAIN_S if self._wanted else None):
                    child = self._by_descriptor.get(descriptor)
                    if child is not None:
                        self._reap(child)
                    elif descriptor == self._line.fileno():
                        for head, _parts in self._line.receive():
                            if isinstance(head, Stop):
                                self._see_off()
                                return True
                            self._on(head)
                self._fork_wanted()
            return False
        finally:
            for child in self._children.values():
                os.kill(child.pid, signal.SIGKILL)
            for child in self._children.values():
                os.waitpid(child.pid, 0)

    def _see_off(self) -> None:
        """Give the workers, who are told to end too, a moment to do so."""
        deadline = time.monotonic() + _FAREWELL_S
        while self._children and (left := deadline - time.monotonic()) > 0:
            for descriptor, _mask in self._poll.poll(left):
                if (child := self._by_descriptor.get(descriptor)) is not None:
                    self._reap(child)

    def _on(self, head: Head) -> None:
        if isinstance(head, Fork):
            self._wanted.append(head.worker)
        elif isinstance(head, Bar):
            child = self._children.get(head.worker)
            if child is not None:
                self._line.say(Barred((), head.worker, head.turn, self._page.bar(child.place, head.turn)))
        elif isinstance(head, Unwanted):
            child = self._children.get(head.worker)
            if child is not None:
                self._page.disown(child.place, head.turn)
        elif isinstance(head, Kill):
            child = self._children.get(head.worker)
            if child is not None:
                os.kill(child.pid, signal.SIGKILL)
            elif head.worker in self._wanted:
                self._wanted.remove(head.worker)

    def _fork_wanted(self) -> None:
        while self._wanted:
            try:
                self._fork(self._wanted[0])
            except OSError:
                now = time.monotonic()
                self._short_since = self._short_since or now
                if not self._children and now - self._short_since >= _SHORT_S:
                    raise
                return
            self._wanted.popleft()
            self._short_since = 0.0

    def _fork(self, id_: int) -> None:
        place = self._page.take()
        me = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError:
            self._page.give_back(place)
            raise
        if not pid:
            self._poll.close()
            self._line.sock.close()
            for child in self._children.values():
                os.close(child.descriptor)
            worker.start(self._secret, self._port, self._crew, id_, self._node, self._page, place, me)
        try:
            child = self._children[id_] = _Child(id_, pid, place)
        except OSError:
            self._page.give_back(place)
            raise
        self._by_descriptor[child.descriptor] = child
        self._poll.register(child.descriptor, select.EPOLLIN)

    def _reap(self, child: _Child) -> None:
        _pid, status = os.waitpid(child.pid, 0)
        self._poll.unregister(child.descriptor)
        os.close(child.descriptor)
        del self._by_descriptor[child.descriptor]
        del self._children[child.id]
        self._line.say(Gone((), child.id, status, self._page.begun(child.place), self._is_of_memory(status)))
        self._page.give_back(child.place)

    def _is_of_memory(self, status: int) -> bool:
        """Return whether Linux has killed a worker for want of memory. Several may be killed before the first is reaped, so each kill tells of one; of kills
        that are left over, which were of processes of tasks, no more are kept than there are workers."""
        kills = memory_kills()
        found = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and kills > self._told_kills
        self._told_kills = max(self._told_kills + found, kills - len(self._children))
        return found


def memory_kills() -> int:
    """Return how many processes Linux has killed for want of memory in this process's control group; if that does not say, on this machine; else 0."""
    for path in (*_groups(), "/proc/vmstat"):
        with contextlib.suppress(OSError, ValueError, IndexError), open(path, encoding="ascii") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _groups() -> list[str]:
    """Return where version 1 and version 2 of control groups would say it."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        groups = {controllers: path for _number, controllers, path in (line.rstrip("\n").split(":", 2) for line in file)}
        return (
            [f"/sys/fs/cgroup/memory{groups['memory']}/memory.oom_control"]
            if "memory" in groups
            else [f"/sys/fs/cgroup{groups.get('', '/')}/memory.events"]
        )
    return []


def prepare(setup: dict[str, Any]) -> None:
    """Become as the executor's program is: where modules are looked for, which of them are imported. What is not here is not imported."""
    sys.path[:] = setup["path"]
    sys.argv[:] = setup["argv"]
    sys.modules["__main__"] = ModuleType("__main__")
    for name in setup["modules"]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def main() -> int:
    """Run by a process of the system; what it needs to know is in its environment."""
    port, crew, secret = os.environ.pop(proofs.VARIABLE).split()
    node = os.environ.get("UNIOS_NODE", "")
    try:
        talk, parts = reach(port, bytes.fromhex(secret), int(crew), 0, node)
    except (OSError, UniosError) as error:
        print(f"no executor is reached: {error}", file=sys.stderr)
        return 1
    prepare(unpack(parts))
    gc.collect()
    gc.freeze()
    try:
        told = Parent(Line(talk.sock), bytes.fromhex(secret), port, int(crew), node).run()
    except OSError as error:
        print(f"no worker can be forked: {error.strerror}", file=sys.stderr)
        return 1
    if not told:
        print("the connection to the executor has ended", file=sys.stderr)
        return CUT
    return 0


if __name__ == "__main__":
    from unios.client.tasks import parent  # under its own name: __main__ is to be the program's

    code = parent.main()
    sys.stdout.flush()
    os._exit(code)
