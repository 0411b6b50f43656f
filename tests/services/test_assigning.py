"""Which nodes' services give processes their nodes: where somebody speaks for root only those who do, since the store takes it from nobody else."""

from types import SimpleNamespace
from typing import Any, cast

from unios.client.aio import Kernel
from unios.core import claims
from unios.core.nodes import NodeRecord, node_key
from unios.core.processes import ProcessSpec
from unios.services.policies import Policies
from unios.services.queueing import Queueing
from unios.services.starter import Starter
from unios.services.view import View

BOBS = claims.submitted(400, ProcessSpec(argv=(b"x",), user="bob"), "bob", "", "", 1)


def view_of(me: str, *nodes: NodeRecord) -> View:
    kernel = cast(Kernel, SimpleNamespace(folder=SimpleNamespace(name=me)))
    view = View(kernel)
    for node in nodes:
        view.nodes.values[node_key(node.name)] = node
        view.books.offer(node)
    cast(Any, view).ready = lambda: [node.name for node in nodes]
    return view


def node(name: str, *users: str, **fields: Any) -> NodeRecord:
    return NodeRecord(name=name, machine=name, incarnation=1, users=users, cores=4, **fields)


def test_in_a_system_of_root_those_who_speak_for_root_assign() -> None:
    nodes = (node("n1", "*", "root"), node("n2", "bob"), node("n3", "*"))
    assert [view_of(name, *nodes).assigns() for name in ("n1", "n2", "n3")] == [True, False, False]


def test_where_nobody_speaks_for_root_everybody_assigns() -> None:
    assert view_of("n2", node("n1", "bob"), node("n2", "bob")).assigns()
    assert view_of("n2", node("n1", "*", "root", state="left"), node("n2", "bob")).assigns()


def test_what_is_to_begin_again_is_left_to_the_queue_by_who_does_not_assign() -> None:
    for me, best in (("n1", "n1"), ("n2", "")):
        view = view_of(me, node("n1", "*", "root"), node("n2"))
        starter = Starter(cast(Kernel, None), view, Policies(view.books), lambda: 1)
        assert starter.best(BOBS)[0] == best


def test_the_queue_is_run_by_who_assigns() -> None:
    for me, begun in (("n1", [400]), ("n2", [])):
        view = view_of(me, node("n1", "*", "root"), node("n2", "bob"))
        cast(Any, view).runner = lambda _user, me=me: me
        queueing = Queueing(me)
        queueing.open(view, Starter(cast(Kernel, None), view, Policies(view.books), lambda: 1))
        queueing.queue.put(400, BOBS)
        started: list[int] = []
        cast(Any, queueing)._begin = lambda pid, work, started=started: (started.append(pid), work.close())
        queueing._look()
        assert started == begun
