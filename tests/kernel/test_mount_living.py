"""Mounts that a kernel keeps, with the real Linux: they live on in kernel or service, are made anew when both are gone, and are away at the node's end."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.fuse.mounted import needs_fuse
from tests.kernel.mounting_kernel import Kernel, all_held, on_disk, run
from unios.core.supervision import Died, Wanted
from unios.errors import CallerError, NotFound, Unavailable
from unios.fuse import mounting
from unios.fuse.channel import Channel, Unmounted
from unios.kernel import founding, mount_records, parts, replacing, runfiles, sweep
from unios.kernel.mount_keeping import MountKeeping
from unios.kernel.supervisor import Supervisor
from unios.mount_limits import MOUNT_GIVE_S
from unios.wire.home import Home, NodeFolder
from unios.wire.installation import Installation
from unios.wire.mounts import GiveMount, MountsView, MountView, OfMount

pytestmark = needs_fuse


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount on; whatever is mounted beside it in the end is taken away."""
    made = tmp_path / "mounts/a"
    made.mkdir(parents=True)
    yield made
    for path in [path for path, (kind, _source) in mounting._mounts().items() if kind == mounting.KIND and path.startswith(str(tmp_path))]:
        mounting.unmount(Path(path))


@pytest.fixture
def folder(tmp_path: Path) -> NodeFolder:
    made = NodeFolder(tmp_path / "home/nodes/n1")
    made.run.mkdir(parents=True)
    made.node_file.touch()
    return made


