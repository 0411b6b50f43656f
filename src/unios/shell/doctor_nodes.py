"""Checks of nodes: each of this machine, or the one named, is asked what it found and how it stands. All are asked at the same time, and share a deadline."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from unios.client.connection import Connection
from unios.errors import NotFound, UniosError
from unios.shell.finding import Finding
from unios.shell.session import Session
from unios.wire.operations import Empty, LinkView, NodeInfo

PATIENCE_S = 3.0
"""A node that has not answered by then is said not to: the doctor does not wait for one to come back."""
TOLD_S: Final = 0.5
"""After so long the person is told who is waited for."""


class Asked(NamedTuple):
    """What one node has answered: what it is and its links, or why there is no answer."""

    view: NodeInfo | None
    links: tuple[LinkView, ...] = ()
    failure: str = ""
    known: bool = True
    """False if the system has no node of that name."""


def local(session: Session) -> list[str]:
    """Return the names of this machine's nodes."""
    return [folder.name for folder in session.home.nodes()]


def ask(session: Session) -> dict[str, Asked]:
    """Return the answers of this machine's nodes and of the one that was named. Takes PATIENCE_S at most, however many are silent."""
    names = list(dict.fromkeys([*([session.node] if session.node else []), *local(session)]))
    came: queue.SimpleQueue[tuple[str, Asked]] = queue.SimpleQueue()
    for name in names:  # as daemons: who is silent keeps no command from ending
        threading.Thread(target=lambda name=name: came.put((name, _ask(session, name))), daemon=True).start()
    answers: dict[str, Asked] = {}
    begun, told = time.monotonic(), False
    while len(answers) < len(names):
        passed = time.monotonic() - begun
        if passed >= PATIENCE_S:
            break
        try:
            name, asked = came.get(timeout=max(0.0, (PATIENCE_S if told else TOLD_S) - passed))
            answers[name] = asked
        except queue.Empty:
            if not told and not session.json:
                session.note(f"waiting for {', '.join(each for each in names if each not in answers)}, for at most {PATIENCE_S:g} s")
            told = True
    return {name: answers.get(name, Asked(None, failure=f"{name} has not answered within {PATIENCE_S:g} s")) for name in names}


def _ask(session: Session, name: str) -> Asked:
    try:
        with Connection(session.home.path, name) as connection:
            view: NodeInfo = connection.call("node.info", Empty(), NodeInfo, timeout_s=PATIENCE_S)
            links: tuple[LinkView, ...] = connection.call("node.links", Empty(), tuple[LinkView, ...], timeout_s=PATIENCE_S)
            return Asked(view, links)
    except UniosError as error:
        return Asked(None, failure=str(error), known=not isinstance(error, NotFound))


def of_nodes(session: Session, answers: dict[str, Asked]) -> Iterator[Finding]:
    """Yield a finding for each node of this machine, or for the one that was named."""
    for name in [session.node] if session.node else local(session):
        view, _links, failure, known = answers[name]
        if not known and session.node:  # one of this machine that its system does not know (yet) is another matter
            yield Finding(f"node {name}", failure, "nothing can be asked of it", "unios nodes lists those that there are", True)
            continue
        if view is None:
            yield Finding(f"node {name}", failure, "it does nothing", "unios up, and look into its log folder", bool(session.node))
            continue
        bounded, namespaces = ", ".join(view.bounded) or "nothing", "work" if view.namespaces else "refused"
        parts = f"freezer {view.freezer}, bounds {bounded}, namespaces {namespaces}, store {view.store}"
        ill = [f"{part.name} is {part.state}: {part.reason}" for part in view.services if part.state != "running"]
        if view.lease_ms < 0:
            ill.append("it is cut off from the store: its processes are frozen")
        yield Finding(f"node {name}", parts, "; ".join(ill), "unios events says since when" if ill else "")
