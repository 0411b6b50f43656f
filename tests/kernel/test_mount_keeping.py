"""Mounts that a kernel keeps, with a Linux that is played: what is on disk when, who is given what, and what becomes of it when a kernel begins anew."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.mounting_kernel import ANN, Kernel, all_held, on_disk, run
from unios.errors import CallerError, Denied, NoRoom, NotFound, Unavailable
from unios.fuse import mounting
from unios.kernel import mount_keeping, mount_records, runfiles
from unios.kernel.dispatch import LOCAL_ONLY
from unios.mount_limits import MOUNT_AGREED_BYTES_MAX
from unios.wire.home import Home, NodeFolder
from unios.wire.mounts import GiveMount, ListMounts, Mount, MountView, NoteMount, OfMount, OpenMount, Unmounted


class Linux:
    """What is mounted, by folder, and the descriptors' other ends: one is dead when nobody has this end."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}
        self.ends: dict[str, int] = {}
        self.done: list[str] = []
        self.refuses: Exception | None = None
        self.hangs = threading.Event()
        self.hangs.set()

    def mount(self, folder: Path, *, source: str) -> int:
        self.hangs.wait(20)
        if self.refuses is not None:
            raise self.refuses
        if str(folder) in self.there:
            raise Unavailable(f"{folder} is mounted already: unmount it first")
        self.done.append(f"mount {folder.name}")
        self.there[str(folder)] = source
        mine, self.ends[source] = os.pipe()
        return mine

    def unmount(self, folder: Path, *, source: str = "") -> bool:
        if self.there.get(str(folder)) != source:
            return False
        self.done.append(f"unmount {folder.name}")
        del self.there[str(folder)]
        return True

    def source_of(self, folder: Path) -> str:
        return self.there.get(str(folder), "")

    def reached(self, folder: Path) -> Path:
        return folder.resolve()

    def is_dead(self, number: int) -> bool:
        """Whether nobody has the descriptor of that mount any more."""
        try:
            os.write(self.ends[mount_records.source_of(number)], b".")
        except BrokenPipeError:
            return True
        return False

    def close(self) -> None:
        for end in self.ends.values():
            os.close(end)


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> Iterator[Linux]:
    made = Linux()
    for name in ("mount", "unmount", "source_of", "reached"):
        monkeypatch.setattr(mounting, name, getattr(made, name))
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> NodeFolder:
    made = NodeFolder(tmp_path / "home/nodes/n1")
    made.path.mkdir(parents=True)
    return made


# adding and removing


