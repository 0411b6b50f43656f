"""A member of etcd for one test; named in the conftest.py of the folders whose tests want one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.engines import EtcdMember


@pytest.fixture
def member(tmp_path: Path) -> Iterator[EtcdMember]:
    made = EtcdMember(tmp_path)
    yield made
    made.stop()
