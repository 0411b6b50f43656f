"""Warnings of links: what a node's connections say about the other machines: clocks, versions, who is not reached. Sentences for `unios status`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from unios import __version__
from unios.core.addresses import is_loopback, split_address
from unios.core.clocks import far_apart
from unios.core.nodes import node_key
from unios.kernel.clocks import boot_ms

if TYPE_CHECKING:
    from unios.kernel.node import Node

CLOCK_MEND = "nothing of unios depends on it, but times in `ps` and `events` do; mend it with: timedatectl set-ntp true"


def link_notes(node: "Node") -> Iterator[str]:
    """Yield where this node is reached, if other machines reach it; and what the others run, if that differs."""
    outer = [address for address in node.addresses.all if not is_loopback(split_address(address)[0])]
    if outer:
        yield f"{node.name} takes links from other machines at {', '.join(outer)}: a firewall has to let that one TCP port in"
    joined = [record for record in node.nodes.values.values() if record.state == "joined" and not record.stopped]
    releases = sorted({record.release or record.version for record in joined})
    if len(releases) > 1:
        each = "; ".join(
            f"{release} on {', '.join(sorted(one.name for one in joined if (one.release or one.version) == release))}" for release in releases
        )
        yield f"nodes run different releases, which understand each other ({each}): `unios upgrade` on the machine of the older ones"


def link_warnings(node: "Node") -> Iterator[str]:
    """Yield one sentence for each thing that is odd."""
    clocks: set[str] = set()
    for link in node.links.statistics():
        record = node.nodes.values.get(node_key(link.peer))
        if record is None or record.state == "left":
            continue
        text = far_apart(link.peer, node.name, link.clock_ms, link.clock_doubt_ms)
        if text and record.machine not in clocks:  # nodes of one machine share its clock
            clocks.add(record.machine)
            yield f"{text}: {CLOCK_MEND}"
        if link.up and link.version and link.version != __version__:
            yield f"{link.peer} runs unios {link.version} and {node.name} {__version__}: they understand each other; upgrade the older before long"
        settling = node.membership.is_settling(link.peer, boot_ms())
        if not link.up and not settling and node.membership.view(link.peer)[0] == "ready" and link.reason != "no link yet":
            yield f"{node.name} has no link to {link.peer}: {link.reason}"
