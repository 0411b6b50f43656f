"""The quorum: which nodes have a member of the system's own etcd. Decides one step at a time; services/quorum.py takes it and looks again.

Interface: `decide(nodes, members)` -> the next step, or None. Invariants:
- a member is added as a learner and votes only once it has caught up, so that no step lessens what the cluster may lose;
- there are three voters, or one where fewer than three nodes can have one: two could lose none, as one, and stop for either;
- a voter is taken away only while the others can decide without it, one that is out of the system or lost for LOST_MS before any that is there;
- one that does not answer counts as away, whatever its node says;
- members spread over machines before two share one.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

VOTERS: Final = 3
LOST_MS: Final = 60_000
"""So long a lost node keeps its member: it may come back, and bring its copy. Then another node gets one, if there is one to get it."""
ILL_MS: Final = 60_000
"""So long a member that does not answer, on a node that is there, keeps its place when another node can have it."""
ILL_ALONE_MS: Final = 300_000
"""So long if none can: a person may be mending it. Then it is begun anew where it was, with the copy of the others."""
LEARNS_MS: Final = 600_000
"""So long a learner may take to catch up, with 4 GB over a slow line; then another node is tried, as no other change is made meanwhile."""
PREFIX: Final = "/quorum/"
LEAVING: Final = "/leaving/"
"""Below it, attached to its lease, a node that has been told that it may leave: who decides next counts it as gone."""
CHANGES: Final = "/changes-of-members"
"""Written with each decision that lessens the members; who decides compares it with what it was before he looked, so that decisions are one after the other."""


class QuorumRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """At /quorum/<node>: that node has a member of etcd, or shall have one, or, with `wanted` false, shall take it down and delete the record."""

    node: str
    client: str
    """Where gateways ask it, https://host:port."""
    initial: dict[str, str] = {}
    """Name -> URL of the members when it was added, itself among them."""
    wanted: bool = True
    member: int = 0
    """etcd's number of it: one that was taken out and added again at the same place is another."""


class Candidate(NamedTuple):
    """A node as far as it could have a member. `absent_ms`: for how long it is not there, 0 if it is."""

    name: str
    machine: str
    peer: str
    """Where its member takes other members, https://host:port; empty: it can have none."""
    client: str
    absent_ms: int = 0
    gone: bool = False
    """It has left the system."""
    failed: bool = False
    """Its member did not catch up, or fell ill: any other goes before."""
    leaving: bool = False
    """It may be gone in a moment."""


class Member(NamedTuple):
    """A member as etcd lists it; nameless until it has started."""

    id: int
    name: str
    peer: str
    learner: bool = False
    waits_ms: int = 0
    """Of a learner: for how long it has been one."""
    ill_ms: int = 0
    """For how long it has not answered; 0: it does."""


class Step(NamedTuple):
    """`what`: add the node's member as a learner; have a learner vote; remove a member; give a member its node's new address."""

    what: Literal["add", "promote", "remove", "move"]
    node: str
    why: str
    member: int = 0


def record_key(node: str) -> str:
    return PREFIX + node


def decide(nodes: Iterable[Candidate], members: Sequence[Member]) -> Step | None:
    """Return what is to be done next."""
    known = {node.name: node for node in nodes}
    by_peer = {node.peer: node.name for node in known.values() if node.peer}
    names = {member.id: member.name or by_peer.get(member.peer, "") for member in members}
    fit = [node for node in known.values() if node.peer and not node.gone]
    present = [node for node in fit if _is_there(node)]
    learners = [member for member in members if member.learner]
    voters = [member for member in members if not member.learner]
    alive = [member for member in voters if (node := known.get(names[member.id])) and _is_there(node) and not member.ill_ms]
    size = VOTERS if len(fit) >= VOTERS else 1

    for member in members:
        node = known.get(names[member.id])
        if node is not None and not node.gone and node.peer and node.peer != member.peer:
            return Step("move", node.name, f"{node.name} is reached at {node.peer} from now on", member.id)
    if learners:
        return _learner(learners[0], known, names)
    if (step := _leave(voters, alive, known, names, present)) is not None:
        return step
    if len(voters) < size and len(alive) * 2 > len(voters):
        return _add(present, voters, known, names)
    if len(voters) > size and len(alive) == len(voters):
        last = max(voters, key=lambda member: names[member.id])
        return Step("remove", names[last.id], f"{len(fit)} nodes are left that can have one", last.id)
    return None


