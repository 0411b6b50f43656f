"""The serving end in asyncio where callers break the rules or come at the wrong moment: who does not greet, or twice; two connections of one session; a
connection after the port was closed."""

import asyncio
import contextlib
import math
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.client.messages.rig import Rig
from tests.client.messages.test_aio_breaks import run, until
from tests.client.messages.test_line import HELLO, packed
from unios.client.messages import aio, aio_server
from unios.client.messages.aio_server import AsyncServer
from unios.errors import CallerError
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Ack, Hello, Request
from unios.wire.operations import Accepted
from unios.wire.values import encode as value_of

OTHER = Hello(PROTOCOL_MIN, PROTOCOL_MAX, "program", {"session": "another"})
BODY = value_of(((7,), {}), trusted=True).body


def served(rig: Rig, work: Callable[[AsyncServer, list[int]], Awaitable[None]]) -> None:
    """Do it with a port whose `f` notes what it was called with; fail if the loop met an exception that nobody handles."""
    unhandled: list[object] = []

    async def main() -> None:
        done: list[int] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unhandled.append(context))
        async with await aio.listen("p", {"f": done.append}) as server:
            await work(server, done)

    run(main)
    assert not unhandled


def call(rig: Rig, *messages: Any) -> socket.socket:
    """Connect, and say that."""
    sock, _nothing = rig.pair("p")
    sock.setblocking(False)
    sock.sendall(packed(*messages))
    return sock


async def to_the_end(sock: socket.socket) -> None:
    """Read until the other side has ended it."""
    with contextlib.suppress(ConnectionResetError), sock:
        while await asyncio.get_running_loop().sock_recv(sock, 65_536):
            pass


@pytest.mark.parametrize("said", [(Request(1, "f", BODY),), (Ack(1),), (HELLO, OTHER, Request(1, "f", BODY))])
def test_who_does_not_greet_or_greets_twice_is_let_go_and_nothing_is_done(rig: Rig, said: tuple[Any, ...]) -> None:
    async def work(server: AsyncServer, done: list[int]) -> None:
        await to_the_end(call(rig, *said))
        assert not done and not server._lines

    served(rig, work)


def test_a_session_has_one_connection_and_its_earlier_one_ends(rig: Rig) -> None:
    async def work(server: AsyncServer, done: list[int]) -> None:
        first = call(rig, HELLO, Request(1, "f", BODY))
        await until(lambda: done == [7], "it is done")
        second = call(rig, HELLO, Request(1, "f", BODY))
        await to_the_end(first)
        second.close()
        assert done == [7] and len(server._sessions) == 1

    served(rig, work)


def test_sessions_of_many_users_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_server, "PORT_SESSIONS_MAX", 3)

    async def work(server: AsyncServer, _done: list[int]) -> None:
        for number in range(6):
            rig.user = f"user {number}"
            sock = call(rig, HELLO)
            await until(lambda number=number: any(key[0] == f"user {number}" for key in server._sessions), "it has greeted")  # type: ignore[misc]
            sock.shutdown(socket.SHUT_RDWR)
            sock.close()
            await until(lambda: not server._lines, "it has gone")
        assert [user for user, _id in server._sessions] == ["user 3", "user 4", "user 5"]

    served(rig, work)


def test_a_connection_that_comes_just_after_the_port_was_closed_is_ended(rig: Rig) -> None:
    async def work(server: AsyncServer, done: list[int]) -> None:
        accepted = rig.listening["p"]
        await server.close()
        near, far = socket.socketpair()
        near.setblocking(False)
        near.sendall(packed(HELLO, Request(1, "f", BODY)))
        accepted(Accepted(1, "p", rig.user, False, "here"), far, "here")
        await to_the_end(near)
        assert not done and not server._lines

    served(rig, work)


@pytest.mark.parametrize("timeout", [1e10, math.inf])
def test_a_deadline_may_be_as_late_as_one_likes_and_is_a_number(rig: Rig, timeout: float) -> None:
    async def work() -> None:
        async with await aio.listen("p", {"one": lambda value: value, "some": lambda: iter([1, 2])}), await aio.connect("p", timeout=timeout) as port:
            patient = port.options(timeout=timeout)
            assert await patient.one(1) == 1 and [item async for item in patient.stream("some")] == [1, 2]
            with pytest.raises(CallerError, match="nan"):  # a loop that is given that as a time may forget its other timers
                await port.options(timeout=math.nan).one(1)

    run(work)
