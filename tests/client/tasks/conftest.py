"""The engine that every test has to itself."""

from collections.abc import Iterator

import pytest

from tests.client.tasks.rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(4)
    yield made
    made.close()
