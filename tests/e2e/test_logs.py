"""Replicated logs on three nodes: nothing acknowledged is lost, whoever dies, and readers see one order."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import System, wait_for
from unios.client.aio import Kernel
from unios.client.log import LogCalls, LogReader, LogWriter, seal
from unios.errors import Compacted, LeaseLost, NotFound, OutcomeUnknown
from unios.kernel.callers import user_of
from unios.wire.home import Home

USER = user_of(os.geteuid())


def with_kernel(system: System, node: str, work: Callable[[Kernel], Awaitable[Any]]) -> Any:
    """Do something with a connection to a node's kernel."""

    async def main() -> Any:
        kernel = Kernel(Home(Path(system.env["UNIOS_HOME"])).node(node), role="test")
        running = asyncio.create_task(kernel.run())
        try:
            return await work(kernel)
        finally:
            running.cancel()

    return asyncio.run(main())


async def everything(kernel: Kernel, name: str) -> list[bytes]:
    """Read a log up to what is acknowledged."""
    reader, found = LogReader(kernel, name), []
    while entries := await reader.read(wait_ms=200):
        found += entries
    return found


class Appender:
    """A process that writes a log; `acknowledged` grows as it is told."""

    def __init__(self, system: System, node: str, name: str, who: str) -> None:
        self.acknowledged: dict[int, bytes] = {}
        self.replicas: list[str] = []
        self.ended = ""
        command = [sys.executable, "-m", "tests.e2e.log_appender", system.env["UNIOS_HOME"], node, name, who]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**system.env, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, text=True
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith("\n"):
                return
            words = line.split()
            match words[0]:
                case "open":
                    self.replicas = words[2:]
                case "ended":
                    self.ended = line
                case _:
                    self.acknowledged[int(words[0])] = words[1].encode()

    def wait(self, more: int) -> None:
        """Wait until so many more are acknowledged."""
        goal = len(self.acknowledged) + more
        wait_for(lambda: len(self.acknowledged), lambda count: count >= goal or self.process.poll() is not None, f"{more} more are acknowledged")
        assert len(self.acknowledged) >= goal, self.ended

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def check(found: list[bytes], *appenders: Appender) -> None:
    """All that was acknowledged is in the log where it was said to be, and nothing twice."""
    for appender in appenders:
        for offset, entry in appender.acknowledged.items():
            assert found[offset] == entry
    assert len(set(found)) == len(found)


def test_a_replicas_node_and_then_the_writer_die_and_nothing_acknowledged_is_lost(fresh: System) -> None:
    one = Appender(fresh, "n1", "x", "one")
    one.wait(100)
    assert one.replicas[0] == "n1" and len(one.replicas) == 2
    lost = one.replicas[1]
    left = "n2" if lost == "n3" else "n3"
    fresh.power_cut(lost)
    one.wait(100)  # on the third node
    two = Appender(fresh, left, "x", "two")  # takes over while the first one writes
    two.wait(100)
    wait_for(lambda: one.ended, bool, "the first writer hears that it is none any more")
    two.kill()
    three = Appender(fresh, "n1", "x", "three")
    three.wait(50)
    three.kill()

    async def sealed(kernel: Kernel) -> list[bytes]:
        end = await seal(kernel, "x")
        found = await everything(kernel, "x")
        assert len(found) == end
        return found

    found = with_kernel(fresh, left, sealed)
    check(found, one, two, three)
    assert with_kernel(fresh, "n1", lambda kernel: everything(kernel, "x")) == found


def test_what_a_lost_node_had_is_copied_to_another_one(fresh: System) -> None:
    async def work(kernel: Kernel) -> None:
        writer = await LogWriter.open(kernel, "x")
        await asyncio.gather(*(writer.append(b"%d" % number) for number in range(300)))
        lost = writer.replicas[1]
        await asyncio.to_thread(fresh.power_cut, lost)
        await writer.append(b"300")  # on other nodes
        async with asyncio.timeout(60):
            while lost in (record := await LogCalls(kernel, "x").present()).spans[0].replicas:
                await asyncio.sleep(0.05)
        span = record.spans[0]
        assert span.end == 300 and len(span.replicas) == 2
        for node in span.replicas:
            part = await writer.calls.part(node, span, 0, closed=span.end)
            assert part.entries == tuple(b"%d" % number for number in range(300))

    with_kernel(fresh, "n1", work)


def test_what_is_appended_is_read_on_all_nodes_and_what_is_trimmed_is_not(whole: System) -> None:
    async def write(kernel: Kernel) -> None:
        writer = await LogWriter.open(kernel, "a/b")
        assert await asyncio.gather(*(writer.append(b"%d" % number) for number in range(500))) == list(range(500))
        assert await everything(kernel, "a/b") == [b"%d" % number for number in range(500)]
        await writer.trim(200)
        writer.close()

    with_kernel(whole, "n1", write)

    async def read(kernel: Kernel) -> None:
        reader = LogReader(kernel, "a/b", 199)
        with pytest.raises(Compacted, match="trimmed up to 200"):
            await reader.read()
        reader.offset = 200
        assert (await reader.read())[0] == b"200"

    for node in ("n1", "n2", "n3"):
        with_kernel(whole, node, read)


def test_who_is_overtaken_appends_no_more_and_a_reader_waits_for_what_comes(whole: System) -> None:
    async def work(kernel: Kernel) -> None:
        with pytest.raises(NotFound):
            await LogReader(kernel, "y").read()
        old = await LogWriter.open(kernel, "y")
        await old.append(b"old")
        new = await LogWriter.open(kernel, "y")
        with pytest.raises(OutcomeUnknown):  # it hears of it by this
            await old.append(b"never")
        with pytest.raises(LeaseLost):
            await old.append(b"never")
        reader = LogReader(kernel, "y", new.end)
        waiting = asyncio.create_task(reader.read(wait_ms=10_000))
        await new.append(b"new")
        assert await waiting == [b"new"]

    with_kernel(whole, "n2", work)


def test_a_damaged_record_is_told_and_read_from_another_node(whole: System) -> None:
    async def write(kernel: Kernel) -> tuple[str, ...]:
        writer = await LogWriter.open(kernel, "z")
        for number in range(20):
            await writer.append(b"entry %d" % number)
        replicas = writer.replicas
        await seal(kernel, "z")
        return replicas

    node = with_kernel(whole, "n1", write)[0]
    (path,) = (Path(whole.env["UNIOS_HOME"]) / f"nodes/{node}/logs/u-{USER}/z").glob("*.log")
    data = bytearray(path.read_bytes())
    data[data.index(b"entry 7")] ^= 1
    path.write_bytes(data)

    async def read(kernel: Kernel) -> None:
        reader, found = LogReader(kernel, "z"), []
        while entries := await reader.read():
            found += entries
        assert found == [b"entry %d" % number for number in range(20)] and reader.masked > 0

    with_kernel(whole, node, read)
    wait_for(lambda: whole.unios("events", "--each").stdout, lambda text: b"log z is damaged at 7" in text, "the damage is told")


def test_each_user_has_logs_of_his_own(whole: System) -> None:
    async def work(kernel: Kernel) -> None:
        writer = await LogWriter.open(kernel, "mine")
        await writer.append(b"x")
        record = await LogCalls(kernel, "mine").present()
        assert record.user == USER and len(record.spans[-1].replicas) == 2

    with_kernel(whole, "n1", work)
