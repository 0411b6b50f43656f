"""The keys of the system's own etcd are changed while everything goes on: who had the former is let in no more, and who was away gets the new ones."""

import json
import os
import shutil
import signal
import socket
import ssl
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.homes import home_of, join
from tests.e2e.system import System, wait_for
from tests.e2e.test_quorum import keepers, voting
from unios.kernel import cluster

if shutil.which("etcd") is None or find_spec("grpc") is None:
    pytest.skip("etcd or grpcio is not installed", allow_module_level=True)


def connected(url: str, keys: Path) -> ssl.SSLSocket:
    """Connect to a member with a certificate. Raises ssl.SSLError, ConnectionError if it does not let that in."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where a refusal comes with the greeting
    context.load_cert_chain(keys / "etcd-cert.pem", keys / "etcd-key.pem")
    return context.wrap_socket(socket.create_connection((str(host), port or 0), timeout=10))


def let_in(system: System, keys: Path) -> list[str]:
    """Return the doors of all members, those for gateways and those for each other, that let in who has these keys."""
    found = []
    for node in home_of(system).nodes():
        member = json.loads((node.path / "etcd" / "member.json").read_bytes()) if (node.path / "etcd" / "member.json").exists() else {}
        for door in ("peer", "client"):
            if door in member:
                try:
                    connected(member[door], keys).close()
                    found.append(f"{node.name} {door}")
                except (ssl.SSLError, ConnectionError):
                    pass
    return found


def kept(system: System, folder: Path) -> Path:
    """Keep what this machine has of the way into etcd: what it shows, and what it could make with the key of the authority."""
    store = home_of(system).store
    shutil.copytree(store, folder, ignore=shutil.ignore_patterns("sock", "*.lock", "lock"))
    return folder


def rotation(system: System) -> Any:
    return json.loads((home_of(system).store / cluster.FILE).read_bytes()).get("rotation", 0)


def test_keys_are_changed_while_everything_goes_on(tmp_path: Path) -> None:
    with System() as system:
        system.unios("up", "--nodes", "3", "--store", "etcd")
        voting(system, 2)
        former = kept(system, tmp_path / "former")
        assert len(let_in(system, former)) == 6
        member = json.loads((home_of(system).nodes()[0].path / "etcd" / "member.json").read_bytes())
        open_since_before = connected(member["client"], former)
        pids = [system.run_detached("sleep", "1000", options=("--on", node)) for node in ("n1", "n2", "n3")]
        failed: list[str] = []
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                done = system.unios("run", "--", "true", check=False)
                if done.returncode:
                    failed.append(f"{done.returncode}: {done.stderr!r}")

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            assert system.unios("store", "rekey", timeout=180).stdout.startswith(b"the keys of the system's etcd were changed, on n1, n2, n3")
        finally:
            over.set()
            asking.join()
        assert not failed
        assert let_in(system, former) == []
        assert open_since_before.recv(1) == b"", "a connection that was let in before has ended"
        assert len(let_in(system, kept(system, tmp_path / "now"))) == 6 and rotation(system) == 3
        assert [system.process(pid)["incarnation"] for pid in pids] == [1, 1, 1]
        assert keepers(system) == ("n1", "n2", "n3") and not [one for one in system.json("events") if "it hung" in one["text"]]


def test_a_change_whose_kernel_is_killed_is_gone_on_with_and_nobody_is_locked_out(tmp_path: Path) -> None:
    """The first step is on the disk by then, and no member has taken it: shown the next authority's certificates, they would let nobody in any more."""
    with System() as system:
        system.unios("up", "--nodes", "3", "--store", "etcd")
        voting(system, 2)
        former = kept(system, tmp_path / "former")
        asked = threading.Thread(target=lambda: system.unios("store", "rekey", check=False, timeout=180))
        asked.start()
        wait_for(lambda: rotation(system), lambda found: found == 1, "the first step is taken", 60)
        os.kill(json.loads((home_of(system).nodes()[0].run / "kernel.json").read_bytes())["pid"], signal.SIGKILL)
        asked.join()
        assert rotation(system) == 1 and b"`unios store rekey` goes on with it" in system.unios("status").stdout
        wait_for(lambda: system.unios("store", "rekey", check=False, timeout=180), lambda done: done.returncode == 0, "the keys are changed", 120)
        assert rotation(system) == 6 and let_in(system, former) == []
        assert system.unios("run", "--", "echo", "on").stdout == b"on\n"


def test_a_machine_that_was_away_gets_them_and_one_that_is_expelled_has_none(tmp_path: Path) -> None:
    with System() as first, System() as second, System() as rogue:
        first.unios("up", "--store", "etcd")
        for system, name in ((second, "n2"), (rogue, "rogue")):
            join(first, system, name)
        voting(first, 2)
        second.unios("down")
        first.unios("store", "rekey", timeout=180)
        assert (rotation(first), rotation(second)) == (3, 0)
        second.unios("up", check=False)
        wait_for(lambda: rotation(second), lambda found: found == 3, "n2 has the keys", 60)
        wait_for(lambda: first.unios("store", "status", check=False).returncode, lambda code: code == 0, "all members answer", 60)
        assert second.unios("run", "--on", "n2", "--", "echo", "there").stdout == b"there\n"

        known = kept(rogue, tmp_path / "known")
        assert let_in(first, known)
        done = first.unios("leave", "--expel", "rogue", timeout=180)
        assert b"the keys of the system's etcd were changed, on n1, n2" in done.stderr
        made = tmp_path / "made"
        made.mkdir()
        cluster.issue(cluster.Cluster(**json.loads((known / cluster.FILE).read_bytes())), "gateway", (), made)
        for keys in (known, made):
            assert let_in(first, keys) == [] and let_in(second, keys) == []
        assert rotation(rogue) == 3 and rotation(first) == rotation(second) == 6
        assert first.unios("run", "--", "echo", "on").stdout == b"on\n"
