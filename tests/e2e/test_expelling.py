"""A node that is there and is not to be trusted is cut off on all nodes, and goes on trying in vain.

The rogue runs unios with its good manners taken out: it does not end when it is told that it is out, and writes its record as if it were not.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.homes import join, links, token
from tests.e2e.system import System, wait_for

ROGUE = """
import sys
if not any(word.endswith(("pytest", "certificates")) for word in sys.argv[:1]):
    import msgspec
    from unios.core.nodes import Alive, NodeRecord, alive_key, node_key
    from unios.kernel.node import Node
    from unios.kernel.registration import Registration
    from unios.kernel.stopping import Stopping
    from unios.store.model import Put, Transaction
    enter = Registration._enter

    async def removed(self, why):
        pass

    async def write_itself_in(self, lease):
        node = self._node
        result, _revision = await node.store.range(node_key(node.name))
        known = msgspec.msgpack.decode(result.records[0].value, type=NodeRecord)
        again = msgspec.structs.replace(known, state="joined", expelled=False, stopped=False, incarnation=known.incarnation + 1)
        puts = (Put(node_key(node.name), msgspec.msgpack.encode(again)), Put(alive_key(node.name), msgspec.msgpack.encode(Alive(again.incarnation)), lease))
        await node.store.transact(Transaction((), puts))
        node.publishing.begin(lease)
        return again.incarnation

    Stopping.removed = removed
    Registration._enter = write_itself_in
    Node._on_refused = lambda self, who, why, left: None
"""


class Three(NamedTuple):
    first: System
    second: System
    rogue: System


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    (tmp_path / "sitecustomize.py").write_text(ROGUE)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    with System() as first, System() as second, System(env={"PYTHONPATH": path}) as rogue:
        first.unios("up")
        join(first, second, "n2")
        join(first, rogue, "rogue")
        yield Three(first, second, rogue)


def is_cut_off(three: Three) -> bool:
    """Whether no other node has a link to it, and each has told it why."""
    mine = (links(three.first).get("rogue"), links(three.second).get("rogue"))
    theirs = links(three.rogue)
    return not any(link is not None and link.up for link in mine) and all(
        not theirs[name].up and "expelled" in theirs[name].reason for name in ("n1", "n2")
    )


def test_an_expelled_node_is_cut_off_everywhere_and_goes_on_trying_in_vain(three: Three) -> None:
    first, second, rogue = three
    kept = token(rogue)
    pid = first.run_detached("sleep", "4711", options=("--on", "n1"))
    there = rogue.run_detached("sleep", "4712", options=("--on", "rogue"))
    rogue.wait_process(there, lambda one: one["state"] == "running", "runs on the rogue")
    assert links(second)["rogue"].up

    told = first.json("leave", "--expel", "rogue")
    assert (told["confirmed"], told["missing"], told["is_whole"]) == (["n1", "n2"], [], True)
    assert told["tokens"] >= 1
    # Acknowledged is done: neither of them serves it any more, though it has not ended.
    for one in (first, second):
        link = links(one).get("rogue")
        assert link is None or not link.up
    assert first.nodes()["rogue"]["state"] == "left"

    # What it does on: links, registration, a token that it had made, a command of its own.
    wait_for(lambda: is_cut_off(three), bool, "it tries again and is told")
    again = rogue.unios("run", "--", "true", check=False, timeout=90)
    assert again.returncode != 0
    with System() as friend:
        refused = friend.unios("join", kept, check=False)
        assert refused.returncode == 77 and b"never made it" in refused.stderr, refused.stderr
    assert second.nodes()["rogue"]["state"] == "left"
    dealt = first.wait_process(there, lambda one: one["state"] != "running" or one["node"] != "rogue", "its process is dealt with")
    assert dealt["incarnation"] == 2 or dealt["state"] == "lost"
    assert first.process(pid)["state"] == "running"

    # A kernel that dies remembers; asked again it is as it was.
    os.kill(first.nodes()["n1"]["kernel_pid"], signal.SIGKILL)
    wait_for(lambda: first.nodes()["n1"]["state"], lambda state: state == "ready", "n1 is back")
    wait_for(lambda: is_cut_off(three), bool, "it is refused by the new kernel too")
    assert first.json("leave", "--expel", "rogue")["confirmed"] == ["n1", "n2"]

    refused = first.unios("leave", "--expel", "n1", check=False)
    assert refused.returncode == 1 and b"cannot expel itself" in refused.stderr
    refused = second.unios("leave", "--expel", "n1", check=False)
    assert refused.returncode == 1 and b"keeps the system's store" in refused.stderr


def test_a_paused_node_that_has_not_confirmed_is_named_and_cuts_it_off_when_it_goes_on(three: Three) -> None:
    first, second, _rogue = three
    paused = second.nodes()["n2"]["pids"]
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    try:
        told = first.json("leave", "--expel", "rogue")
        assert [name for name, _why in told["missing"]] == ["n2"] and told["confirmed"] == ["n1"], told
        assert "its lease has ended" in told["missing"][0][1]
    finally:
        for pid in paused:
            os.kill(pid, signal.SIGCONT)
    wait_for(lambda: first.nodes()["n2"]["state"], lambda state: state == "ready", "n2 goes on")
    wait_for(lambda: is_cut_off(three), bool, "n2 has cut it off too")
    assert first.json("leave", "--expel", "rogue")["confirmed"] == ["n1", "n2"]
