"""Node records as kernels change them: each change is a compare-and-set, made again if somebody else has changed the record meanwhile."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from unios.core.nodes import NodeRecord, alive_key, node_key
from unios.errors import CallerError, NodeUnknown, Unavailable
from unios.kernel.system import SQLITE
from unios.store.model import Compare, Operation, Put, Range, RangeResult, Store, Transaction

if TYPE_CHECKING:
    from unios.kernel.node import Node

ATTEMPTS_MAX: Final = 5


async def change_node(store: Store, name: str, change: Callable[[NodeRecord], NodeRecord], *more: Operation) -> None:
    """Change a node's record, and do `more` with it, whoever else changes it at the same time. A node without a record is left alone."""
    while True:
        result, _revision = await store.range(node_key(name))
        if not result.records:
            return
        old = result.records[0]
        put = Put(old.key, msgspec.msgpack.encode(change(msgspec.msgpack.decode(old.value, type=NodeRecord))))
        if (await store.transact(Transaction((Compare(old.key, "modified", "==", old.modified),), (put, *more)))).succeeded:
            return


async def remove_node(node: "Node", name: str) -> None:
    """Take a node out of the system whose lease has ended: its certificate is refused from now on, and what it ran is dealt with as lost for good.

    Raises CallerError for one whose lease stands, or that is the last of the store's machine. Idempotent.
    """
    for _attempt in range(ATTEMPTS_MAX):
        found = (await node.store.transact(Transaction(then=(Range(node_key(name)), Range(alive_key(name)))))).results
        records, alive = (each.records if isinstance(each, RangeResult) else () for each in found)
        if not records:
            raise NodeUnknown(f"there is no node {name}; `unios nodes` lists them")
        record = msgspec.msgpack.decode(records[0].value, type=NodeRecord)
        if record.state == "left":
            return
        if alive:
            raise CallerError(
                f"{name} is there: `unios leave --node {name}` makes it leave in order, `unios leave --expel {name}` cuts it off; "
                "only a lost node is removed with --dead"
            )
        others = [each for each in node.nodes.values.values() if each.machine == record.machine and each.name != name and each.state == "joined"]
        if node.system.engine == SQLITE and record.machine == node.system.store_machine and not others:
            raise CallerError(f"{name} is the last node of the machine that keeps the system's store, and cannot be removed")
        left = msgspec.structs.replace(record, state="left", stopped=True)
        event = node.events.put("node", f"{name} was removed from the system: its certificate is refused from now on")
        compares = (Compare(records[0].key, "modified", "==", records[0].modified), Compare(alive_key(name), "version", "==", 0))
        if (await node.store.transact(Transaction(compares, (Put(records[0].key, msgspec.msgpack.encode(left)), event)))).succeeded:
            return
    raise Unavailable(f"{name} comes and goes: try again")
