"""The tree of files, mounted on nodes: it is one, and what was written is there whoever dies."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.e2e.mounted import ROOT, Mounted
from tests.e2e.system import System, wait_for
from tests.fuse.mounted import needs_fuse
from unios.fuse import mounting
from unios.kernel import runfiles
from unios.services.files.visitors import GRACE_S

pytestmark = needs_fuse
WORK = """
folder, count = sys.argv[1] + "/" + sys.argv[2], int(sys.argv[3])
os.mkdir(folder)
with open(folder + "/open", "w+") as kept:
    os.unlink(folder + "/open")
    kept.write("hello")
    kept.flush()
    for n in range(count):
        path = f"{folder}/{n}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        os.write(descriptor, b"%d" % n)
        os.close(descriptor)
        os.rename(path, path + "r")
        os.mkdir(path + "d")
        os.symlink("x", path + "s")
        os.link(path + "r", path + "l")
        os.unlink(path + "r")
        os.rmdir(path + "d")
        assert open(path + "l").read() == str(n)
        if n % 10 == 9:
            print(n, flush=True)
    kept.seek(0)
    assert kept.read() == "hello"
"""
CHECK = """
folder, count = sys.argv[1] + "/" + sys.argv[2], int(sys.argv[3])
assert sorted(os.listdir(folder)) == sorted(f"{n}{kind}" for n in range(count) for kind in "ls"), sorted(os.listdir(folder))
for n in range(count):
    assert open(f"{folder}/{n}l").read() == str(n), n
    assert os.stat(f"{folder}/{n}l").st_nlink == 1
    assert os.readlink(f"{folder}/{n}s") == "x"
