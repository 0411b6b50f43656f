"""The pytest plugin: `unios_system`, a small system for a test run. A run that does not ask for it loads nothing of unios but this file.

The system belongs to the process that runs the tests, so each worker of pytest-xdist has its own, and a run that is killed leaves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from unios.client.embedded import System

NODES_DEFAULT = 2
"""The fewest with which something can be on another node."""


def pytest_addoption(parser: pytest.Parser) -> None:
    text = f"how many nodes the system of the fixture unios_system has [default: {NODES_DEFAULT}]"
    parser.getgroup("unios").addoption("--unios-nodes", type=int, default=None, metavar="N", help=text)
    parser.addini("unios_nodes", text, default=str(NODES_DEFAULT))


@pytest.fixture(scope="session")
def unios_system(pytestconfig: pytest.Config) -> Iterator[System]:
    """A unios system of a few nodes on this machine, which UNIOS_HOME names; it is taken away at the end, however the run ends."""
    from unios.client import embedded

    made = embedded.start(_nodes(pytestconfig))
    before = os.environ.get("UNIOS_HOME")
    os.environ["UNIOS_HOME"] = str(made.home)
    try:
        yield made
    finally:
        if before is None:
            os.environ.pop("UNIOS_HOME", None)
        else:
            os.environ["UNIOS_HOME"] = before
        made.close()


def _nodes(config: pytest.Config) -> int:
    """Return how many nodes are asked for; on the command line, else in the ini file. Raises UsageError."""
    from unios.limits import NODES_PER_MACHINE_MAX

    given = config.getoption("--unios-nodes")
    text = str(config.getini("unios_nodes") if given is None else given)
    if not text.strip().isdecimal() or not 1 <= int(text) <= NODES_PER_MACHINE_MAX:
        raise pytest.UsageError(
            f"{text!r} is no number of nodes for unios: choose 1 to {NODES_PER_MACHINE_MAX} (--unios-nodes, or unios_nodes in the ini file)"
        )
    return int(text)
