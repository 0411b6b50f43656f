"""What a node shows of its parts: what dies again and again is a problem, but a member of etcd that the others are letting go."""

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from unios.kernel.node import Node
from unios.kernel.quorum_member import MemberFile
from unios.wire.home import Home


@pytest.mark.parametrize("leaving", [True, False])
def test_a_member_that_is_leaving_may_die(leaving: bool, tmp_path: Path) -> None:
    folder = Home(tmp_path).node("n1")
    folder.run.mkdir(parents=True)
    parts = [{"name": name, "pid": 0, "state": "waiting", "restarts": 2, "reason": "it died"} for name in ("member", "placement")]
    (folder.run / "parts").write_text(json.dumps(parts))
    node = SimpleNamespace(folder=folder)
    assert [view.name for view in Node.parts(node)] == ["member", "placement"]  # type: ignore[arg-type]
    (folder.path / "etcd").mkdir()
    path = folder.path / "etcd" / "member.json"
    path.write_bytes(b"damaged")
    assert len(list(Node.parts(node))) == 2  # type: ignore[arg-type]
    path.write_bytes(msgspec.json.encode(MemberFile("n1", "https://a:1", "https://a:2", {}, leaving=leaving)))
    assert [view.name for view in Node.parts(node)] == ["placement"] if leaving else ["member", "placement"]  # type: ignore[arg-type]
