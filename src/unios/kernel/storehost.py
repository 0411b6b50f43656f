"""Hosts the embedded store's process: the supervisor starts it here; what it does is in store/server.py."""

from collections.abc import Callable

from unios.kernel import parts
from unios.store import server
from unios.wire.home import Home, NodeFolder


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Serve the store of this machine; 0 if another process does already."""
    return server.main(Home(parts.home_of(folder)).store, beat)
