"""A home whose store is embedded, with an etcd beside it that could be asked."""

from pathlib import Path

import pytest

from tests.store.engines import EtcdMember
from tests.store.members import member
from unios.kernel import cluster, system
from unios.kernel.cluster import Cluster
from unios.kernel.system import SQLITE, SystemFile
from unios.wire.home import Home

__all__ = ["home", "member"]


@pytest.fixture
def home(tmp_path: Path, member: EtcdMember) -> Home:
    """One whose store is embedded, and that has an etcd which could be asked."""
    made = Home(tmp_path / "home")
    made.node("n1").path.mkdir(parents=True)
    system.write(made.system_file, SystemFile("s", "here", SQLITE, "here", "here"))
    cluster.write(made, Cluster((f"127.0.0.1:{member.port}",), "s"))
    return made
