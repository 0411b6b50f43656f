"""Where a port is open, and who waits for it: looked up and woken by its name."""

import asyncio

from tests.wire.pairs import bounded, settled
from unios.kernel.port_places import PortPlaces
from unios.kernel.ports import PortRecord


def record(name: str, node: str, mode: int = 0o600) -> PortRecord:
    return PortRecord(name, node, "ann", mode)


def test_the_other_nodes_are_known_by_the_ports_name() -> None:
    places = PortPlaces("n1", lambda _name: False)
    for name, node in (("p", "n3"), ("p", "n2"), ("p", "n1"), ("q", "n2")):
        places.on_change("", None, record(name, node))
    places.on_change("", record("p", "n2"), record("p", "n2", 0o666))
    assert places.of("p") == ["n2", "n3"] and places.of("q") == ["n2"] and places.of("r") == []
    for name, node in (("p", "n3"), ("p", "n1"), ("q", "n2"), ("r", "n2")):
        places.on_change("", record(name, node), None)
    assert places.of("p") == ["n2"] and places.of("q") == []
    places.on_change("", record("p", "n2"), None)
    assert not places._of


def test_who_waits_is_woken_for_his_port_alone_and_leaves_nothing_behind() -> None:
    async def work() -> None:
        here: set[str] = set()
        places = PortPlaces("n1", here.__contains__)
        waits = {name: [asyncio.create_task(places.wait(name)) for _ in range(2)] for name in ("p", "q", "r")}
        await settled()
        places.on_change("", None, record("p", "n2"))
        places.changed("q")
        await settled()
        assert [all(task.done() for task in tasks) for tasks in waits.values()] == [True, True, False]
        waits["r"][0].cancel()
        await settled()
        assert not waits["r"][1].done()
        waits["r"][1].cancel()
        await settled()
        assert not places._waiting
        here.add("s")
        await places.wait("s")

    bounded(work)
