"""Feeding a program's stdin: no more is under way than a window, whoever has fed it before."""

import asyncio
from collections.abc import Callable
from typing import Any

from unios.kernel.tree_input import TreeInput
from unios.limits import STREAM_WINDOW_BYTES


class Init:
    """An init that takes all bytes and says nothing by itself."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.got = 0
        self.say: Callable[[dict[str, Any]], None]

    async def send_data(self, data: bytes) -> None:
        self.got += len(data)

    async def ask(self, op: str) -> dict[str, object]:
        return {}

    def close(self) -> None:
        self.closed.set()

    def open_init(self, _pid: int, _incarnation: int, on_event: Callable[[dict[str, Any]], None]) -> "Init":
        self.say = on_event
        return self


async def step() -> None:
    """Let every task do what it can."""
    for _turn in range(10):
        await asyncio.sleep(0)


def test_what_others_have_fed_before_is_no_room_for_more() -> None:
    async def main() -> None:
        init, before = Init(), 5 * STREAM_WINDOW_BYTES
        stdin = TreeInput(init, 1000, 1)  # type: ignore[arg-type]
        init.say({"event": "stdin", "written": before, "closed": False})
        writing = asyncio.ensure_future(stdin.write(bytes(STREAM_WINDOW_BYTES + 1)))
        await step()
        assert init.got == STREAM_WINDOW_BYTES + 1 and not writing.done()
        init.say({"event": "stdin", "written": before + 1, "closed": False})
        await writing
        stdin.close()

    asyncio.run(main())


def test_a_tree_that_ends_or_closes_its_stdin_lets_a_waiting_writer_go() -> None:
    async def main() -> None:
        for end in (lambda init: init.close(), lambda init: init.say({"event": "stdin", "written": 0, "closed": True})):
            init = Init()
            stdin = TreeInput(init, 1000, 1)  # type: ignore[arg-type]
            writing = asyncio.ensure_future(stdin.write(bytes(2 * STREAM_WINDOW_BYTES)))
            await step()
            assert not writing.done()
            end(init)
            await writing
            assert stdin.is_over or stdin.closed
            stdin.close()

    asyncio.run(main())
