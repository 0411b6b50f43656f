"""The service `files` of one node. So far it does nothing."""

from collections.abc import Callable

from unios.wire.home import NodeFolder


def main(_folder: NodeFolder, _beat: Callable[[], None]) -> int:
    """Be the service of one node."""
    return 0
