"""The executor and objects on three nodes: a task goes to its data, and what it refers to is kept until it has ended."""

from pathlib import Path

import pytest

from tests.e2e.system import System
from tests.e2e.test_executor import run_program

pytestmark = pytest.mark.timeout(90)


def test_a_task_goes_to_the_node_of_what_its_references_refer_to(whole: System) -> None:
    text = (
        "import unios\n"
        "from tests.e2e import deeds\n"
        "refs = {}\n"
        "for node in ('n1', 'n2', 'n3'):\n"
        "    with unios.Executor(1, node=node) as there: refs[node] = there.submit(deeds.put_here, 20_000_000).result()\n"
        "with unios.Executor(3, label='spread', apart=['spread']) as pool:\n"
        "    nodes = set()\n"
        "    while nodes != set(refs): nodes |= {f.result() for f in [pool.submit(deeds.where) for _ in range(30)]}\n"
        "    for node, ref in [*refs.items()] * 3:\n"
        "        assert ref.node == node == pool.submit(deeds.where, ref).result(), node\n"
        "        assert list(pool.map(deeds.where, [[ref]])) == [node]\n"
        "        assert pool.submit(lambda: deeds.where(ref)).result() == node\n"
        "        assert pool.submit(deeds.read, ref).result() == 20_000_000\n"
    )
    run_program(whole, text)


def test_a_reference_is_kept_while_the_task_that_has_it_waits(whole: System, tmp_path: Path) -> None:
    """Without a loan, which ends after a time: the program's holder counts the object for as long as the task is queued, though nobody else has it."""
    text = (
        "import gc, sys, pathlib, threading, unios\n"
        "from unios.client.objects.counts import COUNTS, ask\n"
        "from tests.e2e import deeds\n"
        "folder = sys.argv[1]\n"
        "with unios.Executor(1) as pool:\n"
        "    first = pool.submit(deeds.mark_and_wait, folder, 'a')\n"
        "    ref = unios.put(bytes(1_000_000))\n"
        "    before, told = ask('statistics')['loans'], threading.Event()\n"
        "    later = pool.submit(deeds.read, ref)\n"
        "    del ref; gc.collect()\n"
        "    COUNTS.tie().post(told.set)\n"
        "    assert told.wait(20) and ask('statistics')['loans'] <= before\n"
        "    pathlib.Path(folder, 'go').touch()\n"
        "    assert later.result() == 1_000_000\n"
    )
    run_program(whole, text, str(tmp_path))


def test_what_a_nested_task_has_referred_to_is_lent_to_it_when_it_has_ended(whole: System) -> None:
    text = (
        "import unios\n"
        "from tests.e2e import deeds\n"
        "ref = unios.put(bytes(1_000_000))\n"
        "with unios.Executor(2) as pool: print(pool.submit(deeds.loans_after_a_nested_task, pool, ref).result() > 0)\n"
    )
    assert run_program(whole, text) == "True\n"
