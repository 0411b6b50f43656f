"""Which engine the store's process of a machine begins."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unios.errors import DataLost, Unavailable
from unios.kernel import boot, certificates, cluster, storehost, system
from unios.kernel.cluster import Cluster
from unios.kernel.system import SystemFile
from unios.wire.home import Home, NodeFolder


def home_with(folder: Path, engine: str, *, gateway: bool) -> Home:
    made = Home(folder)
    system.write(made.system_file, SystemFile("s", "m", engine, "m", "m", gateway=gateway))
    return made


def test_what_an_attempt_with_etcd_left_behind_makes_no_gateway_of_an_embedded_store(tmp_path: Path) -> None:
    home = home_with(tmp_path, system.SQLITE, gateway=False)
    cluster.write(home, Cluster(("10.0.0.1:2379",), "other"))
    assert storehost.which(home) is None


def test_a_gateway_that_lost_what_lets_it_in_begins_no_store_of_its_own(tmp_path: Path) -> None:
    home = home_with(tmp_path, system.ETCD, gateway=True)
    with pytest.raises(DataLost, match="copy it from another machine"):
        storehost.which(home)
    kept = Cluster(("10.0.0.1:2379",), "s")
    cluster.write(home, kept)
    assert storehost.which(home) == kept


def test_a_secret_that_a_full_disk_took_in_part_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    certificates.write_secret(path, b"old")
    monkeypatch.setattr(certificates.os, "write", lambda _descriptor, data: len(data) - 1)
    with pytest.raises(OSError, match="No space"):
        certificates.write_secret(path, b"new one")
    assert path.read_bytes() == b"old"


def test_nodes_that_do_not_get_ready_say_what_the_store_has_said(tmp_path: Path) -> None:
    folder = NodeFolder(tmp_path / "nodes" / "n1")
    folder.run.mkdir(parents=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "failed").write_text("its file is damaged")
    with pytest.raises(Unavailable, match=r"n1 did not get ready within .*: its file is damaged; what"):
        boot._raise_failure([], [folder], time.monotonic() - 1)


def test_gateways_that_begin_at_once_have_one_certificate_and_its_key(tmp_path: Path) -> None:
    """Each node of a machine begins one, and the store's lock decides later: who read the key of one and the certificate of another was let in nowhere."""
    home = home_with(tmp_path, system.ETCD, gateway=True)
    made = cluster.new("s")

    def begin(_number: int) -> tuple[bytes, ...]:
        cluster.address_of(home, made)
        return tuple((home.store / f"etcd-{part}.pem").read_bytes() for part in ("key", "cert", "ca"))

    home.store.mkdir(exist_ok=True)
    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(begin, range(4)))) == 1
