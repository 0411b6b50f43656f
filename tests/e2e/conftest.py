"""One system for the tests that leave it whole, one each for those that break it."""

from collections.abc import Iterator

import pytest

from tests.e2e.embedding import Programs
from tests.e2e.system import System


@pytest.fixture(scope="module")
def whole() -> Iterator[System]:
    """Three nodes that no test of the module may break."""
    with System() as system:
        system.unios("up", "--nodes", "3")
        yield system


@pytest.fixture
def fresh() -> Iterator[System]:
    """Three nodes for one test to break."""
    with System() as system:
        system.unios("up", "--nodes", "3")
        yield system


@pytest.fixture
def programs() -> Iterator[Programs]:
    """Programs of a user for whom no system runs; what they leave is ended."""
    made = Programs()
    try:
        yield made
    finally:
        made.close()
