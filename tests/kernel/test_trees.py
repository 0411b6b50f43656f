"""The kernel's list of trees, against a guard that says what the test wants."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unios.errors import Unavailable
from unios.kernel import trees_protocol
from unios.kernel.exit_notes import Sender
from unios.kernel.trees import TreeInfo, Trees
from unios.wire.home import NodeFolder

EXIT = {"event": "exit", "pid": 300, "incarnation": 1, "code": 0}
Exits = list[tuple[int, int]]


def run(folder: Path, spawn: list[dict[str, Any]], work: Callable[[Trees, Exits], Any]) -> None:
    """Do `work` with a guard that answers a spawn with these frames, all in one write."""

    async def serve(listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection, _address = await loop.sock_accept(listener)
        decoder = trees_protocol.Decoder()
        with connection:
            while data := await loop.sock_recv(connection, 65536):
                for frame in decoder.feed(data):
                    assert frame.fields is not None
                    id_ = frame.fields["id"]
                    replies: dict[str, list[dict[str, Any]]] = {
                        "info": [{"id": id_, "ok": True, "namespaces": False, "freezer": "v2"}],
                        "list": [{"id": id_, "ok": True, "trees": []}],
                        "spawn": [{**fields, **({} if "event" in fields else {"id": id_})} for fields in spawn],
                    }
                    for answer in (replies.get(frame.fields["op"], [{"id": id_, "ok": True}]),):
                        await loop.sock_sendall(connection, b"".join(map(trees_protocol.encode, answer)))

    async def main() -> None:
        node = NodeFolder(folder)
        exits: Exits = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(node.guard_door))
            listener.listen()
            listener.setblocking(False)
            trees = Trees(node, lambda pid, incarnation, _fields: exits.append((pid, incarnation)), lambda: None)
            tasks = [asyncio.create_task(trees.run()), asyncio.create_task(serve(listener))]
            try:
                async with asyncio.timeout(10):
                    await work(trees, exits)
            finally:
                for task in tasks:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
                trees.close()

    asyncio.run(main())


def test_an_exit_that_comes_with_the_answer_to_the_start_is_not_lost(tmp_path: Path) -> None:
    async def work(trees: Trees, exits: Exits) -> None:
        tree = await trees.spawn({"pid": 300, "incarnation": 1}, 1000)
        assert (tree.state, tree.exit["code"]) == ("ended", 0)
        assert trees.trees[300, 1].state == "ended" and exits == [(300, 1)]

    run(tmp_path, [{"ok": True, "init_pid": 1}, EXIT], work)


def test_a_note_and_the_guards_word_are_one_exit(tmp_path: Path) -> None:
    async def work(trees: Trees, exits: Exits) -> None:
        await trees.spawn({"pid": 300, "incarnation": 1}, 1000)
        for _time in range(2):
            Sender(str(tmp_path)).send(EXIT)
        Sender(str(tmp_path)).send({**EXIT, "incarnation": 7})
        while not exits:
            await asyncio.sleep(0.001)
        trees._on_event(EXIT)
        assert exits == [(300, 1)] and trees.trees[300, 1].state == "ended"

    run(tmp_path, [{"ok": True, "init_pid": 1}], work)


def test_a_start_that_fails_leaves_nothing_known(tmp_path: Path) -> None:
    async def work(trees: Trees, exits: Exits) -> None:
        with pytest.raises(Unavailable):
            await trees.spawn({"pid": 300, "incarnation": 1}, 1000)
        assert trees.trees == {} and trees._ended_meanwhile == {}

    run(tmp_path, [{"error": "unavailable", "text": "no"}], work)


def test_of_two_trees_that_one_init_has_had_the_newer_one_is_meant(tmp_path: Path) -> None:
    """A program may speak to its kernel before that has heard of the earlier one's end."""

    async def work(trees: Trees, _exits: Exits) -> None:
        for pid in (300, 301):
            tree = trees.trees[pid, 1] = TreeInfo({"pid": pid, "incarnation": 1})
            tree.namespace = 4_026_000_000
        assert trees.tree_of(1, 4_026_000_000) == (301, 1)
        trees.trees[301, 1].state = "ended"
        assert trees.tree_of(1, 4_026_000_000) == (300, 1)

    run(tmp_path, [], work)
