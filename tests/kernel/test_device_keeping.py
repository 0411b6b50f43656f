"""Which tree has which device: read from what trees have written down, beside the loop, before anything is done for a start."""

import asyncio
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from unios.core.processes import ProcessRecord, ProcessSpec
from unios.demands import Carry, Device, Resources
from unios.errors import CallerError, NoRoom, NotFound
from unios.kernel import spawning
from unios.kernel.device_keeping import DeviceKeeping
from unios.kernel.devices import Roots
from unios.kernel.runfiles import start_of

PORTS = tuple(Device("serial", f"/dev/ttyUSB{number}") for number in range(2))


class Scene:
    """Two nodes of a machine with two ports; the node is n1."""

    def __init__(self, top: Path) -> None:
        self.nodes = [SimpleNamespace(name=name, trees=top / name / "trees") for name in ("n1", "n2")]
        for node in self.nodes:
            node.trees.mkdir(parents=True)
        home = SimpleNamespace(path=top, nodes=lambda: self.nodes)
        self.node = SimpleNamespace(name="n1", home=home, folder=self.nodes[0])
        self.keeping = DeviceKeeping(cast(Any, self.node), Roots(str(top / "none"), str(top / "none"), str(top / "none")))
        self.keeping.present = PORTS

    def tree(self, node: int, pid: int, **fields: Any) -> None:
        folder = self.nodes[node].trees / f"{pid}.1"
        folder.mkdir()
        me = os.getpid()
        (folder / "tree.json").write_text(json.dumps({"pid": pid, "init_pid": me, "init_start": start_of(me), **fields}))

    def given(self, *requests: str, pid: int = 500) -> list[str]:
        record = ProcessRecord(pid, 1, "pending", "ann", resources=Resources(devices=requests))

        async def work() -> list[str]:
            async with self.keeping.given(record) as devices:
                return [device.path for device in devices]

        return asyncio.run(work())


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_what_living_trees_of_all_nodes_of_the_machine_have_is_not_given(scene: Scene) -> None:
    assert scene.given("serial:2") == ["/dev/ttyUSB0", "/dev/ttyUSB1"]
    scene.tree(1, 400, devices=["/dev/ttyUSB0"])
    scene.tree(0, 401)
    assert scene.given("serial") == ["/dev/ttyUSB1"]
    scene.tree(0, 402, devices=["/dev/ttyUSB1"])
    with pytest.raises(NoRoom):
        scene.given("serial")
    with pytest.raises(NotFound):
        scene.given("serial:3")
    with pytest.raises(CallerError):
        scene.given("?")
    assert scene.given("serial", pid=402) == ["/dev/ttyUSB1"]  # an earlier start of the same


def test_what_ended_or_broken_trees_had_is_free(scene: Scene) -> None:
    scene.tree(1, 400, devices=["/dev/ttyUSB0"], init_start=1)
    scene.tree(0, 401, devices=["/dev/ttyUSB0"], init_pid=None)
    scene.tree(0, 402, devices=5)
    scene.tree(0, 404, devices=["/dev/ttyUSB0"])
    (scene.nodes[0].trees / "404.1" / "exit.json").touch()  # its init has another tree by now
    (scene.nodes[0].trees / "403.1").mkdir()
    assert scene.given("serial") == ["/dev/ttyUSB0"]


def test_the_trees_are_read_beside_the_loop(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    read_by: list[threading.Thread] = []
    listdir = os.listdir

    def noting(path: Any) -> list[str]:
        read_by.append(threading.current_thread())
        return listdir(path)

    monkeypatch.setattr("unios.kernel.device_keeping.os.listdir", noting)
    scene.given("serial")
    assert read_by and threading.main_thread() not in read_by


def test_the_devices_of_a_process_that_runs_are_known_by_what_its_tree_was_given(scene: Scene) -> None:
    scene.tree(0, 400, devices=["/dev/ttyUSB1", "/dev/gone"])
    found = asyncio.run(scene.keeping.of(400, 1))
    assert found == (PORTS[1], Device("", "/dev/gone"))
    assert scene.keeping.environment(found)[b"UNIOS_DEVICES"] == b"/dev/ttyUSB1:/dev/gone"
    assert asyncio.run(scene.keeping.of(401, 1)) == ()


def test_a_folder_is_not_laid_out_for_a_process_that_gets_no_device(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.tree(1, 400, devices=["/dev/ttyUSB0", "/dev/ttyUSB1"])
    done: list[str] = []

    async def note(*_all: object) -> None:
        done.append("laid out")

    async def admit(_record: ProcessRecord) -> None:
        pass

    record = ProcessRecord(500, 1, "pending", "ann", node="n1", resources=Resources(devices=("serial",)))
    spec = ProcessSpec((b"x",), user="ann", carry=Carry(b"m" * 32))

    async def read_both(_pid: int) -> tuple[ProcessRecord, ProcessSpec]:
        return record, spec

    scene.node.leasing, scene.node.starts = SimpleNamespace(incarnation=1, left_ms=lambda: 1), spawning.Starts()
    scene.node.records = SimpleNamespace(read_both=read_both)
    scene.node.admission = SimpleNamespace(admit=admit)
    scene.node.carrying = SimpleNamespace(lay_out=note)
    scene.node.devices = scene.keeping
    monkeypatch.setattr(spawning, "job_of", lambda *_all: {})
    with pytest.raises(NoRoom):
        asyncio.run(spawning._start(cast(Any, scene.node), 500, 1, None))
    assert done == []
