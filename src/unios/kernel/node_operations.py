"""The kernel's operations on nodes: info, list, status, links, events, token, stop, leave.

Reads come from the store when they must be the latest, from the kernel's mirrors when a glance is asked for.
"""

import asyncio
import builtins
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from unios import __version__
from unios.core.flapping import comes_and_goes
from unios.core.nodes import NodeRecord
from unios.core.processes import LIVE
from unios.errors import CallerError, Denied
from unios.kernel import linux_pids, runfiles
from unios.kernel.callers import Caller, user_of
from unios.kernel.clocks import boot_ms
from unios.kernel.node_records import remove_node
from unios.limits import TOKEN_TTL_S, TOKEN_TTL_S_MAX
from unios.wire.expelling import Cut, Expel
from unios.wire.home import Home
from unios.wire.installation import release
from unios.wire.operations import (
    Empty,
    EventView,
    Leave,
    LinkView,
    MakeToken,
    NodeInfo,
    NodeView,
    RemoveNode,
    ServiceView,
    SystemView,
    Token,
    WatchEvents,
)
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node


FIRST_VIEW_S: Final = 1.5
"""So long a kernel that has just begun is waited for to have heard of the nodes from the store."""


class NodeOperations:
    """Serves `node.*`."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    async def info(self, caller: Caller, call: Call) -> object:
        """What this node is and how it stands."""
        node = self._node
        disk = os.statvfs(node.home.path)
        return NodeInfo(
            name=node.name,
            system=node.system.id,
            machine=node.system.machine,
            incarnation=node.leasing.incarnation,
            version=__version__,
            kernel_pid=os.getpid(),
            pids=tuple(linux_pids.of_node(node.folder, await linux_pids.parents_in_turns())),
            cores=node.cores,
            user=user_of(os.geteuid()),
            privileged=os.geteuid() == 0,
            address=node.address,
            addresses=node.addresses.all,
            store="here" if runfiles.read(node.folder.run / "store.json") else node.system.engine,
            lease_ms=node.leasing.left_ms(),
            namespaces=node.trees.namespaces,
            freezer=node.trees.freezer,
            services=tuple(node.parts()),
            bounded=tuple(sorted(node.trees.bounded)),
            disk_bytes=disk.f_blocks * disk.f_frsize,
            disk_free_bytes=disk.f_bavail * disk.f_frsize,
            release=release(),
        )

    async def list(self, caller: Caller, call: Call) -> object:
        """Every node of the system, sorted by name."""
        return tuple(await self._views())

    async def _views(self) -> "builtins.list[NodeView]":
        node = self._node
        with contextlib.suppress(TimeoutError):  # a kernel that has just begun knows nobody yet; while the store is away it goes on knowing nobody
            async with asyncio.timeout(FIRST_VIEW_S):
                await node.nodes.wait_complete()
        children = await linux_pids.parents_in_turns()
        running: dict[str, int] = {}
        for process in node.processes.values.values():
            if process.state in LIVE:
                running[process.node] = running.get(process.node, 0) + 1
        views = []
        for record in sorted(node.nodes.values.values(), key=lambda record: (len(record.name), record.name)):
            views.append(self._view(record, running.get(record.name, 0), children))
        return views

    def _view(self, record: NodeRecord, running: int, children: "dict[int, builtins.list[int]]") -> NodeView:
        node = self._node
        pids: tuple[int, ...] = ()
        kernel_pid = 0
        if record.machine == node.system.machine:
            folder = Home(node.home.path).node(record.name)
            pids = tuple(linux_pids.of_node(folder, children))
            kernel = runfiles.read(folder.run / "kernel.json")
            kernel_pid = kernel.pid if kernel else 0
        state, reason = node.membership.view(record.name)
        if record.state == "left":
            state, reason = "left", "it left"  # one that has never registered is in no membership
        if record.stopped and state == "lost":
            reason = "it was stopped; `unios up` on its machine brings it back"
        flaps = record.state == "joined" and not record.stopped and comes_and_goes(record, node.wall_ms())
        return NodeView(
            record.name,
            state,
            record.machine,
            record.incarnation,
            kernel_pid,
            pids,
            record.version,
            record.cores,
            record.users,
            running,
            reason or ("it comes and goes" if flaps else ""),
            record.memory_bytes,
            record.devices,
            record.addresses,
            node.membership.is_settling(record.name, boot_ms()),
            flaps,
            node.leasing.stale_ms(),
            record.protocol,
            record.protocol_min,
            record.release,
        )

    async def links(self, caller: Caller, call: Call) -> object:
        """The links of this node."""
        return tuple(LinkView(*link) for link in sorted(self._node.links.statistics(), key=lambda s: s.peer))

    async def status(self, caller: Caller, call: Call) -> object:
        """The system at a glance, with warnings that say what to type."""
        node = self._node
        counts: dict[str, int] = {}
        for record in node.processes.values.values():
            counts[record.state] = counts.get(record.state, 0) + 1
        return SystemView(
            system=node.system.id,
            version=__version__,
            engine=node.system.engine,
            store_machine=node.system.store_machine,
            nodes=tuple(await self._views()),
            processes=counts,
            warnings=tuple(node.warnings()),
            notes=tuple(node.notes()),
            keepers=tuple(node.quorum.keepers),
            stale_ms=node.leasing.stale_ms(),
        )

    async def events(self, caller: Caller, call: Call) -> object:
        """What happened, oldest first; with `follow` what happens from now on too."""
        body = call.decode(WatchEvents)
        past, after = await self._node.events.past(body.last)
        for event in past:
            await call.send(event)
        if body.follow:
            async for event in self._node.events.follow(after):
                await call.send(event)
        return Empty()

    async def token(self, caller: Caller, call: Call) -> object:
        """Make a join token: it works once and expires."""
        body = call.decode(MakeToken)
        if not caller.privileged:
            raise Denied("only the system's owner may let machines in")
        ttl_s = min(body.ttl_s or TOKEN_TTL_S, TOKEN_TTL_S_MAX)
        token, expires_ms, addresses = await self._node.tokens.make(ttl_s, root=body.root)
        return Token(token, expires_ms, addresses)

    async def stop(self, caller: Caller, call: Call) -> object:
        """Stop the node; its processes run elsewhere or end. The answer comes before the end."""
        return await self._stop(caller, call, self._node.stopping.stop)

    async def leave(self, caller: Caller, call: Call) -> object:
        """Leave the system for good."""
        return await self._stop(caller, call, self._node.stopping.leave)

    async def remove(self, caller: Caller, call: Call) -> object:
        """Take a node that is lost out of the system for good."""
        if not caller.privileged:
            raise Denied("only the system's owner may remove nodes")
        await remove_node(self._node, call.decode(RemoveNode).name)
        return Empty()

    async def expel(self, caller: Caller, call: Call) -> object:
        """Cut off a node that is there and is not to be trusted any more."""
        if not caller.privileged:
            raise Denied("only the system's owner may expel nodes")
        return await self._node.expelling.expel(call.decode(Expel).name)

    async def cut(self, caller: Caller, call: Call) -> object:
        """For another kernel: have nothing to do any more with an expelled node."""
        if not caller.privileged or not caller.users:
            raise Denied("only a kernel that speaks for the system's owner may have a node cut off")
        body = call.decode(Cut)
        if body.name == self._node.name:
            raise CallerError(f"{body.name} cannot cut itself off")
        self._node.expelling.cut(body.name, body.marks)
        return Empty()

    async def _stop(self, caller: Caller, call: Call, how: Callable[[Leave], Awaitable[None]]) -> object:
        if not caller.privileged:
            raise Denied(f"only {' and '.join(dict.fromkeys((user_of(os.geteuid()), 'root')))} may stop this node")
        await how(call.decode(Leave))
        self._node.stopping.end_after(call.peer)
        return Empty()


def service_view(fields: dict[str, object]) -> ServiceView:
    """Return what the supervisor wrote of one part, tolerating fields of another version."""
    return ServiceView(
        str(fields.get("name", "")),
        int(str(fields.get("pid") or 0)),
        int(str(fields.get("restarts") or 0)),
        str(fields.get("state", "")),
        str(fields.get("reason", "")),
    )


__all__ = ["EventView", "NodeOperations", "service_view"]