"""
SYNCED = """
for n in range(1_000_000):
    descriptor = os.open(f"{sys.argv[1]}/synced{n % 7}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, (b"%08d" % n) * (1 if n % 5 else 20_000))
    os.fsync(descriptor)
    os.close(descriptor)
    print(n, flush=True)
"""


def test_nodes_have_one_tree_like_a_local_folder_while_services_and_kernels_die() -> None:
    """The same random operations from changing nodes and in a local folder; now and then something is killed."""
    seed = int(os.environ.get("UNIOS_TEST_SEED", "7"))
    chance, killed = random.Random(seed), list[tuple[str, str]]()
    with Mounted(3) as system, tempfile.TemporaryDirectory(prefix="unios-local-") as local:
        mounts = [str(folder) for folder in system.folders.values()]
        command = [sys.executable, "-m", "tests.services.files.differ", local, str(seed), os.environ.get("UNIOS_TEST_STEPS", "300"), *mounts]
        with subprocess.Popen(
            ["timeout", "-s", "KILL", "600", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as differ:
            assert differ.stdin is not None and differ.stdout is not None
            for said in differ.stdout:
                if said != "now\n":
                    break
                if chance.random() < 0.4:
                    killed.append((chance.choice(list(system.folders)), chance.choice(("files", "files", "kernel"))))
                    system.kill(*killed[-1])
                differ.stdin.write("\n")
                differ.stdin.flush()
        assert said.startswith("same"), said
        assert killed


def test_what_a_node_has_done_outlives_the_node_that_owns_the_tree() -> None:
    with Mounted(3) as system:
        owner = system.owner()
        other, third = (name for name in system.folders if name != owner)
        program = system.program(WORK, system.folders[other], "work", 100)
        assert program.stdout is not None
        assert program.stdout.readline() == "9\n"
        system.power_cut(owner)
        said, _ = program.communicate()
        assert program.returncode == 0, said
        for name in (other, third):
            system.run(CHECK, system.folders[name], "work", 100)
        system.unios("--node", other, "up")
        wait_for(lambda: system.json("--node", owner, "mount"), lambda mounts: mounts[0]["served"], f"{owner} has its mount again")
        system.run(CHECK, system.folders[owner], "work", 100)
        system.run(WORK, system.folders[owner], "more", 10)
        system.run(CHECK, system.folders[other], "more", 10)


def test_what_linux_keeps_on_a_node_that_owned_the_tree_is_not_old_when_it_is_back() -> None:
    """Its service and its lease go while its Linux and its mount stay."""
    with Mounted(2) as system:
        owner = system.owner()
        other = next(name for name in system.folders if name != owner)
        read = "print(open(sys.argv[1] + '/file').read(), os.path.exists(sys.argv[1] + '/other'))"
        system.run("open(sys.argv[1] + '/file', 'w').write('before')", system.folders[owner])
        assert system.run(read, system.folders[owner]) == "before False"
        parts = [
            running for part in ("guard", "supervisor", "kernel", "files") if (running := runfiles.read(system.node(owner).run / f"{part}.json"))
        ]
        assert len(parts) == 4
        for running in parts:  # in this order: none begins another anew
            os.kill(running.pid, signal.SIGSTOP)
        try:
            write = "open(sys.argv[1] + '/file', 'w').write('after'); open(sys.argv[1] + '/other', 'w').close(); print('done')"
            assert system.run(write, system.folders[other]) == "done"
        finally:
            for running in parts:
                os.kill(running.pid, signal.SIGCONT)
        wait_for(lambda: system.try_run(read, system.folders[owner]), lambda said: said != "before False", "what is old is not shown any more")
        wait_for(lambda: system.try_run(read, system.folders[owner]), lambda said: said == "after True", "what is new is shown")


def test_what_is_synced_on_the_node_that_owns_the_tree_outlives_it() -> None:
    with Mounted(2) as system:
        owner = system.owner()
        other = next(name for name in system.folders if name != owner)
        program = system.program(SYNCED, system.folders[owner])
        assert program.stdout is not None
        for said in program.stdout:
            if said == "40\n":
                break
        system.power_cut(owner)
        program.kill()
        rest = program.communicate()[0].split()
        last = int(rest[-1]) if rest and rest[-1].isdigit() else 40
        for at in range(7):
            expected = "".join(f"{n:08d}" * (1 if n % 5 else 20_000) for n in range(last + 1) if n % 7 == at)
            found = system.run("sys.stdout.write(open(sys.argv[1]).read())", system.folders[other] / f"synced{at}")
            assert found.startswith(expected), f"synced{at}: {len(found)} bytes, and {len(expected)} were synced"


def test_locks_hold_between_nodes_and_end_with_their_holder() -> None:
    holds = """
descriptor = os.open(sys.argv[1] + "/lock", os.O_CREAT | os.O_RDWR)
(fcntl.flock if sys.argv[2] == "flock" else fcntl.lockf)(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""
    tries = """
descriptor = os.open(sys.argv[1] + "/lock", os.O_RDWR)
try:
    (fcntl.flock if sys.argv[2] == "flock" else fcntl.lockf)(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("held")
except BlockingIOError:
    print("busy")
"""
    with Mounted(2) as system:
        first, second = system.folders.values()
        for kind in ("flock", "lockf"):
            for here, there in ((first, second), (second, first)):
                holder = system.program(holds, here, kind)
                assert holder.stdout is not None and holder.stdout.readline() == "held\n"
                assert system.run(tries, there, kind) == "busy"
                system.kill(system.owner(), "files")
                assert system.run(tries, there, kind) == "busy"
                waits = system.program(holds, there, kind)
                holder.communicate("\n")
                assert waits.stdout is not None and waits.stdout.readline() == "held\n"
                waits.stdin.close()  # type: ignore[union-attr]
                waits.wait()


def test_locks_and_open_files_of_a_node_live_as_long_as_it_does() -> None:
    """Its kernel dies while nothing is asked; the owner's service and kernel die; and at last its node does."""
    holds = """
descriptor = os.open(sys.argv[1] + "/lock", os.O_CREAT | os.O_RDWR)
fcntl.flock(descriptor, fcntl.LOCK_EX)
kept = os.open(sys.argv[1] + "/kept", os.O_CREAT | os.O_RDWR)
os.write(kept, b"hello")
os.unlink(sys.argv[1] + "/kept")
print("held", flush=True)
for line in sys.stdin:
    print(os.pread(kept, 10, 0).decode(), flush=True)
"""
    tries = """
descriptor = os.open(sys.argv[1] + "/lock", os.O_RDWR)
try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("held")
except BlockingIOError:
    print("busy")
"""
    with Mounted(2) as system:
        owner = system.owner()
        other = next(name for name in system.folders if name != owner)
        holder = system.program(holds, system.folders[other])
        assert holder.stdin is not None and holder.stdout is not None and holder.stdout.readline() == "held\n"
        for name, parts in ((other, ("kernel",)), (owner, ("kernel", "files"))):
            for part in parts:
                system.kill(name, part)
            time.sleep(GRACE_S + 2)  # what is of nobody would be gone by then
            holder.stdin.write("\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "hello\n"
            assert system.run(tries, system.folders[owner]) == "busy"
        system.power_cut(other)
        wait_for(lambda: system.run(tries, system.folders[owner]), lambda said: said == "held", "the lock of a node that is lost is free", 30)
        holder.kill()
        holder.communicate()


def test_locks_of_an_owner_that_is_lost_are_free() -> None:
    holds = """
descriptor = os.open(sys.argv[1] + "/lock", os.O_CREAT | os.O_RDWR)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""
    with Mounted(2) as system:
        owner = system.owner()
        other = next(name for name in system.folders if name != owner)
        holder = system.program(holds, system.folders[owner])
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        waits = system.program(holds, system.folders[other])
        system.power_cut(owner)
        assert waits.stdout is not None and waits.stdout.readline() == "held\n"
        for program in (waits, holder):
            program.kill()
            program.communicate()


def test_a_file_that_took_another_ones_place_has_its_bytes_or_the_other_ones() -> None:
    """As editors do: written aside, and renamed, without fsync; and then the machine is lost."""
    writes = """
name = sys.argv[1] + "/configuration"
with open(name, "w") as file:
    file.write("before")
    os.fsync(file.fileno())
with open(name + ".tmp", "w") as file:
    file.write("after" * int(sys.argv[2]))
os.rename(name + ".tmp", name)
print("done", flush=True)
"""
    with Mounted(2) as system:
        owner = system.owner()
        other = next(name for name in system.folders if name != owner)
        for times in (1, 100_000):
            system.run(writes, system.folders[owner], times)
        system.power_cut(owner)
        said = system.run("print(open(sys.argv[1] + '/configuration').read())", system.folders[other])
        assert said in ("after", "after" * 100_000)


def test_two_mounts_of_a_node_and_one_of_another_change_one_directory_at_a_time() -> None:
    work = """
folder = sys.argv[1] + "/shared"
os.makedirs(folder, exist_ok=True)
for n in range(150):
    path = f"{folder}/{sys.argv[2]}.{n}"
    open(path, "w").close()
    os.rename(path, path + "r")
    os.unlink(path + "r")
"""
    with Mounted(2) as system:
        owner = system.owner()
        second = system.place / "second"
        second.mkdir()
        try:
            system.unios("--node", owner, "mount", str(second))
            programs = [system.program(work, folder, at) for at, folder in enumerate([*system.folders.values(), second])]
            for program in programs:
                said, _ = program.communicate()
                assert program.returncode == 0, said
            assert system.run("print(os.listdir(sys.argv[1] + '/shared'))", second) == "[]"
        finally:
            system.unios("--node", owner, "umount", str(second))


def test_bytes_in_mapped_memory_are_seen_by_another_node() -> None:
    maps = """
descriptor = os.open(sys.argv[1] + "/mapped", os.O_CREAT | os.O_RDWR)
os.ftruncate(descriptor, 8192)
memory = mmap.mmap(descriptor, 8192)
memory[:5] = b"hello"
print("written", flush=True)
sys.stdin.readline()
"""
    with Mounted(2) as system:
        owner = system.owner()
        other = next(name for name in system.folders if name != owner)
        writer = system.program(maps, system.folders[owner])
        assert writer.stdout is not None and writer.stdout.readline() == "written\n"
        assert system.run("print(open(sys.argv[1] + '/mapped').read(5))", system.folders[other]) == "hello"
        writer.communicate("\n")


def test_what_a_person_types_and_is_told() -> None:
    with System() as system, tempfile.TemporaryDirectory(prefix="unios-mnt-") as place:
        folder = Path(place, "a")
        folder.mkdir()
        try:
            system.unios("up")
            assert b"nothing is mounted" in system.unios("mount").stdout
            assert b"is mounted on" in system.unios("mount", "a", cwd=place).stderr
            assert system.json("mount") == [{"folder": os.path.realpath(folder), "held": True, "served": True}]
            assert b"served" in system.unios("mount").stdout
            system.unios("mount", str(folder))  # once more: it stays as it is
            assert len(system.json("mount")) == 1
            missing = system.unios("mount", f"{place}/nowhere", check=False)
            assert missing.returncode and b"there is no folder" in missing.stderr
            assert json.loads(subprocess.run(["stat", "-f", '--format={"type": "%T"}', folder], capture_output=True, check=True, timeout=30).stdout)
            assert system.json("umount", str(folder)) == {"folder": str(folder), "mounted": False}
            gone = system.unios("umount", str(folder), check=False)
            assert gone.returncode and b"nothing of unios is mounted" in gone.stderr
            assert system.json("mount") == [] and os.listdir(folder) == []
        finally:
            mounting.unmount(folder)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_nodes_have_one_tree_for_long(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIOS_TEST_SEED", str(seed))
    monkeypatch.setenv("UNIOS_TEST_STEPS", "1500")
    test_nodes_have_one_tree_like_a_local_folder_while_services_and_kernels_die()
