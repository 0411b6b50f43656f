"""Acquaintance: whether the node that shows a certificate may have a link: by the records, and while there are none by what is remembered of them.

Who is cut off from the store has records of before. The other side may have another certificate by now, and may be the only way to the store: so a newer one
of the same machine is taken then, which the system's authority has made, and judged again when the records have been read anew.
"""

from typing import TYPE_CHECKING

from unios.core.nodes import NodeRecord, node_key, rank_of
from unios.core.validity import validity
from unios.kernel.certificates import Identity, mark_der
from unios.kernel.clocks import boot_ms
from unios.kernel.link import Refused

if TYPE_CHECKING:
    from unios.kernel.node import Node


class Acquaintance:
    """That of one kernel with the others."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._made_ms: dict[str, int] = {}
        """By node: when the newest certificate was made that the records have named."""
        self._on_trust: dict[str, tuple[Identity, int]] = {}
        """By hash: certificates that were taken and that no record has named, and since when."""

    def refusal(self, identity: Identity, certificate: bytes) -> Refused | None:
        """Return why there is no link for who shows that certificate (DER, verified), None if there is one."""
        node, name, mark = self._node, identity.node, mark_der(certificate)
        if (refused := node.expelling.refusal(mark)) is not None:
            return refused
        if node.nodes.revision is None:
            if node.system.left.get(name) == mark:
                return Refused(f"{name} has left the system", True)
            return (
                Refused(f"{name} is another machine's node by now") if node.system.machines.get(name, identity.machine) != identity.machine else None
            )
        record = node.nodes.values.get(node_key(name))
        if record is None:
            return None  # it has just been let in: its record is on the way
        refused = _by_record(record, identity, mark)
        made_ms = validity(certificate).made_ms
        if refused is None:
            self._made_ms[name] = max(made_ms, self._made_ms.get(name, 0))
        elif self._may_be_newer(record, identity, made_ms):
            self._on_trust.setdefault(mark, (identity, boot_ms()))
            return None
        return refused

    def _may_be_newer(self, record: NodeRecord, identity: Identity, made_ms: int) -> bool:
        cut_off = self._node.leasing.left_ms() <= 0
        return cut_off and record.state == "joined" and record.machine == identity.machine and made_ms >= self._made_ms.get(identity.node, 0)

    def look_again(self, *, since_ms: int = 0) -> None:
        """The records are of now: cut the links of those who have been trusted for `since_ms` and are not the ones that they name."""
        before = boot_ms() - since_ms
        for mark, (identity, began_ms) in list(self._on_trust.items()):
            record = self._node.nodes.values.get(node_key(identity.node))
            if began_ms <= before and record is not None:
                del self._on_trust[mark]
                if (refused := _by_record(record, identity, mark)) is not None:
                    self._node.links.cut("", frozenset({mark}), refused.why)


def _by_record(record: NodeRecord, identity: Identity, mark: str) -> Refused | None:
    if record.certificate not in ("", mark) and not rank_of(record, mark):
        return Refused(f"the certificate is of an earlier node called {record.name}")
    if record.state == "left":
        return Refused(f"{record.name} has left the system", bool(record.certificate))
    return Refused(f"{record.name} is another machine's node by now") if record.machine != identity.machine else None
