"""Objects on hard days: nodes and holders are killed, memory and disk are short."""

import os
import signal
import time

import pytest

from tests.e2e.remote import Raised, Remote
from tests.e2e.system import System, wait_for

MEGA = 1_000_000


def holder_of(program: Remote) -> int:
    """Return the pid, as Linux has it, of the holder of the program's node."""
    stat, home = program.statistics(), f"UNIOS_HOME={program.home}".encode()
    there = [pid for pid in linux_pids() if int(namespace_pid(pid)) == stat["pid"] and b"unios.client.objects" in command(pid)]
    [found] = [pid for pid in there if home in read(pid, "environ").split(b"\0")]  # other systems of this machine have holders too
    return found


def kill_holder(program: Remote) -> None:
    """kill -9 the holder of the program's node."""
    pid = holder_of(program)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: command(pid), lambda left: b"unios" not in left, "the holder is dead")


def linux_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command(pid: int) -> bytes:
    return read(pid, "cmdline")


def read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def namespace_pid(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/status") as file:
            return next(line.split()[-1] for line in file if line.startswith("NSpid:"))
    except (OSError, StopIteration):
        return "0"


def test_what_was_put_on_a_lost_node_is_reported_lost_with_the_node_and_what_it_was(fresh: System) -> None:
    with Remote(fresh, "n2") as far, Remote(fresh, "n1") as here:
        far.do(f"r = unios.put(bytes({MEGA})); again = unios.put(bytes({MEGA}), remake=(bytes, {MEGA}))")
        far.give("r", here)
        far.give("again", here)
        fresh.power_cut("n2")
        begun = time.monotonic()
        with pytest.raises(Raised, match=r"the object \w+ of 10000\d\d bytes, put on node n2, is lost") as caught:
            here.do("unios.get(r)")
        assert caught.value.name == "DataLost"
        assert time.monotonic() - begun < 15
        assert here.ask("len(unios.get(again))") == MEGA, "it has a recipe"
        assert here.ask("len(unios.get(again))") == MEGA
        far.kill()


def test_what_was_fetched_before_its_node_was_lost_is_still_there(fresh: System) -> None:
    with Remote(fresh, "n2") as far, Remote(fresh, "n1") as here:
        far.do("r = unios.put([1, 2, 3])")
        far.give("r", here)
        assert here.ask("r.get()") == [1, 2, 3]
        fresh.power_cut("n2")
        assert here.ask("r.get()") == [1, 2, 3]
        far.kill()


def test_a_node_that_is_lost_while_its_object_is_fetched_is_reported(fresh: System) -> None:
    with Remote(fresh, "n2") as far, Remote(fresh, "n1") as here:
        far.do(f"r = unios.put(bytes({800 * MEGA}))")
        far.give("r", here)
        here.begin("do", "unios.get(r)")
        with Remote(fresh, "n1") as beside:
            wait_for(lambda: beside.statistics()["objects"], lambda found: found == 1, "it is being fetched")
        fresh.power_cut("n2")
        with pytest.raises(Raised) as caught:
            here.result()
        assert caught.value.name == "DataLost"
        far.kill()


def test_a_killed_holder_loses_what_it_kept_and_the_next_serves_on(fresh: System) -> None:
    with Remote(fresh, "n1") as here, Remote(fresh, "n2") as far:
        here.do("r = unios.put('gone'); again = unios.put('made again', remake=(str, 'made again'))")
        far.do("f = unios.put('kept elsewhere')")
        far.give("f", here)
        here.give("r", far)
        kill_holder(here)
        wait_for(here.statistics, lambda found: found["objects"] == 1, "the next holder has heard of what is kept elsewhere")
        with pytest.raises(Raised, match="put on node n1, is lost") as caught:
            here.do("unios.get(r)")
        assert caught.value.name == "DataLost"
        with pytest.raises(Raised, match="put on node n1, is lost"):
            far.do("unios.get(r)")
        assert here.ask("unios.get(again)") == "made again"
        assert here.ask("unios.get(f)") == "kept elsewhere"
        assert here.ask("unios.get(unios.put([1]))") == [1]
        far.do("del f")
        assert here.ask("unios.get(f)") == "kept elsewhere", "the new holder refers to it there again"


def test_a_holder_that_is_stopped_is_waited_for_and_never_said_to_be_lost(fresh: System) -> None:
    with Remote(fresh, "n1") as here, Remote(fresh, "n2") as far:
        here.do("r = unios.put('whole', remake=(str, 'made again'))")
        here.give("r", far)
        pid = holder_of(here)
        os.kill(pid, signal.SIGSTOP)
        try:
            for program in (here, far):
                with pytest.raises(Raised) as caught:
                    program.do("unios.get(r, timeout=0.5)")
                assert caught.value.name == "TimeoutError"
            with pytest.raises(Raised, match="is stopped, or its node cannot be reached") as caught:
                far.do("unios.get(r)")
            assert caught.value.name == "Unavailable"
            here.begin("do", "more = [unios.get(r), pickle.loads(pickle.dumps(r)).get()]")
        finally:
            os.kill(pid, signal.SIGCONT)
        here.result()
        assert here.ask("more") == ["whole", "whole"] and far.ask("r.get()") == "whole"
        assert holder_of(here) == pid


def test_views_of_a_killed_holder_stay(fresh: System) -> None:
    with Remote(fresh, "n1") as here:
        here.do(f"b = unios.allocate({MEGA}); b[:2] = b'xy'; v = unios.get(unios.put(b))")
        kill_holder(here)
        assert here.ask("bytes(v[:3]).hex()") == b"xy\0".hex()
        here.do("b[0] = 1; v[1] = 2")
        assert here.ask("(b[0], b[1], v[0], v[1])") == [1, 121, 120, 2]


def test_objects_outlive_a_kernel_that_is_killed(fresh: System) -> None:
    with Remote(fresh, "n1") as here, Remote(fresh, "n2") as far:
        here.do("r = unios.put('whole')")
        here.give("r", far)
        assert far.ask("r.get()") == "whole"
        kernel = fresh.nodes()["n1"]["kernel_pid"]
        os.kill(kernel, signal.SIGKILL)
        assert here.ask("r.get()") == "whole"
        wait_for(lambda: fresh.nodes()["n1"], lambda node: node["kernel_pid"] not in (0, kernel) and node["state"] == "ready", "the kernel is back")
        here.do("n = unios.put('new')")
        here.give("n", far)
        assert far.ask("n.get(timeout=30)") == "new"
        assert far.ask("r.get()") == here.ask("r.get()") == "whole"


def test_pressure_goes_to_the_disk_and_what_is_there_is_read_as_before(fresh: System) -> None:
    with Remote(fresh, "n1", UNIOS_OBJECTS_MEMORY=str(50 * MEGA), UNIOS_OBJECTS_DISK=str(200 * MEGA)) as here, Remote(fresh, "n1") as beside:
        here.do(f"refs = [unios.put(bytes([n]) * {8 * MEGA}) for n in range(20)]")
        found = here.statistics()
        assert found["objects"] == 20 and found["memory_bytes"] <= 50 * MEGA and found["disk_bytes"] >= 110 * MEGA
        here.give("refs", beside)
        for program in (here, beside):
            assert program.ask(f"all(one == bytes([n]) * {8 * MEGA} for n, one in enumerate(unios.get(refs)))")
        with Remote(fresh, "n2") as far:
            here.give("refs", far)
            assert far.ask(f"all(unios.get(one) == bytes([n]) * {8 * MEGA} for n, one in enumerate(refs))")
        for program in (here, beside):
            program.do("del refs; one = None; gc.collect()")
        wait_for(here.statistics, lambda found: found["objects"] == found["disk_bytes"] == found["memory_bytes"] == 0, "nothing is left", 40)


def test_what_was_damaged_on_the_disk_is_lost_made_again_or_fetched_again_and_never_wrong(fresh: System) -> None:
    bounds = {"UNIOS_OBJECTS_MEMORY": str(20 * MEGA), "UNIOS_OBJECTS_DISK": str(200 * MEGA)}
    with Remote(fresh, "n1", **bounds) as here, Remote(fresh, "n2", **bounds) as far:
        here.do(f"a = unios.put(b'a' * {15 * MEGA}); b = unios.put(b'b' * {15 * MEGA}, remake=(bytes, 1)); d = unios.put(b'd' * {15 * MEGA})")
        here.do(f"more = unios.put(bytes({15 * MEGA}))")
        for name in ("a", "d"):
            here.give(name, far)
        far.do(f"unios.get(d); own = unios.put(bytes({15 * MEGA}))")
        damage_spilled(here, first=b"a"), damage_spilled(here, first=b"b"), damage_spilled(far, first=b"d")
        assert far.ask(f"unios.get(d) == b'd' * {15 * MEGA}"), "its node has it whole"
        for program in (far, here, here):
            with pytest.raises(
                Raised, match=r"put on node n1, is lost: it was spilled to the disk of that node, and is not there as it was written$"
            ) as caught:
                program.do("unios.get(a)")
            assert caught.value.name == "DataLost"
        assert here.ask("len(unios.get(b))") == here.ask("len(unios.get(b))") == 1, "it is made again"
        here.do("del a, b, d, more; gc.collect()")
        far.do("del a, d, own; gc.collect()")
        for program in (here, far):
            wait_for(program.statistics, lambda found: found["objects"] == found["disk_bytes"] == found["memory_bytes"] == 0, "nothing is left", 40)


def damage_spilled(program: Remote, *, first: bytes) -> None:
    """Change a byte in the middle of the spilled object whose bytes are those."""
    folder = f"/proc/{holder_of(program)}/fd"
    for number in os.listdir(folder):
        path = f"{folder}/{number}"
        if "(deleted)" not in os.readlink(path) or "memfd:" in os.readlink(path):
            continue
        with open(path, "r+b", buffering=0) as file:
            if os.pread(file.fileno(), 1, 10_000) == first:
                os.pwrite(file.fileno(), b"X", 7 * MEGA)
                return
    raise AssertionError("it was not spilled")


def test_a_full_quota_is_refused_with_a_sentence_and_room_that_is_made_is_used(fresh: System) -> None:
    with Remote(fresh, "n1", UNIOS_OBJECTS_MEMORY=str(20 * MEGA), UNIOS_OBJECTS_DISK="0") as here:
        here.do(f"a = unios.put(bytes({15 * MEGA}))")
        with pytest.raises(
            Raised, match=r"no room for an object of 10\d+ bytes: 15\d+ of 20000000 bytes of memory \(UNIOS_OBJECTS_MEMORY\)"
        ) as caught:
            here.do(f"b = unios.put(bytes({10 * MEGA}))")
        assert caught.value.name == "Unavailable"
        with pytest.raises(Raised, match="larger than the memory for objects here"):
            here.do(f"b = unios.put(bytes({21 * MEGA}))")
        assert here.ask("len(unios.get(a))") == 15 * MEGA
        with Remote(fresh, "n2") as far:
            far.do(f"f = unios.put(bytes({10 * MEGA}))")
            far.give("f", here)
            with pytest.raises(Raised, match="no room for an object"):
                here.do("unios.get(f)")
            here.do("del a; gc.collect()")
            wait_for(here.statistics, lambda found: found["memory_bytes"] == 0, "there is room again")
            assert here.ask("len(unios.get(f))") == 10 * MEGA


def test_a_quota_that_is_no_number_is_said_so_at_once(fresh: System) -> None:
    with Remote(fresh, "n1", UNIOS_OBJECTS_MEMORY="much") as here, pytest.raises(Raised, match="UNIOS_OBJECTS_MEMORY=much is no number of bytes"):
        here.do("unios.put(1)")


def test_what_is_being_read_is_not_spilled(fresh: System) -> None:
    with Remote(fresh, "n1", UNIOS_OBJECTS_MEMORY=str(20 * MEGA)) as here:
        here.do(f"a = unios.put(unios.allocate({15 * MEGA})); v = unios.get(a)")
        with pytest.raises(Raised, match="what is being read cannot be spilled"):
            here.do(f"b = unios.put(bytes({10 * MEGA}))")
        here.do("del v; gc.collect()")
        wait_for(here.statistics, lambda found: found["read"] == 0, "nobody reads")
        here.do(f"b = unios.put(bytes({10 * MEGA}))")
        assert here.statistics()["disk_bytes"] >= 15 * MEGA
        assert here.ask("len(unios.get(a))") == 15 * MEGA


def test_many_programs_that_begin_at_once_have_one_holder(fresh: System) -> None:
    programs = [Remote(fresh, "n1") for _ in range(6)]
    try:
        for number, program in enumerate(programs):
            program.begin("do", f"r = unios.put({number})")
        for program in programs:
            program.result()
        assert len({program.statistics()["pid"] for program in programs}) == 1
        assert [program.ask("r.get()") for program in programs] == list(range(6))
        with Remote(fresh, "n1") as late:
            programs[0].give("r", late)
            assert late.ask("r.get()") == 0
    finally:
        for program in programs:
            program.__exit__()


def test_a_system_that_is_down_is_said_so_without_a_wait(fresh: System) -> None:
    fresh.unios("down", "--all")
    with Remote(fresh, "n1") as nowhere:
        begun = time.monotonic()
        with pytest.raises(Raised, match="is down") as caught:
            nowhere.do("unios.put(1)")
        assert caught.value.name == "Unavailable"
        assert time.monotonic() - begun < 5


def test_a_program_that_may_have_no_more_descriptors_is_told_so_and_nothing_is_lost(whole: System) -> None:
    with Remote(whole, "n1") as program:
        program.do("import resource, numpy; resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))")
        program.do("refs = [unios.put(numpy.full(40_000, number)) for number in range(300)]; kept = []")
        with pytest.raises(Raised, match=r"ulimit -n") as caught:
            program.do("for ref in refs: kept.append(unios.get(ref))")
        assert caught.value.name == "Unavailable"
        assert program.ask("len(kept)") > 100
        program.do("kept.clear()")
        assert program.ask("sum(int(unios.get(ref)[7]) for ref in refs)") == sum(range(300))
