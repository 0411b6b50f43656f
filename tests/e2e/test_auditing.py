"""Who did what to the system's safety is written down, survives restarts, is bounded, and cannot be changed unseen."""

import asyncio
import json
import subprocess
from typing import Any

import msgspec
import pytest

from tests.e2e.homes import home_of
from tests.e2e.system import System, wait_for
from tests.e2e.test_ordinary_member import environment, interpreter, missing, run
from unios.core.audit import Entry, key_of
from unios.store.client import StoreClient
from unios.wire.doors import connect_unix
from unios.wire.peer import Peer
from unios.wire.transport import SocketTransport


def log(system: System, code: int = 0) -> dict[str, Any]:
    done = system.unios("events", "--audit", "--json", check=False)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def change(system: System, number: int, what: str) -> None:
    """Rewrite one entry, as somebody with the right to write the store could."""

    async def work() -> None:
        async def connected() -> Peer:
            peer = Peer(SocketTransport(connect_unix(home_of(system).store / "sock", timeout_s=1)), role="test")
            await peer.start()
            return peer

        client = StoreClient(connected)
        try:
            found, _revision = await client.range(key_of(number))
            entry = msgspec.msgpack.decode(found.records[0].value, type=Entry)
            await client.put(
                key_of(number), msgspec.msgpack.encode(msgspec.structs.replace(entry, said=msgspec.structs.replace(entry.said, what=what)))
            )
        finally:
            await client.close()

    asyncio.run(work())


def test_what_is_done_and_refused_is_written_down_and_a_change_of_it_is_seen() -> None:
    with System() as system:
        system.unios("up")
        system.unios("join", "--ttl", "60")
        system.unios("policy", "spread")
        with System() as other:
            token = system.json("join")["token"]
            assert other.unios("join", token[:-8] + "AAAAAAAA", check=False).returncode != 0
        wait_for(lambda: [(e["act"], e["outcome"]) for e in log(system)["entries"]], lambda seen: ("node.token", "done") in seen, "it is written")
        seen = {(entry["act"], entry["outcome"]): entry for entry in log(system)["entries"]}
        assert next(entry["what"] for entry in log(system)["entries"] if entry["act"] == "node.token") == "ttl_s 60"
        assert seen["policy", "done"]["what"] == "the placement policy is spread"

        before = log(system)["entries"]
        system.unios("down", "--all")
        system.unios("up")
        assert log(system)["entries"][: len(before)] == before
        line = system.unios("events", "--audit", "-n", "1").stdout.decode()
        assert line.count("\n") == 1

        change(system, 1, "nothing happened here")
        told = system.unios("events", "--audit", check=False)
        assert told.returncode != 0 and b"entry 1 of the audit log has been changed" in told.stderr, told.stderr


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_who_may_not_is_denied_that_is_written_down_and_he_cannot_read_it() -> None:
    with System() as system:
        system.home.chmod(0o711)
        system.unios("up")
        pid = system.run_detached("sleep", "4713")
        system.wait_process(pid, lambda one: one["state"] == "running", "runs")

        python = interpreter()

        def as_nobody(*words: str) -> "subprocess.CompletedProcess[bytes]":
            env = {**environment(system.home / "none"), "UNIOS_HOME": system.env["UNIOS_HOME"]}
            return run([python, "-m", "unios", "--node", "n1", *words], env=env)

        assert as_nobody("kill", str(pid)).returncode == 77
        assert as_nobody("join").returncode == 77
        assert as_nobody("events", "--audit").returncode == 77
        acts = wait_for(lambda: {(e["user"], e["act"]) for e in log(system)["entries"]}, lambda seen: len(seen) >= 3, "it is written")
        assert acts == {("nobody", "processes.signal"), ("nobody", "node.token"), ("nobody", "node.audit")}
