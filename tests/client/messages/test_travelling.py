"""Ports in messages: whoever receives one calls through it, whatever its kind, whoever he is."""

import asyncio
from typing import Any

import msgspec
import pytest

from tests.client.messages.rig import Rig
from tests.client.messages.target import Target
from unios.client.messages import aio
from unios.client.messages.port import Port
from unios.errors import CallerError, ProtocolError
from unios.wire.values import Value, decode, encode


def through(port: Any, value: Any) -> Any:
    return port.options(timeout=10).one(value)


@pytest.mark.parametrize("owner", ["me", "another"])
def test_a_port_in_a_message_is_called_by_whoever_receives_it(rig: Rig, owner: str) -> None:
    with rig.server(Target()), rig.server({"through": through, "give": lambda: Port("p", timeout=10)}, "q"), rig.port() as port:
        if owner == "another":
            rig.owner = rig.user = "mallory"
        with rig.port("q") as other:
            assert other.through(port, ["through it"]) == ["through it"]
            assert other.through(port=port.options(timeout=3), value=1) == 1
            given = other.give()
            assert isinstance(given, Port) and given.name == "p" and given.one(2) == 2


@pytest.mark.parametrize("trusted", [True, False])
def test_a_port_of_asyncio_arrives_as_what_its_receiver_can_use(rig: Rig, trusted: bool) -> None:
    async def work() -> None:
        async with await aio.listen("p", {"one": lambda value: value}), await aio.connect("p", timeout=10) as port:
            value = encode([port.options(timeout=7)], trusted=trusted)
            here = decode(value, trusted=trusted)[0]
            assert isinstance(here, aio.AsyncPort) and await here.one(1) == 1
            elsewhere = await asyncio.to_thread(lambda: decode(value, trusted=trusted)[0])
            assert isinstance(elsewhere, Port) and await asyncio.to_thread(lambda: elsewhere.one(2)) == 2
            assert here._timeout == (7 if trusted else None)
            here.close()
            elsewhere.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        msgspec.msgpack.encode(("p",)),
        msgspec.msgpack.encode(("p" * 5_000, False)),
        msgspec.msgpack.encode(("p\n", False)),
        bytes(range(200, 240)),
    ],
)
def test_what_is_no_port_is_refused(data: bytes) -> None:
    for code in (1, 2):
        body = msgspec.msgpack.encode(["v", msgspec.msgpack.Ext(code, data)])
        with pytest.raises(ProtocolError):
            decode(Value(msgspec.Raw(body)), trusted=False)


def test_nothing_else_goes_the_way_of_ports() -> None:
    with pytest.raises(CallerError, match="another user's process: a object is no plain value"):
        encode(object(), trusted=False)
