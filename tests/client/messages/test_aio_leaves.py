"""What the asyncio twins take, and leave behind: little, and nothing, whether a port is closed, dropped, left open by its loop, or inherited by a fork."""

import asyncio
import contextlib
import gc
import os
import pickle
import socket
from typing import Any

import pytest

from tests.client.messages.rig import Rig
from tests.client.messages.rig import until as until_now
from tests.client.messages.test_aio_breaks import run, until
from tests.client.messages.test_line import HELLO, packed
from tests.descriptors import descriptors
from unios.client.messages import aio
from unios.errors import CallerError
from unios.limits import FDS_MAX, SEND_QUEUE_BYTES_MAX
from unios.wire.messages import Request
from unios.wire.values import encode as value_of


@pytest.mark.parametrize("local", [True, False])
def test_neither_descriptors_nor_tasks_are_left(rig: Rig, local: bool) -> None:
    rig.local = local

    async def numbers(upto: int) -> Any:
        for number in range(upto):
            yield number, b"x" * 100_000

    async def round_() -> None:
        async with await aio.listen("p", {"one": lambda value: value, "numbers": numbers}), await aio.connect("p", timeout=10) as port:
            for _ in range(5):
                assert len(await port.one(pickle.PickleBuffer(bytearray(1_000_000)))) == 1_000_000
            async for _item in port.stream("numbers", 1_000_000):
                break
            rig.cut()
            assert await port.one(1) == 1
        rig.cut()
        gc.collect()

    async def work() -> None:
        await round_()
        await until(lambda: len(asyncio.all_tasks()) == 1, "the tasks have ended")
        before = descriptors()
        for _ in range(5):
            await round_()
        await until(lambda: len(asyncio.all_tasks()) == 1, "the tasks have ended")
        assert descriptors() <= before

    run(work)


def test_a_port_that_is_dropped_ends_its_connection(rig: Rig) -> None:
    async def work() -> None:
        async with await aio.listen("p", {"one": lambda value: value}) as server:
            port: Any = await aio.connect("p", timeout=10)
            assert await port.one(1) == 1
            assert len(server._lines) == 1
            del port
            gc.collect()
            await until(lambda: not server._lines, "the server has seen the end, though the broker holds duplicates")

    run(work)


def test_a_loop_that_ends_with_a_port_open_ends_its_connection(rig: Rig) -> None:
    async def work() -> None:
        port = await aio.connect("p", timeout=10)
        assert await port.one(1) == 1

    with rig.server({"one": lambda value: value}) as server:
        run(work)
        gc.collect()
        until_now(lambda: not server._lines, "the server has seen the end")


def test_a_forked_child_does_not_touch_its_parents_connections(rig: Rig) -> None:
    async def work() -> None:
        async with await aio.listen("p", {"one": lambda value: value}) as server, await aio.connect("p", timeout=10) as port:
            assert await port.one(1) == 1
            child = os.fork()
            if child == 0:
                try:
                    asyncio.events._set_running_loop(None)

                    async def in_child() -> None:
                        with pytest.raises(CallerError, match="forked"):
                            await port.one(2)
                        port.close()
                        await server.close()
                        assert "p" in rig.listening

                    asyncio.run(in_child())
                    os._exit(0)
                except BaseException:  # noqa: BLE001
                    os._exit(1)
            _pid, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert await port.one(3) == 3 and rig.connected == 1 and "p" in rig.listening

    run(work)


def test_descriptors_that_no_message_claims_are_bounded_and_closed(rig: Rig) -> None:
    async def work() -> None:
        async with await aio.listen("p", {}) as server:
            before = descriptors()
            sock, _nothing = rig.pair("p")
            with open(os.devnull) as file, contextlib.suppress(OSError):
                for byte in packed(Request(1, "x" * 100, value_of(1, trusted=True).body))[:40]:
                    socket.send_fds(sock, [bytes([byte])], [file.fileno()] * FDS_MAX)
                    await asyncio.sleep(0.001)
                    assert len(descriptors() - before) < 8 * FDS_MAX
            await until(lambda: not server._lines, "the connection is ended")
            sock.close()
            rig.cut()
            assert descriptors() <= before

    run(work)


@pytest.mark.parametrize("local", [True, False])
def test_a_caller_that_never_reads_stops_the_handlers_and_takes_no_memory(rig: Rig, local: bool) -> None:
    rig.local = local
    made = []

    def large() -> Any:
        made.append(1)
        return pickle.PickleBuffer(bytearray(1 << 20))

    async def work() -> None:
        async with await aio.listen("p", {"large": large}):
            before = descriptors()
            sock, _nothing = rig.pair("p")
            arguments = value_of(((), {}), trusted=True).body
            await asyncio.to_thread(sock.sendall, packed(HELLO, *(Request(number, "large", arguments) for number in range(1, 1_001))))
            await until(lambda: len(made) >= 4, "some are answered")
            await asyncio.sleep(0.2)
            bound = SEND_QUEUE_BYTES_MAX // (1 << 20) + 8
            assert len(made) <= bound + 300 * local and len(descriptors() - before) < bound + 8
            sock.close()

    run(work)
