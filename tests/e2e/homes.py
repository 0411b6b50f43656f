"""A system over several UNIOS_HOMEs, each a machine of its own to unios: what a test needs that cuts one off, and no network of its own."""

import json
from pathlib import Path

from tests.e2e.system import System
from unios.client import nodes
from unios.client.connection import Connection
from unios.wire.home import Home
from unios.wire.operations import LinkView


def home_of(system: System) -> Home:
    return Home(Path(system.env["UNIOS_HOME"]))


def token(system: System) -> str:
    """Return a token that lets in a machine with all rights that this system can give."""
    made = json.loads(system.unios("join", "--root", "--json", check=False).stdout or b"{}")
    return str((made if "token" in made else system.json("join"))["token"])


def join(system: System, other: System, name: str) -> System:
    """Make another home a member, under that name."""
    other.unios("join", token(system), "--name", name)
    return other


def links(system: System) -> dict[str, LinkView]:
    """Return the links of the node of that home, by the other side."""
    with Connection(home_of(system).path) as connection:
        return {link.node: link for link in nodes.links(connection)}
