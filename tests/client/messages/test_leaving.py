"""Leaving: what was sent before a port was closed is done, and an owner that ends each connection is not run against without a pause. Both twins."""

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

from tests.client.messages.rig import Rig, until
from tests.client.messages.test_aio_breaks import run
from tests.client.messages.test_aio_breaks import until as until_later
from unios.client.messages import aio, aio_line
from unios.client.messages import ends as ends_module
from unios.client.messages.line import Closed
from unios.errors import OutcomeUnknown
from unios.limits import CLIENT_RETRY_MS
from unios.wire.frames import length_of
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Hello, Request, encode


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("how", ["close", "with", "drop"])
def test_what_was_sent_before_a_port_was_closed_is_done(rig: Rig, size: int, how: str) -> None:
    found: list[int] = []

    async def work() -> None:
        port: Any = await aio.connect("p", timeout=10)
        if how == "with":
            async with port:
                for number in range(200):
                    await port.send("one", number, bytes(size))
            assert not port._ends.line
            return
        for number in range(200):
            await port.send("one", number, bytes(size))
        if how == "close":
            port.close()
        del port
        await until_later(lambda: len(found) == 200, "all are done")

    with rig.server({"one": lambda number, _data: found.append(number)}) as server:
        run(work)
        until(lambda: len(found) == 200, "all are done")
        assert found == list(range(200))
        until(lambda: not server._lines, "the connection has ended")


@pytest.mark.parametrize("how", ["with", "raised within", "close"])
def test_a_peer_that_takes_nothing_does_not_keep_a_port_that_was_closed_and_what_is_lost_is_said(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(aio_line, "FINISH_S", 0.2)
    may_go_on = threading.Event()
    said: list[str] = []

    async def fill(port: Any) -> None:
        for _ in range(100):
            await port.send("wait", bytes(10_000))

    async def raise_within(port: Any) -> None:
        async with port:
            await fill(port)
            raise ZeroDivisionError

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: said.append(context["message"]))
        port: Any = await aio.connect("p", timeout=10)
        if how == "with":
            with pytest.raises(OutcomeUnknown, match=r"port p was closed here.*not taken within 0.2 s: the rest is lost"):
                async with port:
                    await fill(port)
        elif how == "raised within":
            with pytest.raises(ZeroDivisionError):
                await raise_within(port)
        else:
            await fill(port)
            port.close()
            await until_later(lambda: said, "it is said")
        assert len(asyncio.all_tasks()) == 1
        assert len(said) == (how != "with")

    with rig.server({"wait": lambda _data: may_go_on.wait(20)}):
        run(work)
        may_go_on.set()


def test_where_only_calls_are_lost_that_have_said_so_leaving_says_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_line, "FINISH_S", 0.2)
    may_go_on, begun = threading.Event(), threading.Event()
    done: list[object] = []

    def wait(_data: bytes) -> None:
        begun.set()
        may_go_on.wait(20)

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: done.append(context))
        async with await aio.connect("p", timeout=10) as port:
            await port.send("wait", b"")
            await until_later(begun.is_set, "that one is taken")
            calls = [asyncio.ensure_future(port.call("wait", bytes(10_000))) for _ in range(100)]
            await until_later(lambda: port._ends.line.queued > 0, "the peer takes no more")
        for call in calls:
            with pytest.raises(OutcomeUnknown):
                await call
        assert not done

    with rig.server({"wait": wait}):
        run(work)
        may_go_on.set()


@pytest.mark.parametrize("how", ["close", "drop"])
def test_what_was_sent_before_a_blocking_port_was_closed_is_done_in_its_order_however_long_that_takes(rig: Rig, how: str) -> None:
    found: list[int] = []

    def one(number: int) -> None:
        time.sleep(0.0002)
        found.append(number)

    with rig.server({"one": one}):
        port = rig.port()
        for number in range(300):
            port.send("one", number)
        if how == "close":
            port.close()
        del port
        until(lambda: len(found) == 300, "all are done")
        assert found == list(range(300))


