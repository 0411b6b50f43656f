"""What programs call: `unios.listen` and `unios.connect`, in the system that the program uses (an embedded one if none runs)."""

from collections.abc import Callable, Mapping
from typing import Any

from unios.client.embedded import system
from unios.client.messages.port import Port
from unios.client.messages.server import Server


def listen(name: str, target: Mapping[str, Callable[..., Any]] | object, *, mode: int = 0o600, node: str = "") -> Server:
    """Open a port and answer on it from now on, in threads of its own, until it is closed or the program ends.

    `target`: functions by name, or any object, whose methods without an underscore in front may be called. `mode`: who may call, as a file's mode says who may
    write: 0o600 this user, 0o666 everybody. A port of that name which this user has open on the node already, in this program or another, is taken over: who
    is connected to it stays there, and it has no new callers, also when this one is closed.
    Raises Denied (the name is another user's), CallerError (no name for a port), Unavailable.
    """
    return Server(name, target, mode=mode, home=system().home, node=node)


def connect(name: str, *, timeout: float | None = None, node: str = "") -> Port:
    """Return a port that somebody listens on, wherever in the system that is; waits up to `timeout` seconds for him (None: as long as it takes).

    Raises NotFound (nobody listens by then), Denied, Unavailable (no node answers).
    """
    return Port(name, home=system().home, node=node, timeout=timeout)
