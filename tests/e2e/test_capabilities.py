"""Capabilities on three nodes: weakened on one, used on others, and of no use anywhere once they have been revoked. n1 calls, n2 serves, n3 holds."""

import asyncio
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import ports
from tests.e2e.system import System
from unios.aio import capability
from unios.client.messages import capabilities
from unios.client.messages.capabilities import Capability
from unios.client.messages.port import Port
from unios.errors import CallerError, Denied, NotFound, OutcomeUnknown


@contextlib.contextmanager
def running(system: System, what: str, port: str, node: str) -> Iterator["subprocess.Popen[bytes]"]:
    env = {**system.env, "PYTHONPATH": f"{ports.ROOT}/src:{ports.ROOT}", "UNIOS_NODE": node}
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.capable", what, port, node], env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        assert started.stdout is not None and started.stdout.readline() == b"listening\n"
        yield started
    finally:
        ports.stop(started)


@pytest.fixture
def giver(whole: System, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    monkeypatch.setenv("UNIOS_HOME", whole.env["UNIOS_HOME"])
    with running(whole, "give", "notes", "n2") as started:
        yield started


@pytest.fixture
def holder(whole: System, giver: object) -> Iterator[Port]:
    with running(whole, "hold", "holder", "n3"), ports.port(whole, "holder") as port:
        yield port


def first(system: System, timeout: float = 20) -> Capability:
    with ports.port(system, "notes/giver") as port:
        given = port.first()
    assert isinstance(given, Capability)
    return given.options(timeout=timeout)


def test_a_weaker_one_can_do_less_and_is_passed_on_to_another_node(whole: System, holder: Port) -> None:
    with first(whole) as full:
        assert full.call("write", "one") == "n1"
        holder.take("mine", full.derive(operations=["read", "write"]))
        assert holder.use("mine", "write", ["two"]) == "n3"
        weak = holder.weaken("mine", "weak", ["read", "ticks"], None, None).options(timeout=20)
        assert weak.call("read") == ["one", "two"]
        with pytest.raises(Denied, match="does not let you call 'write'"):
            weak.call("write", "three")
        with pytest.raises(Denied, match="does not let you call 'ticks'"):  # not more than what it comes from
            next(weak.stream("ticks"))
        twice = holder.weaken("weak", "twice", None, 2, None).options(timeout=20)
        assert [twice.call("read"), holder.use("twice", "read", [])] == [["one", "two"]] * 2
        for more in (lambda: twice.call("read"), lambda: holder.use("twice", "read", [])):
            with pytest.raises(Denied, match="as often as it may"):
                more()
        over = weak.derive(seconds=0)
        with pytest.raises(Denied, match="is over"):
            over.call("read")
        other = full.derive(user="nobody-of-this-system")
        with pytest.raises(Denied, match="another user's"):
            other.call("read")
        with pytest.raises(Denied, match="another user's"):
            other.derive(user="root")
        assert full.call("read") == ["one", "two"]


def test_a_loop_uses_weakens_passes_on_and_revokes_them_too(whole: System, holder: Port) -> None:
    async def work() -> None:
        async with capability(first(whole)) as full:
            assert await full.call("write", "one") == "n1"
            weak = await full.derive(operations=["read", "ticks"])
            assert [await weak.call("read"), repr(weak)] == [["one"], repr(full)]
            with pytest.raises(Denied, match="does not let you call 'write'"):
                await weak.call("write", "two")
            assert pickle.loads(pickle.dumps(weak)).call("read") == ["one"]
            await asyncio.to_thread(holder.take, "from the loop", weak)
            assert await asyncio.to_thread(holder.use, "from the loop", "read", []) == ["one"]
            items = weak.stream("ticks")
            assert await anext(items) == 0
            assert await full.options(timeout=20).revoke() == 2
            with pytest.raises(Denied, match="revoked"):
                async for _item in items:
                    pass
            for late in (full, weak):
                with pytest.raises(Denied, match="revoked"):
                    await late.call("read")
            with pytest.raises(Denied, match="revoked"):
                await asyncio.to_thread(holder.use, "from the loop", "read", [])
            weak.close()

    asyncio.run(asyncio.wait_for(work(), 60))


def test_when_revoke_returns_it_is_of_no_use_on_any_node_and_nor_is_what_came_of_it(whole: System, holder: Port) -> None:
    with first(whole) as full:
        given = full.derive()
        holder.take("given", given)
        weak = holder.weaken("given", "weak", ["read", "ticks"], None, None).options(timeout=20)
        items = weak.stream("ticks")
        assert next(items) == 0
        assert given.revoke() == 2
        for use in (
            lambda: given.call("read"),
            lambda: weak.call("read"),
            lambda: holder.use("given", "read", []),
            lambda: holder.use("weak", "read", []),
            lambda: holder.weaken("weak", "weaker", None, None, None),
            lambda: weak.derive(),
        ):
            with pytest.raises(Denied, match="revoked"):
                use()
        with pytest.raises(Denied, match="revoked"):
            for _item in items:
                pass
        assert given.revoke() == 0
        assert full.call("read") == []
        holder.take("again", full.derive())
        assert holder.use("again", "read", []) == []
        assert holder.revoke("again") == 1  # a holder far away revokes what he was given
        with pytest.raises(Denied):
            holder.use("again", "read", [])


def test_revoke_does_not_return_before_who_serves_it_has_heard(whole: System, giver: "subprocess.Popen[bytes]") -> None:
    with first(whole) as full:
        assert full.call("read") == []
        os.kill(giver.pid, signal.SIGSTOP)
        try:
            with pytest.raises(OutcomeUnknown):
                full.options(timeout=0.5).revoke()
        finally:
            os.kill(giver.pid, signal.SIGCONT)
        full.revoke()
        with pytest.raises(Denied):
            full.call("read")


def test_a_holders_node_that_is_cut_off_does_not_serve_what_was_revoked_meanwhile(fresh: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does it hold the revocation up: who serves it has heard."""
    monkeypatch.setenv("UNIOS_HOME", fresh.env["UNIOS_HOME"])
    with (
        running(fresh, "give", "notes", "n2"),
        running(fresh, "hold", "holder", "n3"),
        ports.port(fresh, "holder") as holder,
        first(fresh) as full,
    ):
        holder.take("mine", full.derive())
        assert holder.use("mine", "write", ["before"]) == "n3"
        paused = fresh.nodes()["n3"]["pids"]
        for pid in paused:
            os.kill(pid, signal.SIGSTOP)
        try:
            asked = holder.begin("use", "mine", "write", ["after"])
            time.sleep(0.2)
            assert full.revoke() == 2
        finally:
            for pid in paused:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        with pytest.raises((Denied, OutcomeUnknown)):
            asked.result(60)
        with first(fresh) as again:
            assert again.call("read") == ["before"]


def test_one_of_a_program_that_was_replaced_is_void_and_its_revocation_is_not_claimed(whole: System, giver: object) -> None:
    with first(whole) as full, running(whole, "give", "notes", "n2"), Port("notes", home=whole.env["UNIOS_HOME"], timeout=20):
        fresh_one = Capability("notes", full._maker, full._secret, 20)
        with pytest.raises(Denied, match="does not listen here any more"):
            fresh_one.call("read")
        with pytest.raises(OutcomeUnknown, match="end it to be sure"):
            fresh_one.revoke()


def test_nobody_makes_himself_one_and_none_shows_its_secret(whole: System, giver: object) -> None:
    with first(whole) as full, ports.port(whole, "notes") as port:
        for op in ("mint", "take_back", "read", "_invoke", "get", "items_"):
            with pytest.raises(NotFound):
                port.call(op)
        for secret in ("", "0" * 40, full._secret[:-1]):
            with pytest.raises(Denied) as refused:
                port.invoke(full._maker, secret, "read")
            assert full._secret not in str(refused.value)
        for terms in (None, [], [1, 2, 3, 4], [None, float("inf"), None, ""], [None, None, -1, ""]):
            with pytest.raises(CallerError):
                port.derive(full._maker, full._secret, terms)
        assert full._secret not in repr(full) and full._secret not in str(full.options())
        assert pickle.loads(pickle.dumps(full))._secret == full._secret
        there = capabilities.read(capabilities.written(full) or b"")
        assert (there._port.name, there._maker, there._secret) == ("notes", full._maker, full._secret)
        assert capabilities.written(Path()) is None
        with pytest.raises(ValueError, match="no capability"):
            capabilities.read(b"\x91" * 5000)