def test_nothing_more_is_done_of_what_was_sent_by_one_who_has_lost_the_right_to_it(rig: Rig) -> None:
    found: list[int] = []
    may_go_on, begun = threading.Event(), threading.Event()

    def one(number: int) -> None:
        begun.set()
        may_go_on.wait(20)
        found.append(number)

    rig.user = rig.owner = "ann"
    with rig.server({"one": one}) as server, rig.port() as port:
        port.send("one", 0)
        begun.wait(20)
        for number in range(1, 10):
            port.send("one", number)

        def revoked() -> None:
            for pair in rig.connections:
                for sock in pair:
                    sock.shutdown(socket.SHUT_RDWR)
            may_go_on.set()
            until(lambda: not server._lines, "the connection has ended")

        rig.revoked = revoked
        server.revoke("ann")
        assert found == [0]


def test_a_port_that_was_closed_connects_again_while_its_last_words_are_taken(rig: Rig) -> None:
    may_go_on = threading.Event()
    done: list[int] = []

    def wait(number: int, _data: bytes) -> int:
        may_go_on.wait(20)
        done.append(number)
        return number

    async def work() -> None:
        port: Any = await aio.connect("p", timeout=10)
        for number in range(100):
            await port.send("wait", number, bytes(10_000))
        port.close()
        calling = asyncio.ensure_future(port.wait(100, b""))
        await until_later(lambda: rig.connected == 2, "it has connected again")
        may_go_on.set()
        assert await calling == 100
        port.close()

    with rig.server({"wait": wait}):
        run(work)


class Ends:
    """An owner that greets, and ends each connection when something is asked. `greeted`: how often each session was; those of other tests may still be leaving."""

    def __init__(self) -> None:
        self.greeted: Counter[bytes] = Counter()

    def accepted(self, _stamp: Any, sock: socket.socket, _node: str) -> None:
        threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        hello = encode(Hello(PROTOCOL_MIN, PROTOCOL_MAX, "program", {"session": "new", "incarnation": "i"}))
        try:
            (session,) = set(re.findall(rb"[0-9a-f]{32}", sock.recv(1_000)))
            sock.sendall(length_of(hello) + hello)
            self.greeted[session] += 1
            while (said := sock.recv(1_000)) and b"one" not in said:  # what it still waits for comes first
                pass
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        sock.close()


@pytest.mark.parametrize("twin", ["blocking", "blocking, seen in passing", "asyncio"])
def test_an_owner_that_ends_each_connection_is_not_run_against_without_a_pause(rig: Rig, twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def pair(name: str) -> tuple[socket.socket, None]:
        near, far = socket.socketpair()
        rig.listening[name](None, far, "here")  # type: ignore[arg-type]
        return near, None

    monkeypatch.setattr(rig, "pair", pair)
    if twin == "blocking, seen in passing":  # by one who only looks what is there, and leaves it to the next who waits
        take_in = ends_module.Ends._take_in

        def seen(self: ends_module.Ends, *given: Any) -> None:
            with contextlib.suppress(Closed):
                take_in(self, *given)

        monkeypatch.setattr(ends_module.Ends, "_take_in", seen)
    ends = Ends()
    rig.listening["p"] = ends.accepted
    begun = time.monotonic()

    async def work() -> None:
        port: Any = await aio.connect("p", timeout=10)
        with pytest.raises(OutcomeUnknown):
            await port.options(timeout=0.5, idempotent=True).one(1)
        port.close()

    if twin == "asyncio":
        run(work)
    else:
        with rig.port() as port, pytest.raises(OutcomeUnknown):
            port.options(timeout=0.5, idempotent=True).one(1)
    assert 2 <= max(ends.greeted.values()) <= (time.monotonic() - begun) / (CLIENT_RETRY_MS / 1000) + 2


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_what_was_taken_is_not_said_to_be_lost_whatever_is_not_taken_after_it(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_line, "FINISH_S", 0.05)
    lost: list[float] = []

    async def work() -> None:
        left, right = socket.socketpair()
        right.setblocking(False)
        line = aio_line.AioLine(left, lambda _message, _value: None, lambda _why: None, local=False, trusted=True)
        line.send(Request(1, "first"))
        line.send(Request(2, "later in the same turn", msgspec.Raw(msgspec.msgpack.encode(bytes(size)))))
        line.owe()
        got = 0
        while got < size or line.queued:
            with contextlib.suppress(BlockingIOError):
                got += len(right.recv(1 << 20))
            await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            while left.send(bytes(1_000)):
                pass
        line.send(Request(3, "nobody takes that"))
        line.finish(lost.append)
        await line.finished()
        right.close()

    asyncio.run(work())
    assert not lost
