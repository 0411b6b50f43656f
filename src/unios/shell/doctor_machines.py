"""Checks of what is between machines: the port that others need, clocks, releases, and whether the nodes are there after a reboot."""

from collections.abc import Iterator
from pathlib import Path

from unios import __version__
from unios.client.firewall import opening
from unios.counted import counted
from unios.limits import CLOCK_OFFSET_MS_MAX
from unios.shell.doctor_nodes import Asked, local
from unios.shell.enable import installed
from unios.shell.finding import Finding
from unios.shell.session import Session
from unios.wire.operations import LinkView, NodeInfo

_LOOPBACKS = ("127.", "[::1]", "localhost:")
_NTP = "timedatectl set-ntp true"


def of_machines(session: Session, answers: dict[str, Asked]) -> Iterator[Finding]:
    """Yield findings about the nodes of this machine that other machines reach; nothing for those that are for this machine alone."""
    outer = False
    for name in local(session):
        view, links, _failure, _known = answers[name]
        if view is None:
            continue  # the check of the node has said so
        if not view.addresses or view.addresses[0].startswith(_LOOPBACKS):
            continue
        outer = True
        yield port(view)
        yield from clocks(view, links)
        yield from releases(view, links)
    if outer:
        yield reboot(session)


def port(view: NodeInfo, root: Path = Path("/")) -> Finding:
    """Say where others reach the node, and whether a firewall that can be seen keeps them out."""
    number = int(view.addresses[0].rpartition(":")[2])
    found = f"{', '.join(view.addresses)} (TCP port {number})"
    command = opening(number, root)
    if not command:
        return Finding(f"links of {view.name}", found)
    costs = "if the firewall of this machine drops that port, links are made from this side only, and two such machines need a third between them"
    return Finding(f"links of {view.name}", found, costs, "let it in", command=command, as_root=True)


def clocks(view: NodeInfo, links: tuple[LinkView, ...]) -> Iterator[Finding]:
    """Yield one finding for the other nodes' clocks together."""
    known = [link for link in links if link.up]
    far = [link for link in known if abs(link.clock_ms) - link.clock_doubt_ms > CLOCK_OFFSET_MS_MAX]
    if not known:
        return
    if not far:
        yield Finding(f"clocks seen by {view.name}", f"within {CLOCK_OFFSET_MS_MAX // 1000} s of {counted(len(known), 'other node')}")
        return
    found = ", ".join(f"{link.node} {abs(link.clock_ms) / 1000:,.0f} s {'ahead' if link.clock_ms > 0 else 'behind'}" for link in far)
    costs = "times in `ps` and `events` mislead; nothing of unios depends on them"
    yield Finding(f"clocks seen by {view.name}", found, costs, f"on the machine that is wrong: {_NTP}")


def releases(view: NodeInfo, links: tuple[LinkView, ...]) -> Iterator[Finding]:
    """Yield a finding if another release of unios runs at the other end of a link."""
    other = [f"{link.node} {link.version}" for link in links if link.version and link.version != __version__]
    if other:
        yield Finding(
            f"releases seen by {view.name}",
            ", ".join(other),
            f"{view.name} is {__version__}: what is new in one is not in the other",
            "upgrade the older",
        )


def reboot(session: Session) -> Finding:
    """Say whether systemd starts the nodes after a reboot."""
    path = installed(session)
    if path is not None:
        return Finding("reboot", f"{path} starts the nodes")
    return Finding(
        "reboot",
        "nothing starts the nodes",
        "after a reboot this machine is missing until somebody types `unios up`",
        "unios enable",
        command="unios enable",
    )
