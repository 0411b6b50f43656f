"""Stopping the nodes of a machine: all are greeted at the same time, so that those that hang do not hold up each other."""

import asyncio
import json
import sys
import threading
from pathlib import Path

from tests.client.scripted import ScriptedKernel
from unios.client import boot
from unios.wire.home import Home
from unios.wire.installation import FILE, Installation, own_place
from unios.wire.operations import Empty
from unios.wire.peer import Call


class Slow(ScriptedKernel):
    """One that greets only once all have been called."""

    called: threading.Barrier

    def _accept(self) -> None:
        assert self._server is not None
        self._loop.remove_reader(self._server.fileno())
        threading.Thread(target=self._await_others).start()

    def _await_others(self) -> None:
        self.called.wait()
        self._loop.call_soon_threadsafe(super()._accept)


async def stop(_call: Call) -> object:
    await asyncio.sleep(0)
    return Empty()


def test_all_are_greeted_at_the_same_time(tmp_path: Path) -> None:
    Slow.called = threading.Barrier(3, timeout=20)
    kernels = [Slow(tmp_path, name) for name in ("n1", "n2", "n3")]
    said: list[str] = []
    try:
        for kernel in kernels:
            kernel.operations["node.stop"] = stop
        boot._stop_politely(Home(tmp_path).nodes(), force=True, progress=said.append)
        assert said == ["n1 stopped", "n2 stopped", "n3 stopped"]
    finally:
        for kernel in kernels:
            kernel.close()


def test_nodes_are_started_with_what_an_upgrade_has_chosen_if_that_is_there(tmp_path: Path) -> None:
    home, said = Home(tmp_path), list[str]()
    assert boot.chosen(home, said.append) is None
    there, gone = ([sys.executable, "/other/src", "1+a"], [str(tmp_path / "python"), "", "1+b"])
    (tmp_path / FILE).write_text(json.dumps({"now": there}))
    assert boot.chosen(home, said.append) == Installation(*there) and said == []
    (tmp_path / FILE).write_text(json.dumps({"now": list(own_place())}))
    assert boot.chosen(home, said.append) is None and said == []
    (tmp_path / FILE).write_text(json.dumps({"now": gone}))
    assert boot.chosen(home, said.append) is None and "is gone" in said[0]
