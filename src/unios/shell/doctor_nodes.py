"""Checks of nodes: each of this machine, or the one named, is asked what it found and how it stands."""

from collections.abc import Iterator

from unios.client.connection import Connection
from unios.errors import UniosError
from unios.shell.finding import Finding
from unios.shell.session import Session
from unios.wire.operations import Empty, NodeInfo

PATIENCE_S = 3.0
"""A node that has not answered by then is said not to: the doctor does not wait for one to come back."""


def of_nodes(session: Session) -> Iterator[Finding]:
    """Yield a finding for each node of this machine, or for the one that was named."""
    names = [session.node] if session.node else [folder.name for folder in session.home.nodes()]
    for name in names:
        with Connection(session.home.path, name) as connection:
            try:
                view: NodeInfo = connection.call("node.info", Empty(), NodeInfo, timeout_s=PATIENCE_S)
            except UniosError as error:
                yield Finding(f"node {name}", str(error), "it does nothing", "unios up, and look into its log folder", bool(session.node))
                continue
        bounded, namespaces = ", ".join(view.bounded) or "nothing", "work" if view.namespaces else "refused"
        parts = f"freezer {view.freezer}, bounds {bounded}, namespaces {namespaces}, store {view.store}"
        ill = [f"{part.name} is {part.state}: {part.reason}" for part in view.services if part.state != "running"]
        if view.lease_ms < 0:
            ill.append("it is cut off from the store: its processes are frozen")
        yield Finding(f"node {name}", parts, "; ".join(ill), "unios events says since when" if ill else "")
