"""Guard and inits, real ones: trees with their pids, and a leash that holds whatever a program does to get away."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.rig import Rig
from tests.paths import found
from unios.errors import CallerError, ProgramNotFound, ProgramNotRunnable, Unavailable
from unios.kernel import linux_pids
from unios.kernel.clocks import boot_ns
from unios.kernel.tree_peer import CwdMissing
from unios.kernel.trees import Trees

ROOT = os.geteuid() == 0
NOBODY = 65_534
KINDS = [
    pytest.param((("--freezer", "v2"), None), id="v2"),
    pytest.param((("--freezer", "v1"), None), id="v1"),
    pytest.param((("--freezer", "signals"), None), id="signals"),
    pytest.param((("--freezer", "signals", "--no-namespaces"), None), id="without namespaces"),
    pytest.param(((), NOBODY), id="ordinary user"),
]


def runs_as(user: int) -> bool:
    """Whether that user may run this interpreter with these packages."""
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", sys.executable, "-c", "import unios.kernel.guard"]
    return subprocess.run(words, cwd="/", capture_output=True).returncode == 0


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    options, user = request.param
    if user is not None and not ROOT:
        pytest.skip("needs root to become another user")
    if user is not None and not runs_as(user):
        pytest.skip(f"user {user} cannot run this Python: a folder above it or above this checkout is closed to others")
    made = Rig(*options, user=user)
    if options[:1] == ("--freezer",) and options[1] in ("v1", "v2"):
        kinds: list[str] = []

        async def look(trees: Trees) -> None:
            kinds.append(trees.freezer)

        made.run(look)
        if kinds != [options[1]]:
            made.close()
            pytest.skip(f"no freezer {options[1]} here")
    yield made
    made.close()


@pytest.fixture
def plain() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


LOOP = "while :; do echo x >> {file}; sleep 0.02; done"


def growing(path: Path, seconds: float = 0.25) -> bool:
    before = path.stat().st_size if path.exists() else 0
    time.sleep(seconds)
    return (path.stat().st_size if path.exists() else 0) != before


async def grows(path: Path) -> None:
    """Wait until it does; the rig bounds the time."""
    before = path.stat().st_size
    while path.stat().st_size == before:
        await asyncio.sleep(0.01)


async def write_and_freeze(rig: Rig, trees: Trees, files: list[Path]) -> None:
    """Keep the lease until a tree has begun to write all of its files, however long that takes; return when it has ended and they stand still."""
    while not all(path.exists() for path in files):
        rig.lease_for(1_000)
        await asyncio.sleep(0.01)
    deadline = boot_ns() + int(1e9)
    rig.lease(deadline)
    while boot_ns() < deadline:
        await asyncio.sleep(0.05)
    while any(growing(path) for path in files):
        await asyncio.sleep(0)
    assert (await trees.init(1000, 1).ask("stats"))["state"] == "frozen"


def shared_folder(rig: Rig) -> Path:
    folder = rig.top / "shared"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    return folder


def test_pid_exit_codes_and_streams(rig: Rig) -> None:
    async def work(trees: Trees) -> None:
        await rig.spawn(trees, 1000, "sh", "-c", "echo $$; echo oops >&2; exit 7")
        fields = await rig.exit_of(1000)
        assert (fields["code"], fields["signal"]) == (7, None)
        if trees.namespaces:
            assert rig.output(1000) == b"1000\n"
        assert rig.output(1000, name="err") == b"oops\n"
        await rig.spawn(trees, 1001, "sh", "-c", "kill -SEGV $$")
        fields = await rig.exit_of(1001)
        assert (fields["code"], fields["signal"]) == (139, 11)

    rig.run(work)


def test_at_the_deadline_everything_stands_still_grandchildren_and_daemons_too(rig: Rig) -> None:
    folder = shared_folder(rig)
    files = [folder / name for name in ("child", "grandchild", "daemon")]

    async def work(trees: Trees) -> None:
        script = (
            f"sh -c '{LOOP.format(file=files[0])}' & "
            f"sh -c \"sh -c '{LOOP.format(file=files[1])}' & wait\" & "
            f"setsid sh -c \"trap '' HUP TERM; {LOOP.format(file=files[2])}\" </dev/null >/dev/null 2>&1 & "
            "sleep 1000"
        )
        rig.lease_for(1_000)
        await rig.spawn(trees, 1000, "sh", "-c", script)
        await write_and_freeze(rig, trees, files)
        rig.lease_for(60_000)
        assert not any(growing(path) for path in files), "a deadline that moves thawed the tree"
        await trees.init(1000, 1).ask("confirm", incarnation=1)
        for path in files:
            await grows(path)
        await trees.init(1000, 1).ask("supersede", incarnation=2)
        assert (await rig.exit_of(1000))["fenced"]
        assert not any(growing(path) for path in files)

    rig.run(work)


@pytest.mark.skipif(not ROOT, reason="needs root to make a setuid program")
def test_a_setuid_program_does_not_get_away(plain: Rig) -> None:
    folder = shared_folder(plain)
    tool = folder / "tool"
    shutil.copy("/bin/sh", tool)
    os.chown(tool, 0, 0)
    tool.chmod(0o4755)
    file = folder / "effects"

    async def work(trees: Trees) -> None:
        command = f"{tool} -p -c 'id -u > {folder}/who; {LOOP.format(file=file)}' & wait"
        plain.lease_for(1_000)
        await plain.spawn(trees, 1000, "sh", "-c", command, uid=NOBODY, gid=NOBODY, groups=[])
        await write_and_freeze(plain, trees, [file])
        assert (folder / "who").read_text() == "0\n"
        plain.lease_for(60_000)
        await trees.init(1000, 1).ask("kill", reason="over")
        await plain.exit_of(1000)
        assert not growing(file)

    plain.run(work)


def test_a_stopped_init_comes_back_and_takes_no_stale_byte(plain: Rig) -> None:
    """The init was paused past the deadline: what the program wrote meanwhile sits in the pipe and stays there."""

    async def work(trees: Trees) -> None:
        tree = await plain.spawn(trees, 1000, "sh", "-c", "while :; do echo x; sleep 0.01; done")
        while not plain.output(1000):
            await asyncio.sleep(0.01)
        os.kill(tree.init_pid, signal.SIGSTOP)
        plain.lease_for(50)
        await asyncio.sleep(0.3)
        before = plain.output(1000)
        os.kill(tree.init_pid, signal.SIGCONT)
        await asyncio.sleep(0.3)
        assert plain.output(1000) == before
        assert (await trees.init(1000, 1).ask("stats"))["state"] == "frozen"

    plain.run(work)


def test_the_guard_dies_and_its_successor_knows_the_trees(rig: Rig) -> None:
    go_on = shared_folder(rig) / "go-on"

    async def first(trees: Trees) -> None:
        await rig.spawn(trees, 1000, "sh", "-c", f"while [ ! -e {go_on} ]; do sleep 0.02; done; exit 5")
        await rig.spawn(trees, 1001, "sleep", "1000")
        await rig.spawn(trees, 1002, "sh", "-c", "exit 3")
        await rig.exit_of(1002)

    rig.run(first)
    rig.guard.kill()
    rig.guard.wait()
    rig.exits.clear()
    rig.start()

    async def second(trees: Trees) -> None:
        assert {(tree.pid, tree.state) for tree in trees.trees.values()} >= {(1001, "running"), (1002, "ended")}
        assert trees.trees[1002, 1].exit["code"] == 3  # as its init wrote it
        go_on.touch()
        assert (await rig.exit_of(1000))["code"] == 5
        await trees.init(1001, 1).ask("signal", number=15)
        assert (await rig.exit_of(1001))["code"] == 143

    rig.run(second)


def test_a_killed_init_takes_everything_with_it(plain: Rig) -> None:
    file = shared_folder(plain) / "effects"

    async def work(trees: Trees) -> None:
        tree = await plain.spawn(trees, 1000, "sh", "-c", f"setsid sh -c '{LOOP.format(file=file)}' & sleep 1000")
        while not file.exists():
            await asyncio.sleep(0.01)
        os.kill(tree.init_pid, signal.SIGKILL)
        assert (await plain.exit_of(1000))["lost"]
        assert not growing(file)

    plain.run(work)


def test_two_guards_never_serve_one_node(plain: Rig) -> None:
    done = subprocess.run(plain.guard.args, timeout=20, check=False)  # type: ignore[arg-type]
    assert done.returncode == 0 and plain.guard.poll() is None


def test_what_cannot_be_started_is_said_exactly(plain: Rig) -> None:
    folder = shared_folder(plain)
    (folder / "noexec").write_text("#!/bin/sh\n")
    (folder / "garbage").write_bytes(b"\x7fnothing")
    (folder / "garbage").chmod(0o755)

    async def work(trees: Trees) -> None:
        for pid, (argv, error, fields) in enumerate(
            [
                (["no-such-program"], ProgramNotFound, {}),
                ([f"{folder}/none"], ProgramNotFound, {}),
                ([f"{folder}/noexec"], ProgramNotRunnable, {}),
                ([f"{folder}/garbage"], ProgramNotRunnable, {}),
                ([str(folder)], ProgramNotRunnable, {}),
                (["true"], CwdMissing, {"cwd": "/no/such/folder"}),
                ([], CallerError, {}),
                (["true"], CallerError, {"limits": {"nonsense": [1, 1]}}),
                (["a\0b"], CallerError, {}),
            ],
            1000,
        ):
            with pytest.raises(error):
                await plain.spawn(trees, pid, *argv, **fields)
        assert trees.trees == {} and not list((plain.folder / "trees").iterdir())
        await plain.spawn(trees, 1000, "sh", "-c", "exit 4")
        assert (await plain.exit_of(1000))["code"] == 4

    plain.run(work)


def test_a_start_that_was_decided_under_another_lease_is_refused(plain: Rig) -> None:
    async def work(trees: Trees) -> None:
        with pytest.raises(Unavailable, match="lease"):
            await plain.spawn(trees, 1000, "true", lease=2)
        plain.lease(0)
        with pytest.raises(Unavailable, match="lease"):
            await plain.spawn(trees, 1000, "true")
        plain.lease_for(60_000, number=2)
        await plain.spawn(trees, 1000, "true", lease=2)
        assert (await plain.exit_of(1000))["code"] == 0

    plain.run(work)


def test_the_same_spawn_twice_is_one_and_a_newer_incarnation_replaces_an_older(plain: Rig) -> None:
    async def work(trees: Trees) -> None:
        one, two = await asyncio.gather(plain.spawn(trees, 1000, "sleep", "1000"), plain.spawn(trees, 1000, "sleep", "1000"))
        assert one.init_pid == two.init_pid
        await plain.spawn(trees, 1000, "sleep", "1000", incarnation=2)
        assert (await plain.exit_of(1000, 1))["fenced"]
        await trees.forget(1000, 1)
        with pytest.raises(CallerError, match="past"):
            await plain.spawn(trees, 1000, "sleep", "1000", incarnation=1)

    plain.run(work)


def test_a_pid_that_comes_round_again_is_another_process(plain: Rig) -> None:
    async def work(trees: Trees) -> None:
        await plain.spawn(trees, 1000, "true", incarnation=3)
        await plain.exit_of(1000, 3)
        await trees.forget(1000, 3)
        await plain.spawn(trees, 1000, "true", incarnation=1)
        assert (await plain.exit_of(1000, 1))["code"] == 0

    plain.run(work)


def test_a_launcher_that_is_killed_takes_nothing_with_it(plain: Rig) -> None:
    """The program's end is then known to the init itself."""

    async def work(trees: Trees) -> None:
        tree = await plain.spawn(trees, 1000, "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.02; done")
        [launcher] = linux_pids.parents()[tree.init_pid]
        os.kill(launcher, signal.SIGKILL)
        while linux_pids.parents().get(tree.init_pid, [launcher]) == [launcher]:
            await asyncio.sleep(0.01)
        await trees.init(1000, 1).ask("signal", number=int(signal.SIGTERM))
        assert (await plain.exit_of(1000))["code"] == 5

    plain.run(work)


