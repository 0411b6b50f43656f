"""Nodes: what there is of them and how they are told to go. All reads are idempotent and are asked again after a kernel's death."""

from unios.client.connection import Connection
from unios.client.store import REKEY_TIMEOUT_S
from unios.limits import LEAVE_TIMEOUT_MS
from unios.wire.expelling import Expel, Expelled
from unios.wire.operations import Empty, Leave, LinkView, MakeToken, NodeInfo, NodeUsage, NodeView, RemoveNode, SystemView, Token


def list_nodes(connection: Connection) -> tuple[NodeView, ...]:
    """Return every node of the system, sorted by name."""
    views: tuple[NodeView, ...] = connection.ask("node.list", Empty(), tuple[NodeView, ...])
    return views


def info(connection: Connection) -> NodeInfo:
    """Return what the node at the other end is."""
    view: NodeInfo = connection.ask("node.info", Empty(), NodeInfo)
    return view


def usage(connection: Connection, node: str = "") -> NodeUsage:
    """Return what a node's machine and its processes use now, at the cost of one request; without `node` that at the other end."""
    if not node:
        return connection.ask("node.usage", Empty(), NodeUsage)  # type: ignore[no-any-return]
    view: NodeUsage = connection.persist(lambda: connection.channel().call("node.usage", Empty(), NodeUsage, node=node))
    return view


def status(connection: Connection) -> SystemView:
    """Return the system at a glance."""
    view: SystemView = connection.ask("node.status", Empty(), SystemView)
    return view


def links(connection: Connection) -> tuple[LinkView, ...]:
    """Return the links of the node at the other end."""
    views: tuple[LinkView, ...] = connection.ask("node.links", Empty(), tuple[LinkView, ...])
    return views


def make_token(connection: Connection, *, ttl_s: int = 0, root: bool = False) -> Token:
    """Return a token that admits one machine, once, for `ttl_s` seconds (0: the default). Not idempotent.

    `root`: the machine's root may act as root in the whole system; else it acts for other users only.
    """
    token: Token = connection.call("node.token", MakeToken(ttl_s, root), Token)
    return token


def leave(connection: Connection, *, force: bool = False) -> None:
    """Make the node leave for good: what it runs is started again elsewhere. `force`: even what cannot run elsewhere ends."""
    connection.call("node.leave", Leave(force), Empty, timeout_s=LEAVE_TIMEOUT_MS / 1000)


def stop(connection: Connection, *, force: bool = False) -> None:
    """Make the node stop; it stays a member and comes back with the next `up`. Idempotent."""
    connection.call("node.stop", Leave(force), Empty, timeout_s=LEAVE_TIMEOUT_MS / 1000)


def remove(connection: Connection, name: str) -> None:
    """Take a lost node out of the system for good. Idempotent. CallerError if it is there."""
    connection.call("node.remove", RemoveNode(name), Empty)


def expel(connection: Connection, name: str) -> Expelled:
    """Cut a node off that is not to be trusted any more; return who has confirmed it. Idempotent."""
    found: Expelled = connection.call("node.expel", Expel(name), Expelled, timeout_s=LEAVE_TIMEOUT_MS / 1000 + REKEY_TIMEOUT_S)
    return found
