"""The process trees of this node as its kernel knows them: the guard's list, kept up to date, and a connection to each init when it is needed.

Nothing here is remembered across a restart: the guard tells it again. Never decides; the node does.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any, Final

from unios.core.sequences import SIGNAL
from unios.errors import NotFound, Unavailable
from unios.kernel import linux_pids
from unios.kernel.bounds import Bounds
from unios.kernel.callers import pid_namespace_of
from unios.kernel.exit_notes import Receiver
from unios.kernel.hierarchies import Hierarchy
from unios.kernel.runfiles import complain, start_of
from unios.kernel.tree_peer import TreePeer, checked
from unios.kernel.trees_protocol import PROTOCOL, PROTOCOL_MIN, is_spoken
from unios.wire.home import NodeFolder
from unios.wire.running import in_sequence

TREES_AT_ONCE: Final = 32
APART_S: Final = 1.0
"""So long a guard that has been found wanting is not asked again."""
OnExit = Callable[[int, int, dict[str, Any]], None]
"""(pid, incarnation, the fields of exit.json)"""


class TreeInfo:
    """One tree."""

    __slots__ = ("exit", "group", "incarnation", "init_pid", "namespace", "pid", "protocol", "state")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.pid, self.incarnation = int(fields["pid"]), int(fields["incarnation"])
        self.state = str(fields.get("state", "running"))
        self.init_pid = int(fields.get("init_pid", 0))
        self.group = str(fields.get("group", ""))
        self.protocol = fields.get("protocol")
        """What its init speaks; None: it is older than such numbers."""
        self.exit: dict[str, Any] = dict(fields.get("exit") or fields.get("failure") or {})
        self.namespace = pid_namespace_of(self.init_pid) if fields.get("namespaces") else 0


class Trees:
    """Those of one node. `run` keeps the connection to the guard."""

    def __init__(self, folder: NodeFolder, on_exit: OnExit, on_list: Callable[[], None]) -> None:
        self._folder = folder
        self._on_exit = on_exit
        self.on_throttled: Callable[[int, int, bool], None] = lambda _pid, _incarnation, _on: None
        self._on_list = on_list
        self._guard: TreePeer | None = None
        self._up = asyncio.Event()
        self._inits: dict[tuple[int, int], TreePeer] = {}
        self.trees: dict[tuple[int, int], TreeInfo] = {}
        self._asked: set[tuple[int, int]] = set()
        """Whose start the guard is being asked for."""
        self.begun: set[tuple[int, int]] = set()
        """Whose start the guard has been asked for, or tells of, while it is not known what came of it: their inits may hold the program already."""
        self._ended_meanwhile: dict[tuple[int, int], dict[str, Any]] = {}
        self.namespaces = False
        self.freezer = ""
        self.bounded: frozenset[str] = frozenset()
        """What of memory, pids and cpu is bounded here, as the guard found."""
        self.hierarchies: tuple[Hierarchy, ...] = ()
        """Where."""
        self.counted = ""
        """The node's group for the freezer if that is of version 2."""
        self._own_namespace = pid_namespace_of(os.getpid())

    async def run(self) -> None:
        """Keep the connection; ends only by cancellation."""
        notes = Receiver(os.fspath(self._folder.path), self._on_note)
        loop = asyncio.get_running_loop()
        loop.add_reader(notes.sock.fileno(), notes.readable)
        try:
            await self._keep_connection()
        finally:
            loop.remove_reader(notes.sock.fileno())
            notes.close()

    async def _keep_connection(self) -> None:
        while True:
            guard: TreePeer | None = None
            try:
                guard = TreePeer(self._folder.guard_door, self._on_event)
                await guard.ask("watch")
                info = await guard.ask("info")
                if not is_spoken(info.get("protocol")):
                    complain(f"the guard of this node speaks protocol {info.get('protocol')}, this kernel {PROTOCOL_MIN} to {PROTOCOL}")
                    raise Unavailable("the guard of this node is of another version")
                self.namespaces, self.freezer = bool(info["namespaces"]), str(info["freezer"])
                self.hierarchies = tuple(Hierarchy(*fields) for fields in info.get("groups", ()))
                self.bounded = frozenset(kind for one in self.hierarchies for kind in one.kinds)
                self.counted = str(info["place"][1]) if self.freezer == "v2" and info.get("place") else ""
                self.trees = await _listed(guard)
                self.begun = self._asked | {key for key, tree in self.trees.items() if tree.state == "starting"}
                self._guard = guard
                self._up.set()
                self._on_list()
                await guard.closed.wait()
            except Unavailable:
                if guard is not None:  # it answers, and not as it should
                    await asyncio.sleep(APART_S)
            finally:
                self._up.clear()
                if guard is not None:
                    guard.close()
            await asyncio.sleep(0.02)

    async def wait_up(self) -> None:
        """Wait until the guard answers and its trees are known."""
        await self._up.wait()

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("event") == "exit":
            key = (int(event["pid"]), int(event["incarnation"]))
            self.begun.discard(key)
            tree = self.trees.get(key)
            if tree is not None:
                if tree.state == "ended" and tree.exit:
                    return  # a note has told it already
                tree.state, tree.exit = "ended", event
            elif key in self._asked:
                self._ended_meanwhile[key] = event  # it came with the answer, which is looked at only after it
            self._on_exit(*key, event)
        elif event.get("event") == "throttled":
            self.on_throttled(int(event["pid"]), int(event["incarnation"]), bool(event["on"]))

    def _on_note(self, event: dict[str, Any]) -> None:
        """An init tells of its exit before the guard does; if the start has not been told yet, this waits for the guard's word."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            tree = self.trees.get((int(event["pid"]), int(event["incarnation"])))
            if tree is not None and tree.state == "running":
                self._on_event(event)

    async def spawn(self, fields: dict[str, Any], timeout_ms: int) -> TreeInfo:
        """Have the guard start a tree; return when the program has been executed. Idempotent. Raises why it was not."""
        if not self._up.is_set():
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    await self._up.wait()
            except TimeoutError:
                raise Unavailable("the guard of this node does not answer") from None
        if self._guard is None:
            raise Unavailable("the guard of this node is being replaced")
        key = (int(fields["pid"]), int(fields["incarnation"]))
        self._ended_meanwhile.pop(key, None)
        self._asked.add(key)
        self.begun.add(key)
        try:
            reply = await self._guard.answer("spawn", timeout_ms=timeout_ms, **fields)
            self._decided(key)
            checked(reply)
        except BaseException:
            self._ended_meanwhile.pop(key, None)
            raise
        finally:
            self._asked.discard(key)
        known = self.trees.get(key)
        if known is not None and known.state == "ended":
            return known
        tree = self.trees[key] = TreeInfo({**fields, **reply, "state": "running"})
        exited = self._ended_meanwhile.pop(key, None)
        if exited is not None:
            tree.state, tree.exit = "ended", exited
        return tree

    def _decided(self, key: tuple[int, int]) -> None:
        self.begun.discard(key)
        if key in self.trees and self.trees[key].state == "starting":
            del self.trees[key]

    async def look_again(self) -> None:
        """Ask the guard what has come of the starts whose answers were lost, or have not come in time. Raises Unavailable."""
        lost = self.begun - self._asked
        guard = self._guard
        if not lost or guard is None or not self._up.is_set():
            return
        listed = await _listed(guard)
        for key in lost & self.begun - self._asked:
            tree = listed.get(key)
            if tree is None or tree.state != "starting":
                self._decided(key)
            if tree is not None:
                self.trees[key] = tree

    async def forget(self, pid: int, incarnation: int) -> None:
        """Remove what an ended tree left on disk. Idempotent."""
        self._drop_init((pid, incarnation))
        self.trees.pop((pid, incarnation), None)
        if self._guard is not None:
            await self._guard.ask("forget", pid=pid, incarnation=incarnation)

    def incarnation_of(self, pid: int) -> int:
        """Return the newest incarnation of which a tree is known here; NotFound if there is none."""
        found = [incarnation for known, incarnation in self.trees if known == pid]
        if not found:
            raise NotFound(f"no output of process {pid} is kept on this node")
        return max(found)

    def init(self, pid: int, incarnation: int) -> TreePeer:
        """Return the connection to the tree's init; Unavailable if it has ended."""
        key = (pid, incarnation)
        peer = self._inits.get(key)
        if peer is None or peer.closed.is_set():
            peer = self._inits[key] = in_sequence(SIGNAL, self.open_init, pid, incarnation, lambda _event: None)
        return peer

    def open_init(self, pid: int, incarnation: int, on_event: Callable[[dict[str, Any]], None]) -> TreePeer:
        """Return a connection of the caller's own. Unavailable: it has ended, or this kernel does not speak as old as it does."""
        tree = self.trees.get((pid, incarnation))
        if tree is not None and not is_spoken(tree.protocol):
            raise Unavailable(f"process {pid} is looked after by code that speaks protocol {tree.protocol}, this kernel {PROTOCOL_MIN} to {PROTOCOL}")
        return TreePeer(self._folder.trees / f"{pid}.{incarnation}" / "sock", on_event)

    def _drop_init(self, key: tuple[int, int]) -> None:
        peer = self._inits.pop(key, None)
        if peer is not None:
            peer.close()

    def bounds(self, tree: TreeInfo) -> Bounds:
        """Return the groups in which a tree is counted."""
        return Bounds(self.hierarchies, tree.group, f"{self.counted}/{tree.group}" if self.counted else "")

    async def figures(self, figure: Callable[[Bounds], int]) -> dict[tuple[int, int], int]:
        """Return a figure of the groups of each tree that runs, by pid and incarnation; others have their turn meanwhile."""
        found: dict[tuple[int, int], int] = {}
        for at, tree in enumerate([tree for tree in self.trees.values() if tree.state == "running"]):
            found[tree.pid, tree.incarnation] = figure(self.bounds(tree))
            if at % TREES_AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    def tree_of(self, linux_pid: int, namespace: int) -> tuple[int, int]:
        """Return (pid, incarnation) of the tree that a Linux process belongs to; (0, 0) for a stranger."""
        if namespace and namespace != self._own_namespace:
            for (pid, incarnation), tree in reversed(self.trees.items()):  # the newest: an init may have one tree after the other
                if tree.namespace == namespace and tree.state != "ended":
                    return pid, incarnation
        elif not self.namespaces:
            inits = {tree.init_pid: key for key, tree in self.trees.items() if tree.state != "ended"}
            for ancestor in linux_pids.ancestors(linux_pid):
                if ancestor in inits:
                    return inits[ancestor]
        return 0, 0

    def alive(self) -> int:
        """Return how many trees run."""
        return sum(tree.state in ("starting", "running") and bool(start_of(tree.init_pid)) for tree in self.trees.values())

    def close(self) -> None:
        for key in list(self._inits):
            self._drop_init(key)


async def _listed(guard: TreePeer) -> dict[tuple[int, int], TreeInfo]:
    answer = await guard.ask("list")
    return {(tree.pid, tree.incarnation): tree for tree in map(TreeInfo, answer["trees"])}
