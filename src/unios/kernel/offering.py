"""Offering: which operation of which group serves what is asked of a kernel by name. Nothing is decided here."""

from typing import TYPE_CHECKING

from unios.kernel.block_operations import BlockOperations
from unios.kernel.log_operations import LogOperations
from unios.kernel.mount_operations import MountOperations
from unios.kernel.node_operations import NodeOperations
from unios.kernel.process_operations import ProcessOperations
from unios.kernel.store_operations import StoreOperations
from unios.kernel.terminal_operations import TerminalOperations
from unios.kernel.usage_operations import UsageOperations

if TYPE_CHECKING:
    from unios.kernel.node import Node


def offer(node: "Node") -> None:
    """Put the operations of all groups into the node's table."""
    ports, processes, nodes = node.port_operations, ProcessOperations(node), NodeOperations(node)
    usages = UsageOperations(node)
    blocks = BlockOperations(node.carrying)
    node.dispatch.offer(blocks_put=blocks.put, blocks_get=blocks.get, blocks_has=blocks.has, blocks_drop=blocks.drop, blocks_list=blocks.list)
    logs = LogOperations(node, node.log_keeping)
    node.dispatch.offer(logs_append=logs.append, logs_read=logs.read, logs_seal=logs.seal, logs_trim=logs.trim, logs_record=logs.record)
    node.dispatch.offer(
        ports_listen=ports.listen,
        ports_connect=ports.connect,
        ports_relay=ports.relay,
        ports_grant=ports.grant,
        ports_revoke=ports.revoke,
        ports_close=ports.revoke,
        processes_spawn=processes.spawn,
        processes_signal=processes.signal,
        processes_wait=processes.wait,
        processes_freeze=processes.freeze,
        processes_thaw=processes.thaw,
        processes_stats=processes.stats,
        processes_renice=processes.renice,
        processes_list=processes.list,
        processes_follow=processes.follow,
        processes_feed=processes.feed,
        processes_results=processes.results,
        node_info=nodes.info,
        node_list=nodes.list,
        node_links=nodes.links,
        node_status=nodes.status,
        node_events=nodes.events,
        node_token=nodes.token,
        node_stop=nodes.stop,
        node_leave=nodes.leave,
        node_remove=nodes.remove,
        node_expel=nodes.expel,
        node_cut=nodes.cut,
        node_certify=node.renewing.certify,
        node_audit=node.auditing.show,
        node_note=node.auditing.written_for,
        node_usage=usages.usage,
        processes_usage=usages.by_user,
    )
    mounts = MountOperations(node.mount_keeping)
    node.dispatch.offer(
        mounts_add=mounts.add,
        mounts_remove=mounts.remove,
        mounts_list=mounts.list,
        mounts_open=mounts.open,
        mounts_note=mounts.note,
        mounts_give=mounts.give,
    )
    stores = StoreOperations(node)
    node.dispatch.offer(store_status=stores.status, store_backup=stores.backup, store_restore=stores.restore)
    node.dispatch.offer(store_move=node.engine_moving.move, store_engine=node.engine_moving.engine, store_forgo=node.gateways.forgo)
    node.dispatch.offer(store_rekey=node.rekeying.rekey, store_keys=node.rekeying.keys)
    terminals = TerminalOperations(node)
    node.dispatch.offer(
        processes_terminal=terminals.terminal,
        processes_attach=terminals.attach,
        processes_exec=terminals.exec,
        processes_reach=terminals.reach,
        processes_offsets=terminals.offsets,
    )