def _is_there(node: Candidate) -> bool:
    return not (node.gone or node.absent_ms or node.leaving)


def _learner(learner: Member, known: dict[str, Candidate], names: dict[int, str]) -> Step | None:
    node = known.get(names[learner.id])
    if node is None or not _is_there(node):
        return Step("remove", names[learner.id], "it went away before its member had caught up", learner.id)
    if learner.waits_ms >= LEARNS_MS:
        return Step("remove", node.name, f"its member has not caught up in {learner.waits_ms // 1000} s; see member.log there", learner.id)
    if learner.ill_ms:  # etcd would take one that had caught up and died since: of two voters it would be the one that stops both
        return None
    return Step("promote", node.name, "its member has caught up", learner.id)


def _leave(
    voters: Sequence[Member], alive: Sequence[Member], known: dict[str, Candidate], names: dict[int, str], present: Sequence[Candidate]
) -> Step | None:
    """Return the removal of a member that does not come back, or that keeps another machine from having one."""
    holders = {names[member.id] for member in voters}
    spare = [node for node in present if node.name not in holders]
    for member in voters:
        name = names[member.id]
        node = known.get(name)
        rest = [other for other in alive if other.id != member.id]
        if not rest or len(rest) * 2 <= len(voters):  # of all that vote now, since the removal itself is decided among them
            continue
        if node is None or node.gone:
            return Step("remove", name, f"{name or 'its node'} has left the system", member.id)
        if node.absent_ms >= LOST_MS and spare:
            return Step("remove", name, f"{name} has been lost for {node.absent_ms // 1000} s, and {spare[0].name} can have one", member.id)
        if not node.absent_ms and not node.leaving and (step := _cure(member, node, spare)) is not None:
            return step
    return _spread(voters, alive, known, names, spare)


def _cure(member: Member, node: Candidate, spare: Sequence[Candidate]) -> Step | None:
    """Return the removal of a member that is ill on a node that is there: then another node gets one, or else that node a new one, once."""
    said = f"its member has not answered for {member.ill_ms // 1000} s"
    if member.ill_ms >= ILL_MS and spare:
        return Step("remove", node.name, f"{said}, and {spare[0].name} can have one; see member.log there", member.id)
    if member.ill_ms >= ILL_ALONE_MS and not node.failed:
        return Step("remove", node.name, f"{said}: it gets a new one; see member.log there", member.id)
    return None


def _spread(
    voters: Sequence[Member], alive: Sequence[Member], known: dict[str, Candidate], names: dict[int, str], spare: Sequence[Candidate]
) -> Step | None:
    if len(voters) < VOTERS or len(alive) < len(voters):
        return None
    machines = [known[names[member.id]].machine for member in voters]
    fresh = next((node for node in spare if node.machine not in machines and not node.failed), None)
    double = next((member for at, member in enumerate(voters) if machines[at] in machines[:at]), None)
    if fresh is None or double is None:
        return None
    return Step("remove", names[double.id], f"two members share one machine, and {fresh.name} is on another", double.id)


def _add(present: Sequence[Candidate], voters: Sequence[Member], known: dict[str, Candidate], names: dict[int, str]) -> Step | None:
    holders = {names[member.id] for member in voters}
    machines = {known[name].machine for name in holders if name in known}
    able = [node for node in present if node.name not in holders]
    best = min(able, key=lambda node: (node.failed, node.machine in machines, node.name), default=None)
    return Step("add", best.name, f"{len(voters)} of {VOTERS} have one") if best is not None else None
