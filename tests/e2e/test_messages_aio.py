"""Ports for programs in asyncio, and both twins with each other, on one node and between two."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.system import System
from unios.client.messages import aio
from unios.client.messages.port import Port, RemoteTraceback
from unios.errors import CallerError, NotFound, OutcomeUnknown

CALLEE = str(Path(__file__).with_name("callee.py"))
Work = Callable[[aio.AsyncPort], Awaitable[None]]


class Callee:
    """A program that listens on a port of n1."""

    def __init__(self, system: System, kind: str, port: str = "tests/port") -> None:
        self._command = [sys.executable, CALLEE, port, "n1", kind]
        self._system = system
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, env=self._system.env, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"listens\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(params=["aio", "blocking"])
def callee(whole: System, request: pytest.FixtureRequest) -> Iterator[Callee]:
    found = Callee(whole, request.param)
    yield found
    found.kill()


@pytest.fixture
def on_aio(whole: System) -> Iterator[Callee]:
    found = Callee(whole, "aio")
    yield found
    found.kill()


def run(system: System, node: str, work: Work, port: str = "tests/port") -> None:
    """Run `work` with a port that is reached through a node."""

    async def main() -> None:
        async with asyncio.timeout(30):
            async with await aio.connect(port, home=system.home / "home", node=node, timeout=10) as found:
                await work(found)

    asyncio.run(main())


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_call_gives_what_the_handler_returns_and_raises_what_it_raises(whole: System, callee: Callee, node: str) -> None:
    async def work(port: aio.AsyncPort) -> None:
        assert await port.add(2, b=3) == 5
        assert await port.call("echo", {"a": (1, 2.5, None)}) == {"a": (1, 2.5, None)}
        user, at, pid = await port.who()
        assert (user, at, pid) == ("root" if os.geteuid() == 0 else user, node, callee.process.pid)
        with pytest.raises(ValueError, match="not so") as raised:
            await port.fail()
        assert raised.value.__notes__ == ["a note"] and isinstance(raised.value.__cause__, RemoteTraceback)
        assert "in fail" in str(raised.value.__cause__)
        with pytest.raises(NotFound, match="no 'nothing'"):
            await port.nothing()
        with pytest.raises(CallerError, match="cannot be sent"):
            await port.echo(lambda: 1)
        with pytest.raises(CallerError, match="cannot be sent"):
            await port.lambda_()
        assert await port.add(1) == 1

    run(whole, node, work)


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_many_calls_at_a_time_are_answered_each_with_its_own(whole: System, callee: Callee, node: str) -> None:
    async def work(port: aio.AsyncPort) -> None:
        assert await asyncio.gather(*(port.add(n, n) for n in range(1_000))) == [2 * n for n in range(1_000)]

    run(whole, node, work)


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_stream_gives_each_item_once_and_goes_on_while_others_call(whole: System, callee: Callee, node: str) -> None:
    async def work(port: aio.AsyncPort) -> None:
        got = []
        async for number in port.stream("numbers", 200_000):
            got.append(number)
        assert got == list(range(200_000))
        async for number in port.stream("numbers", 10**9):  # whoever stops reading stops the handler
            if number == 10:
                break
        assert await port.add(1, 1) == 2

    run(whole, node, work)


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_large_buffers_arrive_as_they_were(whole: System, callee: Callee, node: str) -> None:
    async def work(port: aio.AsyncPort) -> None:
        data = bytearray(os.urandom(1024)) * 20_000
        assert await port.size(data) == len(data)
        assert await port.echo(data) == data
        assert await asyncio.gather(*(port.echo(data[:300_000]) for _ in range(20))) == [data[:300_000]] * 20

    run(whole, node, work)


def test_handlers_that_wait_run_side_by_side(whole: System, on_aio: Callee) -> None:
    async def work(port: aio.AsyncPort) -> None:
        async with asyncio.timeout(10):  # one after the other it would be 50
            await asyncio.gather(*(port.slow(f"side {n}", 0.5) for n in range(100)))
        assert [number async for number in port.stream("anumbers", 1_000)] == list(range(1_000))

    run(whole, "n1", work)


def test_who_withdraws_a_call_or_has_waited_enough_cancels_its_handler(whole: System, on_aio: Callee) -> None:
    async def work(port: aio.AsyncPort) -> None:
        late = asyncio.ensure_future(port.options(timeout=1).slow("late", 100))
        while "late" not in await port.started():
            await asyncio.sleep(0.01)
        with pytest.raises(OutcomeUnknown, match="no answer to slow in time"):
            await late
        task = asyncio.ensure_future(port.slow("withdrawn", 100))
        while "withdrawn" not in await port.started():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while set(await port.cancelled()) != {"late", "withdrawn"}:
            await asyncio.sleep(0.01)
        assert await port.times("late") == await port.times("withdrawn") == 0

    run(whole, "n1", work)


def test_what_was_sent_without_waiting_is_done_in_its_order(whole: System, callee: Callee) -> None:
    async def work(port: aio.AsyncPort) -> None:
        for _ in range(5):
            await port.send("count", "one way")
        assert await port.times("one way") == 5

    run(whole, "n2", work)


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_callers_wait_for_an_owner_that_is_started_again(whole: System, callee: Callee, node: str) -> None:
    async def work(port: aio.AsyncPort) -> None:
        assert await port.add(1) == 1
        task = asyncio.ensure_future(port.slow("lost", 100))
        again = asyncio.ensure_future(port.options(idempotent=True).echo("again"))
        await asyncio.sleep(0)
        callee.kill()
        await asyncio.to_thread(callee.start)
        with pytest.raises(OutcomeUnknown, match="replaced"):
            await task
        assert await again == "again" and await port.add(2) == 2

    run(whole, node, work)


@pytest.mark.parametrize("victim", ["n1", "n2"])
def test_a_kernel_that_is_killed_in_the_middle_costs_a_delay_and_nothing_is_done_twice(fresh: System, victim: str) -> None:
    callee = Callee(fresh, "aio")

    async def work(port: aio.AsyncPort) -> None:
        numbers = asyncio.ensure_future(_all(port))
        slow = [asyncio.ensure_future(port.slow(f"kernel {n}", 1.0)) for n in range(10)]
        assert await port.add(1) == 1
        os.kill(
            int((fresh.home / "home" / "nodes" / victim / "run" / "kernel.json").read_text().split('"pid":')[1].split(",")[0].strip(" }")),
            signal.SIGKILL,
        )
        assert await asyncio.gather(*slow) == [1] * 10
        assert [await port.times(f"kernel {n}") for n in range(10)] == [1] * 10
        assert await numbers == list(range(300_000))

    try:
        run(fresh, "n2", work)
    finally:
        callee.kill()


async def _all(port: aio.AsyncPort) -> list[int]:
    return [number async for number in port.stream("anumbers", 300_000)]


def test_a_blocking_port_talks_to_an_owner_in_asyncio(whole: System, on_aio: Callee) -> None:
    with Port("tests/port", home=whole.home / "home", node="n2", timeout=10) as port:
        assert port.add(1, 2) == 3
        assert list(port.stream("anumbers", 1_000)) == list(range(1_000))
        pending = [port.begin("slow", f"begun {n}", 0.1) for n in range(20)]
        assert [one.result() for one in pending] == [1] * 20
        with pytest.raises(ValueError, match="not so"):
            port.fail()
