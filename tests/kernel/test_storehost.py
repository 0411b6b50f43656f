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
    with pytest.raises(Unavailable, match=r"n1 did not get ready within .*: its file is damaged; what .*; it goes on trying: .*`unios down` ends it"):
        boot._raise_failure([], [folder], time.monotonic() - 1)


def test_up_tells_at_once_what_a_store_that_cannot_begin_has_said_and_leaves_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node stays: a backup is restored through it. What was said before this `up` counts for nothing."""
    home = home_with(tmp_path, system.SQLITE, gateway=False)
    known = system.read(home.system_file, SystemFile)
    known.generation = "g"
    system.write(home.system_file, known)
    folder = home.node("n1")
    folder.run.mkdir(parents=True)
    home.store.mkdir()
    killed: list[object] = []
    monkeypatch.setattr(boot.sweep, "kill", killed.append)
    monkeypatch.setattr(boot.unfinished, "check", lambda: None)
    monkeypatch.setattr(boot, "_start", lambda _folder: None)
    monkeypatch.setattr(boot, "READY_S", 0.1)
    (home.store / storehost.LOST).write_text("said long ago")
    with pytest.raises(Unavailable, match="did not get ready"):
        boot._start_all([folder])
    monkeypatch.setattr(boot, "READY_S", 60.0)
    monkeypatch.setattr(boot, "_start", lambda folder: storehost.main(folder, lambda: None))
    began = time.monotonic()
    with pytest.raises(DataLost, match=r"n1 cannot get ready: the store's file .* is gone.*`unios down` ends it"):
        boot._start_all([folder])
    assert time.monotonic() - began < 30 and not killed


def test_what_only_hinders_a_store_for_now_is_not_told_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = home_with(tmp_path, system.SQLITE, gateway=False)
    home.node("n1").run.mkdir(parents=True)
    home.store.mkdir()
    (home.store / storehost.LOST).write_text("said long ago")

    def hindered(*_: object, **__: object) -> int:
        raise Unavailable("its disk is full")

    monkeypatch.setattr(storehost.server, "main", hindered)
    assert storehost.main(home.node("n1"), lambda: None) == Unavailable.exit_code
    assert (home.store / "failed").read_text() == "its disk is full" and not (home.store / storehost.LOST).exists()


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
