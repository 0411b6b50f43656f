"""UNIOS_HOME: where a machine keeps its state, and where the doors are. Paths only; ARCHITECTURE.md explains each file.

The first functions do without pathlib, whose import is a tenth of a short command.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from unios.errors import Denied


def default_home() -> str:
    """Return the UNIOS_HOME that the environment names, else ~/.unios."""
    return os.path.abspath(os.environ.get("UNIOS_HOME") or os.path.expanduser("~/.unios"))


def node_names(home: str) -> list[str]:
    """Return the names of this machine's nodes, sorted. PermissionError if this user may not see them."""
    folder = f"{home}/nodes"
    try:
        names = sorted(os.listdir(folder), key=lambda name: (len(name), name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name for name in names if os.path.exists(f"{folder}/{name}/node.json")]


def closed(home: str) -> "Denied":
    """Return what to raise where `node_names` was refused."""
    from unios.errors import Denied

    return Denied(
        f"the nodes in {home} are another user's, who alone can list them: name one to talk to, as in `unios --node n1 ps`; "
        "for a program, UNIOS_NODE=n1 in its environment does it"
    )


def door_of(home: str, name: str) -> str:
    """Return the path of a node's socket for clients."""
    return f"{home}/nodes/{name}/kernel.sock"


class NodeFolder:
    """The folder of one node."""

    __slots__ = ("name", "path")

    def __init__(self, path: "Path") -> None:
        self.path = path
        self.name = path.name

    @property
    def door(self) -> "Path":
        """The kernel's socket for clients."""
        return self.path / "kernel.sock"

    @property
    def guard_door(self) -> "Path":
        return self.path / "guard.sock"

    @property
    def run(self) -> "Path":
        return self.path / "run"

    @property
    def log(self) -> "Path":
        return self.path / "log"

    @property
    def trees(self) -> "Path":
        return self.path / "trees"

    @property
    def lease(self) -> "Path":
        return self.path / "lease"

    @property
    def beats(self) -> "Path":
        return self.path / "beats"

    @property
    def node_file(self) -> "Path":
        return self.path / "node.json"

    @property
    def exits(self) -> "Path":
        """Where inits leave exit notes for the kernel."""
        return self.path / "exits"

    @property
    def ready(self) -> "Path":
        """Holds the kernel's pid once the node is registered."""
        return self.run / "ready"


class Home:
    """One UNIOS_HOME."""

    __slots__ = ("path",)

    def __init__(self, path: "Path") -> None:
        self.path = path

    @classmethod
    def default(cls) -> "Home":
        """Return the one that the environment names, else ~/.unios."""
        from pathlib import Path

        return cls(Path(default_home()))

    @property
    def system_file(self) -> "Path":
        return self.path / "system.json"

    @property
    def unfinished(self) -> "Path":
        """What is known of an `up` that has not ended."""
        return self.path / "up.json"

    @property
    def ca(self) -> "Path":
        return self.path / "ca"

    @property
    def store(self) -> "Path":
        return self.path / "store"

    @property
    def nodes_folder(self) -> "Path":
        return self.path / "nodes"

    def node(self, name: str) -> NodeFolder:
        return NodeFolder(self.nodes_folder / name)

    def nodes(self) -> list[NodeFolder]:
        """Return the folders of this machine's nodes, by name. Denied if this user may not see them."""
        try:
            return [self.node(name) for name in node_names(os.fspath(self.path))]
        except PermissionError as error:
            raise closed(os.fspath(self.path)) from error
