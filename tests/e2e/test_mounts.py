"""Mounts of a real node: they are there again after the kernel was killed and after the node was down, and none is left when it is."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import System, wait_for
from tests.fuse.mounted import needs_fuse
from unios.errors import CallerError, Unavailable
from unios.fuse import mounting
from unios.kernel import founding, mount_records, runfiles
from unios.wire.doors import connect_unix
from unios.wire.home import Home, NodeFolder
from unios.wire.mounts import ListMounts, Mount, MountsView, MountView, OfMount, OpenMount, Unmounted
from unios.wire.peer import Peer
from unios.wire.transport import SocketTransport

pytestmark = needs_fuse


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder to mount on."""
    made = Path(tempfile.mkdtemp(prefix="unios-mount-"))
    yield made
    mounting.unmount(made)
    os.rmdir(made)


def node(system: System, name: str = "n1") -> NodeFolder:
    return Home(system.home / "home").node(name)


def held(folder: NodeFolder) -> MountView:
    """Wait until the node's one mount is there."""
    view = MountsView(0, ())
    while not (view.mounts and view.mounts[0].held):
        try:
            view = founding.ask(folder, "mounts.list", ListMounts(view.version, 10_000), MountsView)
        except (OSError, Unavailable):  # the kernel has just been killed
            view = MountsView(0, ())
    return view.mounts[0]


def test_mounts_live_and_end_with_their_node(place: Path) -> None:
    with System() as system:
        system.unios("up", "--nodes", "2")
        folder = node(system)
        added: MountView = founding.ask(folder, "mounts.add", Mount(os.fsencode(place)), MountView)
        assert mounting.source_of(place) == mount_records.source_of(added.number)
        with pytest.raises(Unavailable, match="is mounted already"):
            founding.ask(node(system, "n2"), "mounts.add", Mount(os.fsencode(place)), MountView)

        kernel = runfiles.read(folder.run / "kernel.json")
        assert kernel is not None and runfiles.kill(kernel, signal.SIGKILL)
        runfiles.wait_gone(kernel, 10)
        again = held(folder)
        assert mounting.source_of(place) == mount_records.source_of(again.number)

        system.unios("down", "--all")
        assert mounting.kind_of(place) == "" and len(mount_records.read(folder)) == 1
        system.unios("up")
        anew = held(folder)
        assert anew.number != again.number and mounting.source_of(place) == mount_records.source_of(anew.number)

        for name in ("supervisor", "guard", "kernel", "files"):  # and `down` finds a node of which nothing lives
            running = runfiles.read(folder.run / f"{name}.json")
            if running is not None:
                runfiles.kill(running, signal.SIGKILL)
        system.unios("down", "--all")
        assert mounting.kind_of(place) == ""
        system.unios("up")
        held(folder)
        assert founding.ask(folder, "mounts.remove", OfMount(os.fsencode(place)), Unmounted) == Unmounted(True)
        assert mounting.kind_of(place) == "" and mount_records.read(folder) == []


def test_a_descriptor_comes_from_the_node_itself_and_the_rest_by_way_of_another(place: Path) -> None:
    async def work(system: System) -> None:
        peer = Peer(SocketTransport(connect_unix(node(system, "n2").door)))
        await peer.start()

        async def ask(op: str, body: object, type_: Any, at: str = "n1") -> Any:
            return await peer.call(op, body, type_, node=at)

        view: MountView = await ask("mounts.add", Mount(os.fsencode(place)), MountView)
        assert (await ask("mounts.list", ListMounts(), MountsView, "")).mounts == ()
        for op in ("mounts.open", "mounts.give"):
            with pytest.raises(CallerError, match="descriptors"):
                await ask(op, OpenMount(view.folder, view.number), MountView)
        assert (await ask("mounts.remove", OfMount(view.folder), Unmounted)).was
        peer.close()

        straight = Peer(SocketTransport(connect_unix(node(system).door)))
        await straight.start()
        view = await straight.call("mounts.add", Mount(os.fsencode(place)), MountView)
        _raw, (descriptor,) = await straight.call_with_descriptors("mounts.open", OpenMount(view.folder, view.number))
        assert os.readlink(f"/proc/self/fd/{descriptor}") == mounting.DEVICE
        os.close(descriptor)
        straight.close()

    with System() as system:
        system.unios("up", "--nodes", "2")
        wait_for(system.nodes, lambda nodes: {each["state"] for each in nodes.values()} == {"ready"}, "both are ready")
        asyncio.run(asyncio.wait_for(work(system), 60))