def is_alive(descriptor: int) -> bool:
    """Whether the mount of this descriptor is there: Linux has asked INIT, or would."""
    os.set_blocking(descriptor, False)
    try:
        os.read(descriptor, 1 << 21)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def test_a_mount_lives_on_in_its_service_and_comes_back_to_the_next_kernel(folder: NodeFolder, place: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(place)
            assert mounting.source_of(place) == mount_records.source_of(view.number)
            channel = Channel.begin(await kernel.open(view))  # a service
        async with Kernel(folder, give_s=20) as kernel:
            await kernel.do("give", GiveMount(view.folder, view.number, b"agreed"), os.dup(channel.descriptor))
            (again,) = (await kernel.until(all_held)).mounts
            assert again == MountView(view.folder, view.number, b"agreed")
            channel.close()  # the service dies
            assert is_alive(await kernel.open(again)) and mounting.source_of(place) == mount_records.source_of(view.number)

    run(work)


def test_when_both_are_gone_it_is_mounted_anew_and_whoever_waited_is_let_go(folder: NodeFolder, place: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(place)
        code = f"import os, errno\ntry:\n    os.stat({str(place)!r})\nexcept OSError as error:\n    print(errno.errorcode[error.errno])"
        said = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True, timeout=20, cwd="/")
        assert said.stdout.strip() == b"ENOTCONN", "it is dead"
        async with Kernel(folder) as kernel:
            (anew,) = (await kernel.until(all_held)).mounts
            assert anew.number != view.number and mounting.source_of(place) == mount_records.source_of(anew.number)
            assert is_alive(await kernel.open(anew))
            assert Path("/proc/self/mounts").read_text().count(f" {place} ") == 1

    run(work)


def test_a_service_that_hangs_and_does_not_give_hinders_nobody(folder: NodeFolder, place: Path) -> None:
    """It has the descriptor and answers nothing: what the kernel does goes on, since it never looks into the mount."""

    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(place)
            hung = await kernel.open(view)
        async with Kernel(folder) as kernel:
            (anew,) = (await kernel.until(all_held)).mounts
            os.close(await kernel.open(anew))
            assert await kernel.add(place) == anew == await kernel.add(place.parent / "../mounts/a")
            for inside in (place / "x", place / "../x"):
                with pytest.raises(CallerError, match=r"one in the other|has mounted itself"):
                    await kernel.add(inside)
            with pytest.raises(CallerError, match="above"):
                await kernel.add(place.parent)
            assert not (await kernel.do("remove", OfMount(os.fsencode(place.parent / "b")))).was
            assert (await kernel.do("remove", OfMount(os.fsencode(place)))).was
            assert mounting.kind_of(place) == ""
            assert not is_alive(hung)
            os.close(hung)

    run(work)


def test_a_second_node_is_refused_and_spoils_nothing(folder: NodeFolder, place: Path, tmp_path: Path) -> None:
    other = NodeFolder(tmp_path / "home/nodes/n2")
    other.run.mkdir(parents=True)

    async def work() -> None:
        async with Kernel(folder) as kernel, Kernel(other) as second:
            view = await kernel.add(place)
            for _ in range(2):
                with pytest.raises(Unavailable, match="is mounted already"):
                    await second.add(place)
            assert on_disk(other) == {}
            await second.do("remove", OfMount(view.folder))
            mount_records.take_away(other)
            assert is_alive(await kernel.open(view)) and mounting.source_of(place) == mount_records.source_of(view.number)

    run(work)


def test_what_is_no_folder_is_said(folder: NodeFolder, place: Path) -> None:
    (place / "file").touch()

    async def work() -> None:
        async with Kernel(folder) as kernel:
            with pytest.raises(NotFound):
                await kernel.add(place / "nothing")
            with pytest.raises(CallerError, match="is no folder"):
                await kernel.add(place / "file")
            assert on_disk(folder) == {} and not mount_records.file_of(folder).read_bytes().count(b"nothing")

    run(work)


# the node's end


def mounted(folder: NodeFolder, place: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            await kernel.add(place)

    run(work)


class Stopped:
    """A supervisor, as far as it ends parts."""

    def __init__(self, folder: NodeFolder) -> None:
        self.folder, self._pidfds, self.told = folder, dict[int, Any](), list[Any]()
        self._poll = SimpleNamespace(unregister=lambda _descriptor: None)
        self._tell = self.told.append


@pytest.mark.parametrize("way", ["supervisor", "sweep"])
def test_the_end_of_a_node_leaves_no_mount_and_keeps_the_records(way: str, folder: NodeFolder, place: Path) -> None:
    mounted(folder, place)
    before = on_disk(folder)
    Supervisor._stop_parts(cast(Any, Stopped(folder))) if way == "supervisor" else sweep.kill([folder])
    assert mounting.kind_of(place) == "" and on_disk(folder) == before

    async def work() -> None:
        async with Kernel(folder, give_s=3_600) as kernel:
            await kernel.until(all_held)
            assert mounting.kind_of(place) == mounting.KIND and kernel.wanted

    run(work)


def test_a_node_that_has_left_for_good_keeps_no_records(folder: NodeFolder, place: Path) -> None:
    mounted(folder, place)
    folder.node_file.rename(folder.path / "node.json.left")
    Supervisor._stop_parts(cast(Any, Stopped(folder)))
    assert mounting.kind_of(place) == "" and not mount_records.file_of(folder).exists()


def test_the_end_of_a_node_waits_for_no_folder_that_hangs(
    folder: NodeFolder, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mounted(folder, place)
    go_on = threading.Event()
    monkeypatch.setattr(mount_records, "UNMOUNT_S", 0.01)
    monkeypatch.setattr(mounting, "unmount", lambda _folder, *, source: go_on.wait(20))
    mount_records.take_away(folder)
    go_on.set()
    assert "could not be unmounted" in capfd.readouterr().err


# the service


def ended(folder: NodeFolder, code: int, name: str = "files") -> Stopped:
    """A supervisor that has buried the service."""
    made = Stopped(folder)
    process = subprocess.Popen([sys.executable, "-c", f"import sys; sys.exit({code})"])
    running = runfiles.Running(process.pid, runfiles.start_of(process.pid))
    descriptor = os.pidfd_open(process.pid)
    runfiles.wait_readable(descriptor, 20)
    process.returncode = 0  # whoever it is that reaps it
    made._pidfds[descriptor] = (name, running)
    parts.wanted(folder, name).touch()
    Supervisor._buried(cast(Any, made), descriptor)
    return made


def test_the_service_runs_as_long_as_there_are_mounts(folder: NodeFolder, place: Path) -> None:
    without = ended(folder, 0)
    assert without.told == [Wanted("files", run=False)] and not parts.wanted(folder, "files").exists()
    mount_records.write(folder, [mount_records.MountRecord(os.fsencode(place), 7)])
    for code in (0, 3):
        (died,) = ended(folder, code).told
        assert isinstance(died, Died) and died.code == code and parts.wanted(folder, "files").exists()
    assert ended(folder, 0, "archive").told == [Wanted("archive", run=False)]


def test_an_upgrade_ends_the_service_when_the_kernel_has_what_it_keeps(folder: NodeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("running", "_ready", "_wait", "_replace_supervisor"):
        monkeypatch.setattr(replacing, name, lambda *_given: {})
    monkeypatch.setattr(replacing, "LeaseBridge", lambda *_given: contextlib.nullcontext())
    monkeypatch.setattr(replacing, "_replace_part", lambda _home, _folder, name: done.append(name))
    monkeypatch.setattr(replacing, "_wait_given", lambda _folder: done.append("given"))
    one = Installation("python", "path", "release")
    replacing.replace(Home(folder.path.parent.parent), folder, one, one)
    at = done.index("given")
    assert "kernel" in done[:at] and done[at + 1] == "files"


def test_an_upgrade_waits_until_the_new_kernel_has_what_the_service_keeps(folder: NodeFolder, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []

    def ask(_folder: NodeFolder, op: str, *_rest: Any, **_named: Any) -> MountsView:
        assert op == "mounts.list"
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return MountsView(1, (MountView(b"/a", 7), MountView(b"/b", 8, held=answer)))

    monkeypatch.setattr(founding, "ask", ask)
    replacing._wait_given(folder)
    mount_records.write(folder, [mount_records.MountRecord(b"/b", 8)])
    for wanted in ([FileNotFoundError(), Unavailable("not yet"), False, True], [CallerError("it has no operation mounts.list")]):
        answers[:] = [*wanted, AssertionError("it has it")]
        replacing._wait_given(folder)
        assert len(answers) == 1
    clock = iter([0.0, 1.0, 1_000.0])
    monkeypatch.setattr(replacing.time, "monotonic", lambda: next(clock))
    answers[:] = [False, False]
    replacing._wait_given(folder)
    assert not answers, "a folder that is gone keeps no node from its upgrade"


def test_the_bounds_fit() -> None:
    keeping = MountKeeping.__init__.__kwdefaults__
    assert keeping is not None and keeping["give_s"] == MOUNT_GIVE_S < replacing.START_S


def test_who_reads_what_was_unmounted_is_told(folder: NodeFolder, place: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(place)
            channel = Channel.begin(await kernel.open(view))
            await kernel.do("remove", OfMount(view.folder))
            with pytest.raises(Unmounted):
                channel.read()
            channel.close()

    run(work)
