"""A scripted kernel and a connection to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.scripted import ScriptedKernel
from unios.client.connection import Connection


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[ScriptedKernel]:
    scripted = ScriptedKernel(tmp_path)
    yield scripted
    scripted.close()


@pytest.fixture
def connection(kernel: ScriptedKernel, tmp_path: Path) -> Iterator[Connection]:
    with Connection(tmp_path) as made:
        yield made