def test_a_launcher_that_the_program_stops_does_not_hide_its_end(plain: Rig) -> None:
    async def work(trees: Trees) -> None:
        for pid in range(1000, 1008):  # now before the launcher has told of the start, now after
            await plain.spawn(trees, pid, "sh", "-c", "kill -STOP $PPID; exit 5")
            assert (await plain.exit_of(pid))["code"] == 5

    plain.run(work)


def test_a_program_that_kills_its_launcher_at_once_runs_once(plain: Rig) -> None:
    async def work(trees: Trees) -> None:
        for pid in range(1000, 1010):
            await plain.spawn(trees, pid, "sh", "-c", "kill -9 $PPID; exit 5")
            assert (await plain.exit_of(pid))["code"] == 5

    plain.run(work)


def test_spares_that_are_killed_are_replaced_and_namespaces_kept(plain: Rig) -> None:
    def spares() -> set[int]:
        found = set()
        for pid in linux_pids.parents().get(plain.guard.pid, []):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "unios-init":
                    found.add(pid)
        return found

    async def work(trees: Trees) -> None:
        for _time in range(8):
            gone = spares()
            for pid in gone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            while not (now := spares()) - gone or now & gone:  # one that is killed and has not died yet takes a job, and says that it could not
                await asyncio.sleep(0.01)
        await plain.spawn(trees, 1000, "sh", "-c", "exit $(($$ == 1000 ? 3 : 4))")
        assert (await plain.exit_of(1000))["code"] == 3

    plain.run(work)


