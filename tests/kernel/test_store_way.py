"""The way to the store of this machine: one that another node starts again is waited for, a while, and what a failed one said is told at once."""

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unios.errors import Unavailable
from unios.kernel import store_way
from unios.kernel.clocks import boot_ms
from unios.kernel.store_way import StoreWay


async def _look() -> None:
    pass


UNCHANGED = SimpleNamespace(look_if_changed=_look)


def way_to(folder: Path) -> StoreWay:
    node: Any = SimpleNamespace(name="n1", home=SimpleNamespace(store=folder), system=SimpleNamespace(has_store=True), engine_moving=UNCHANGED)
    return StoreWay(node)


def listen(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(folder / "sock"))
    sock.listen()
    return sock


def test_a_store_that_is_started_again_is_waited_for(tmp_path: Path) -> None:
    async def play() -> None:
        listen(tmp_path).close()  # the one that died has left its socket's name
        connecting = asyncio.create_task(way_to(tmp_path).connection())
        await asyncio.sleep(0.05)
        assert not connecting.done()
        (tmp_path / "sock").unlink()
        with listen(tmp_path), await connecting as ours:
            assert ours.getpeername().endswith("sock")

    asyncio.run(play())


def test_one_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        monkeypatch.setattr(store_way, "STORE_BACK_MS", 60)
        began = boot_ms()
        with pytest.raises(Unavailable, match=r"^the store is being restarted: No such file"):
            await way_to(tmp_path).connection()
        assert boot_ms() - began >= 60

    asyncio.run(play())


def test_what_a_failed_one_said_is_told_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        (tmp_path / "failed").write_text("store.db is damaged")
        monkeypatch.setattr(store_way, "STORE_BACK_MS", 10**9)
        with pytest.raises(Unavailable, match=r"^store.db is damaged$"):
            await way_to(tmp_path).connection()

    asyncio.run(play())


def test_what_the_nodes_of_its_machine_say_goes_before_what_others_do(tmp_path: Path) -> None:
    said = {"keeper": "the store's file is damaged", "other": "it is not here"}

    async def stream(name: str, *_given: object, **_named: object) -> object:
        raise Unavailable(said[name])

    machines = {"keeper": "first", "other": "second"}
    node: Any = SimpleNamespace(
        name="n3",
        user="root",
        identity=SimpleNamespace(users=("*",)),
        engine_moving=UNCHANGED,
        system=SimpleNamespace(has_store=False, engine="sqlite", store_machine="first", machine="third", machines={}, members={"other": ()}),
        links=SimpleNamespace(
            names=lambda: ["keeper", "other"], stream=stream, identity=lambda name: SimpleNamespace(users=("*",), machine=machines[name])
        ),
    )
    with pytest.raises(Unavailable, match=r"^the store cannot be reached: the store's file is damaged$"):
        asyncio.run(StoreWay(node).peer())