def test_a_mount_is_on_disk_before_it_is_mounted_and_its_service_is_wanted(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    seen: list[dict[bytes, int]] = []
    mount = linux.mount

    def watched(path: Path, *, source: str) -> int:
        seen.append(on_disk(folder))
        return mount(path, source=source)

    mounting.mount = watched  # type: ignore[assignment]

    async def work() -> None:
        async with Kernel(folder) as kernel:
            assert kernel.wanted == 0
            view = await kernel.add(tmp_path / "a")
            assert view.held and view.number and seen == [{view.folder: view.number}] == [on_disk(folder)] and kernel.wanted == 1
            assert await kernel.add(tmp_path / "a") == view and linux.done == ["mount a"], "idempotent"
            assert (await kernel.list()).mounts == (view,)

    run(work)


def test_what_cannot_be_written_down_is_not_mounted(folder: NodeFolder, linux: Linux, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_folder: NodeFolder, _records: object) -> None:
        raise OSError(28, "No space left on device")

    async def work() -> None:
        async with Kernel(folder) as kernel:
            kept = await kernel.add(tmp_path / "kept")
            monkeypatch.setattr(mount_records, "write", full)
            with pytest.raises(NoRoom, match="cannot be written down"):
                await kernel.add(tmp_path / "a")
            with pytest.raises(NoRoom):
                await kernel.do("remove", OfMount(kept.folder))
            assert linux.done == ["mount kept"] and (await kernel.list()).mounts == (kept,) and not linux.is_dead(kept.number)
            monkeypatch.undo()
            for name in ("mount", "unmount", "source_of", "reached"):
                monkeypatch.setattr(mounting, name, getattr(linux, name))
            assert await kernel.do("remove", OfMount(kept.folder)) == Unmounted(True)

    run(work)


def test_what_linux_refuses_is_forgotten_and_said(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            linux.refuses = NotFound("there is no folder")
            with pytest.raises(NotFound, match="there is no folder"):
                await kernel.add(tmp_path / "a")
            assert on_disk(folder) == {} and (await kernel.list()).mounts == () and kernel.wanted == 0
            linux.refuses = None
            assert (await kernel.add(tmp_path / "a")).held

    run(work)


def test_what_is_removed_is_off_the_disk_first_and_then_unmounted_and_let_go_of(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    seen: list[dict[bytes, int]] = []
    unmount = linux.unmount

    def watched(path: Path, *, source: str = "") -> bool:
        seen.append(on_disk(folder))
        return unmount(path, source=source)

    mounting.unmount = watched  # type: ignore[assignment]

    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(tmp_path / "a")
            assert await kernel.do("remove", OfMount(view.folder)) == Unmounted(True)
            assert seen == [{}] and linux.there == {} and linux.is_dead(view.number)
            assert await kernel.do("remove", OfMount(view.folder)) == Unmounted(False)
            assert (await kernel.list()).mounts == ()
            with pytest.raises(NotFound):
                await kernel.open(view)
            assert (await kernel.add(tmp_path / "a")).number != view.number
        assert len(kernel.keeping._locks) == 0, "nothing is left of folders that were asked about"

    run(work)


def test_what_somebody_has_unmounted_by_hand_is_mounted_anew_when_it_is_added(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(tmp_path / "a")
            linux.there.clear()
            anew = await kernel.add(tmp_path / "a")
            assert anew.number != view.number and linux.is_dead(view.number) and not linux.is_dead(anew.number)

    run(work)


def test_who_gives_up_waiting_leaves_no_mount_that_nobody_knows_of(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            linux.hangs.clear()
            asked = asyncio.create_task(kernel.add(tmp_path / "a"))
            await kernel.until(lambda view: bool(view.mounts))
            asked.cancel()
            linux.hangs.set()
            (view,) = (await kernel.until(lambda view: bool(view.mounts) and all_held(view))).mounts
            assert not linux.is_dead(view.number)

    run(work)


def test_where_nothing_may_be_mounted(folder: NodeFolder, linux: Linux, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            for named in (b"", b"relative", b"/a\0b", b"/" + b"x" * 4_095):
                for op, body in (("add", Mount(named)), ("remove", OfMount(named))):
                    with pytest.raises(CallerError, match="named from / on"):
                        await kernel.do(op, body)
            for own in (tmp_path, tmp_path / "home", folder.path / "x"):
                with pytest.raises(CallerError, match="what is its own"):
                    await kernel.add(own)
            await kernel.add(tmp_path / "a/b")
            for near in (tmp_path / "a/b/c", tmp_path / "a"):
                with pytest.raises(CallerError, match="one in the other"):
                    await kernel.add(near)
            await kernel.add(tmp_path / "a/bc")
            assert len(linux.there) == 2
            monkeypatch.setattr(mount_keeping, "MOUNTS_MAX", 2)
            with pytest.raises(Unavailable, match="the limit"):
                await kernel.add(tmp_path / "c")
            assert (await kernel.add(tmp_path / "a/bc")).held, "what is there is none more"

    run(work)


# who is given what


@pytest.mark.parametrize("op", ["add", "remove", "list", "open", "note", "give"])
def test_only_the_privileged_have_to_do_with_mounts(op: str, folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(tmp_path / "a")
            bodies = {
                "add": Mount(os.fsencode(tmp_path / "b")),
                "remove": OfMount(view.folder),
                "list": ListMounts(),
                "open": OpenMount(view.folder, view.number),
                "note": NoteMount(view.folder, view.number, b"x"),
                "give": GiveMount(view.folder, view.number, b"x"),
            }
            with pytest.raises(Denied, match="root"):
                await kernel.do(op, bodies[op], caller=ANN)
            assert (await kernel.list()).mounts == (view,)

    run(work)


def test_what_carries_descriptors_stays_on_the_machine() -> None:
    assert {"mounts.open", "mounts.give"} <= LOCAL_ONLY


def test_a_descriptor_is_opened_by_number_and_keeps_the_mount_alive(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(tmp_path / "a")
            held = await kernel.open(view)
            for op, body in (
                ("open", OpenMount(view.folder, view.number + 1)),
                ("note", NoteMount(view.folder, view.number + 1, b"x")),
                ("open", OpenMount(view.folder + b"x", view.number)),
            ):
                with pytest.raises(NotFound):
                    await kernel.do(op, body)
            await kernel.do("note", NoteMount(view.folder, view.number, b"agreed"))
            assert (await kernel.list()).mounts == (MountView(view.folder, view.number, b"agreed"),)
            with pytest.raises(CallerError, match="at most"):
                await kernel.do("note", NoteMount(view.folder, view.number, bytes(MOUNT_AGREED_BYTES_MAX + 1)))
        assert not linux.is_dead(view.number)
        os.close(held)
        assert linux.is_dead(view.number), "the kernel has let go of it at its end"

    run(work)


def test_the_list_is_answered_when_something_changes(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            empty = await kernel.list()
            assert empty.version and empty.mounts == ()
            assert await kernel.list(empty.version, 1) == empty, "nothing has changed"
            waiting = asyncio.create_task(kernel.list(empty.version, 30_000))
            await asyncio.sleep(0)
            view = await kernel.add(tmp_path / "a")
            seen = await waiting
            assert seen.version != empty.version and seen.mounts[0].folder == view.folder
            now = await kernel.list(seen.version, 30_000) if not all_held(seen) else seen
            assert now.mounts == (view,)
            for change in (
                kernel.do("note", NoteMount(view.folder, view.number, b"x")),
                kernel.do("remove", OfMount(view.folder)),
            ):
                waiting = asyncio.create_task(kernel.list(now.version, 30_000))
                await asyncio.sleep(0)
                await change
                assert (await waiting).version != now.version
                now = await kernel.list()

    run(work)


def test_a_kernel_that_begins_anew_has_another_version(folder: NodeFolder, linux: Linux) -> None:
    async def work() -> None:
        assert len({Kernel(folder).keeping.table.version for _ in range(20)}) == 20

    run(work)


def test_who_waits_for_the_list_waits_no_longer_than_he_may(folder: NodeFolder, linux: Linux, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            seconds: list[float] = []

            async def wait(_since: int, wait_s: float) -> None:
                seconds.append(wait_s)

            monkeypatch.setattr(kernel.keeping.table, "wait_changed", wait)
            await kernel.list(1, 3_600_000)
            assert seconds == [30]

    run(work)


# a kernel that begins anew


def test_a_new_kernel_is_given_the_mount_by_its_service_and_programs_notice_nothing(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(tmp_path / "a")
            mine = await kernel.open(view)
        async with Kernel(folder, give_s=3_600) as kernel:
            assert kernel.wanted == 1
            assert (await kernel.list()).mounts == (MountView(view.folder, view.number, held=False),)
            with pytest.raises(Unavailable, match="not mounted just now"):
                await kernel.open(view)
            with pytest.raises(CallerError, match="one descriptor"):
                await kernel.do("give", GiveMount(view.folder, view.number, b""))
            with pytest.raises(CallerError, match="at most"):
                await kernel.do("give", GiveMount(view.folder, view.number, bytes(MOUNT_AGREED_BYTES_MAX + 1)), mine)
            with pytest.raises(NotFound):
                await kernel.do("give", GiveMount(view.folder, view.number + 1, b"x"), os.dup(mine))
            while not getattr(kernel.keeping._given.get(view.folder), "_waiters", ()):
                await asyncio.sleep(0.001)
            await kernel.do("give", GiveMount(view.folder, view.number, b"agreed"), os.dup(mine))
            now = (await kernel.until(all_held)).mounts
            assert now == (MountView(view.folder, view.number, b"agreed"),)
            await kernel.do("give", GiveMount(view.folder, view.number, b""), os.dup(mine))
            assert (await kernel.add(tmp_path / "a")) == now[0], "it is through with what was there, and keeps what was agreed"
            os.close(mine)
            assert not linux.is_dead(view.number) and linux.done == ["mount a"]
        assert linux.is_dead(view.number), "of what was given twice, or in vain, nothing is left open"

    run(work)


def test_what_is_given_before_the_kernel_looks_is_not_waited_for_again(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(tmp_path / "a")
            mine = await kernel.open(view)
        kernel = Kernel(folder, give_s=3_600)
        await kernel.do("give", GiveMount(view.folder, view.number, b"agreed"), mine)
        async with kernel:
            assert await kernel.add(tmp_path / "a") == MountView(view.folder, view.number, b"agreed")
            assert linux.done == ["mount a"]

    run(work)


def test_what_nobody_gives_is_mounted_anew_and_what_comes_late_is_not_taken(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(tmp_path / "a")
            late = await kernel.open(view)
        async with Kernel(folder) as kernel:
            (anew,) = (await kernel.until(all_held)).mounts
            assert anew.number != view.number and anew.agreed == b"" and linux.done == ["mount a", "unmount a", "mount a"]
            assert on_disk(folder) == {anew.folder: anew.number}
            with pytest.raises(NotFound, match="anew"):
                await kernel.do("give", GiveMount(view.folder, view.number, b"x"), late)
            assert linux.is_dead(view.number) and not linux.is_dead(anew.number)

    run(work)


def test_while_it_is_mounted_anew_what_was_before_is_not_taken(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(tmp_path / "a")
            late = await kernel.open(view)
        linux.hangs.clear()
        async with Kernel(folder) as kernel:
            (anew,) = (await kernel.until(lambda now: now.mounts[0].number != view.number)).mounts
            assert not anew.held
            with pytest.raises(NotFound, match="anew"):
                await kernel.do("give", GiveMount(view.folder, view.number, b"x"), late)
            linux.hangs.set()
            assert (await kernel.until(all_held)).mounts[0].number == anew.number

    run(work)


def test_what_is_not_there_any_more_is_not_waited_for(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            await kernel.add(tmp_path / "a")
        linux.there.clear()
        async with Kernel(folder, give_s=3_600) as kernel:
            await kernel.until(all_held)

    run(work)


def test_a_folder_that_is_gone_keeps_its_record_and_is_complained_of(
    folder: NodeFolder, linux: Linux, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            await kernel.add(tmp_path / "a")
            await kernel.add(tmp_path / "b")
        linux.there.clear()
        mount = linux.mount

        def gone(path: Path, *, source: str) -> int:
            if path.name == "a":
                raise NotFound(f"there is no folder {path}")
            return mount(path, source=source)

        mounting.mount = gone  # type: ignore[assignment]
        async with Kernel(folder) as kernel:
            held = await kernel.until(lambda view: any(mount.held for mount in view.mounts))
            while kernel.keeping._tasks:
                await asyncio.sleep(0.001)
            assert [mount.held for mount in held.mounts] == [False, True] and len(on_disk(folder)) == 2
            mounting.mount = mount
            assert (await kernel.add(tmp_path / "a")).held, "it can be had again"
        assert capfd.readouterr().err.count("cannot be mounted again: there is no folder") == 1

    run(work)


def test_what_another_system_has_mounted_there_is_left_alone(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(tmp_path / "a")
        linux.there[str(tmp_path / "a")] = "unios:77"
        async with Kernel(folder) as kernel:
            with pytest.raises(Unavailable, match="is mounted already"):
                await kernel.add(tmp_path / "a")
            await kernel.do("remove", OfMount(view.folder))
        assert linux.there == {str(tmp_path / "a"): "unios:77"}

    run(work)


def test_an_act_that_hangs_holds_nothing_else_up(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(tmp_path / "a")
            linux.hangs.clear()
            stuck = asyncio.create_task(kernel.add(tmp_path / "b"))
            await kernel.until(lambda view: len(view.mounts) == 2)
            os.close(await kernel.open(view))
            await kernel.do("note", NoteMount(view.folder, view.number, b"x"))
            assert await kernel.do("remove", OfMount(view.folder)) == Unmounted(True)
            linux.hangs.set()
            await stuck

    run(work)


def test_records_that_make_no_sense_keep_no_kernel_from_its_work(folder: NodeFolder, linux: Linux, tmp_path: Path) -> None:
    for text in (b"", b"{", b"[]", json.dumps({"mounts": [{"folder": 3}]}).encode()):
        mount_records.file_of(folder).write_bytes(text)
        assert mount_records.read(folder) == []

    async def work() -> None:
        async with Kernel(folder) as kernel:
            view = await kernel.add(tmp_path / "a")
            assert on_disk(folder) == {view.folder: view.number}

    run(work)


def test_who_began_after_the_kernel_has_nothing_of_before(tmp_path: Path) -> None:
    folder = Home(tmp_path).node("n1")
    folder.run.mkdir(parents=True)
    assert not mount_keeping.has_elder(folder)
    for pid, is_elder in ((os.getppid(), True), (os.getpid(), False)):
        runfiles.place(folder.run / "files.json", json.dumps({"pid": pid, "start": runfiles.start_of(pid)}))
        assert mount_keeping.has_elder(folder) == is_elder
