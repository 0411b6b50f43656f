"""Membership: which nodes are ready, suspect, lost or gone, as one observer sees it. A broken link is news, an ended lease is proof.

Interface: `Membership(me).on(event)` -> what has become of a node. The store ends leases by its own clock; an observer needs none. Invariants:
a node is lost only when its lease has ended (never for a broken link), once per incarnation; `left` is for good until it joins again; a link that broke in
an earlier incarnation says nothing of a later one. `now_ms` of events is any clock that runs on; it decides nothing but what is too young to need a person.
"""

from typing import Literal

import msgspec

from unios.limits import SETTLE_MS

NodeState = Literal["ready", "suspect", "lost", "left"]


class NodeChanged(msgspec.Struct, frozen=True, tag="node"):
    """The record of a node: its incarnation and whether it has left; incarnation 0: there is none."""

    name: str
    incarnation: int
    left: bool
    now_ms: int = 0


class AliveChanged(msgspec.Struct, frozen=True, tag="alive"):
    """The node's lease stands for `incarnation`; 0: it has ended."""

    name: str
    incarnation: int
    now_ms: int = 0


class LinkChanged(msgspec.Struct, frozen=True, tag="link"):
    """This observer's own link to the node."""

    name: str
    up: bool
    reason: str = ""
    now_ms: int = 0


class BecameReady(msgspec.Struct, frozen=True, tag="ready"):
    name: str
    incarnation: int


class BecameSuspect(msgspec.Struct, frozen=True, tag="suspect"):
    name: str
    reason: str


class BecameLost(msgspec.Struct, frozen=True, tag="lost"):
    """Whoever wants may claim what the node held."""

    name: str
    incarnation: int


class BecameLeft(msgspec.Struct, frozen=True, tag="left"):
    name: str


Event = NodeChanged | AliveChanged | LinkChanged
Change = BecameReady | BecameSuspect | BecameLost | BecameLeft


class _Node:
    __slots__ = ("alive", "incarnation", "left", "link", "linked_ms", "reason", "since_ms", "state")

    def __init__(self) -> None:
        self.incarnation = 0
        self.alive = 0
        self.left = False
        self.link: bool | None = None
        self.reason = ""
        self.state: NodeState | None = None
        self.since_ms = self.linked_ms = 0
        """When its lease came or went or a link that had lasted broke; when its link came."""


class Membership:
    """The nodes of a system, seen from `me`."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._nodes: dict[str, _Node] = {}

    def on(self, event: Event) -> list[Change]:
        """Take in an event, return what has changed by it."""
        node = self._nodes.setdefault(event.name, _Node())
        match event:
            case NodeChanged(_name, incarnation, left):
                if incarnation > node.incarnation and node.link is False:
                    node.link, node.reason = None, ""
                node.incarnation, node.left = incarnation, left
            case AliveChanged(_name, incarnation, now_ms):
                if incarnation != node.alive:
                    node.since_ms = now_ms
                node.alive = incarnation
            case LinkChanged(_name, up, reason, now_ms):
                if up and not node.link:
                    node.linked_ms = now_ms
                elif not up and node.link and now_ms - node.linked_ms >= SETTLE_MS:  # one that comes and goes is no passing trouble
                    node.since_ms = now_ms
                node.link, node.reason = up, reason
        return self._judge(event.name, node)

    def _judge(self, name: str, node: _Node) -> list[Change]:
        if node.incarnation == 0:  # its record is not known yet, or not any more; its lease may be told first
            node.state = None
            return []
        before, node.state = node.state, _state(node, name == self._me)
        if node.state == before:
            return []
        match node.state:
            case "ready":
                return [BecameReady(name, node.incarnation)]
            case "suspect":
                return [BecameSuspect(name, node.reason)]
            case "lost":
                return [BecameLost(name, node.incarnation)]
            case _:
                return [BecameLeft(name)]

    def view(self, name: str) -> tuple[NodeState, str]:
        """Return a node's state and why, for people."""
        node = self._nodes.get(name)
        if node is None or node.state is None:
            return "lost", "its lease has not been seen"
        reasons = {"lost": "its lease has ended", "suspect": node.reason or "the link to it is broken", "left": "it left", "ready": ""}
        return node.state, reasons[node.state]

    def is_settling(self, name: str, now_ms: int) -> bool:
        """Return whether the node's lease or link came or went so lately that a link which is missing is being made just now."""
        node = self._nodes.get(name)
        return node is not None and now_ms - node.since_ms < SETTLE_MS

    def names(self, *states: NodeState) -> list[str]:
        """Return the nodes that are in one of these states."""
        return sorted(name for name, node in self._nodes.items() if node.state in states)


def _state(node: _Node, is_me: bool) -> NodeState:
    if node.left:
        return "left"
    if not node.alive or node.alive < node.incarnation:
        return "lost"
    return "suspect" if node.link is False and not is_me else "ready"