def test_a_zygote_that_is_killed_or_hangs_is_replaced(plain: Rig) -> None:
    def zygotes() -> list[int]:
        found = []
        for pid in linux_pids.parents().get(plain.guard.pid, ()):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if Path(f"/proc/{pid}/comm").read_text().strip() == "unios-zygote":
                    found.append(pid)
        return found

    async def work(trees: Trees) -> None:
        for pid, number in ((1000, signal.SIGKILL), (1010, signal.SIGSTOP)):
            while not (there := zygotes()):
                await asyncio.sleep(0.01)
            os.kill(there[0], number)
            for process in range(pid, pid + 4):  # more than there are spares
                await plain.spawn(trees, process, "true")
                assert (await plain.exit_of(process))["code"] == 0

    plain.run(work)


def test_many_at_once_all_run(plain: Rig) -> None:
    async def work(trees: Trees) -> None:
        await asyncio.gather(*(plain.spawn(trees, pid, "sh", "-c", f"exit {pid % 200}") for pid in range(1000, 1040)))
        for pid in range(1000, 1040):
            assert (await plain.exit_of(pid))["code"] == pid % 200

    plain.run(work)
    assert not [
        path for path in found("/sys/fs/cgroup", "unios-*/10[0-3][0-9].*") if (plain.folder / "cgroup").read_text().find(path.parent.name) >= 0
    ]
