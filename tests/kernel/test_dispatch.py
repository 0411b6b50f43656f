"""What only kernels may ask for is not to be had by their clients, whose requests they pass on under their own certificate."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from unios.errors import Denied, UniosError
from unios.kernel.callers import Caller
from unios.kernel.dispatch import KERNELS_ONLY, Dispatch
from unios.wire.peer import Call

CLIENT = Caller("nobody", 65_534, False, "n2")
KERNEL = Caller("nobody", 65_534, False, "n2", users=("*",), machine="m2")


def asked(op: str, node: str = "", hops: int = 0) -> Call:
    return cast(Call, SimpleNamespace(op=op, node=node, hops=hops, body=b""))


def dispatch() -> tuple[Dispatch, list[str]]:
    made, told = Dispatch("n1"), list[str]()

    async def serve(_caller: Caller, call: Call) -> object:
        return call.op

    async def passed_on(*_given: object, **_named: object) -> object:
        raise AssertionError("a client's request was passed on")

    made.offer(**{op.replace(".", "_", 1): serve for op in (*KERNELS_ONLY, "node.list")})
    made.links = cast(Any, SimpleNamespace(call=passed_on, stream=passed_on))
    made.told = lambda _caller, call, error: told.append(f"{call.op}: {type(error).__name__}")
    return made, told


def test_each_operation_that_asks_for_a_certificate_of_a_kernel_is_for_kernels_alone() -> None:
    assert {"node.certify", "node.cut", "node.note", "store.engine", "store.keys"} <= KERNELS_ONLY


@pytest.mark.parametrize("op", sorted(KERNELS_ONLY))
def test_a_client_is_denied_it_here_and_by_way_of_any_kernel(op: str) -> None:
    made, told = dispatch()

    async def work() -> None:
        for refused in (
            made.from_client(CLIENT, asked(op)),
            made.from_client(CLIENT, asked(op, node="n3")),
            made.from_link(KERNEL, asked(op, hops=1)),  # a kernel of before passes it on
        ):
            with pytest.raises(Denied, match="is for kernels"):
                await refused
        assert await made.from_link(KERNEL, asked(op)) == op

    asyncio.run(work())
    assert told == [f"{op}: Denied"] * 3 + [f"{op}: NoneType"]


def test_what_is_for_all_is_passed_on() -> None:
    made, _told = dispatch()

    async def work() -> None:
        assert await made.from_link(KERNEL, asked("node.list", hops=1)) == await made.from_client(CLIENT, asked("node.list")) == "node.list"
        with pytest.raises((AssertionError, UniosError), match="passed on"):
            await made.from_client(CLIENT, asked("node.list", node="n3"))

    asyncio.run(work())
