"""Objects on three nodes that stay whole: read in place, counted, spilled, refused."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.remote import Raised, Remote
from tests.e2e.system import System, wait_for

numpy = pytest.importorskip("numpy")
MEGA = 1_000_000


@pytest.fixture
def here(whole: System) -> Iterator[Remote]:
    with Remote(whole, "n1") as program:
        yield program


@pytest.fixture
def beside(whole: System) -> Iterator[Remote]:
    with Remote(whole, "n1") as program:
        yield program


@pytest.fixture
def elsewhere(whole: System) -> Iterator[Remote]:
    with Remote(whole, "n2") as program:
        yield program


@pytest.fixture(autouse=True, scope="module")
def no_holder_is_left(whole: System) -> Iterator[None]:
    yield
    wait_for(lambda: holders(whole), lambda left: not left, "the holders have ended", 45)
    assert not list(whole.home.glob("home/nodes/*/objects-*")), "a folder of a holder is left"


def holders(system: System) -> list[int]:
    return [process["pid"] for process in system.json("ps") if "unios.client.objects" in str(process)]


def settled(program: Remote, **wanted: int) -> dict[str, int]:
    """Wait until the holder counts what is wanted; return all that it counts."""
    return wait_for(program.statistics, lambda found: all(found[name] == value for name, value in wanted.items()), f"{wanted}", 40)


def inode(program: Remote, name: str) -> str:
    """Return the inode of the memory file that an array lies in, as Linux maps it for a program."""
    address = program.ask(f"{name}.__array_interface__['data'][0]")
    for line in Path(f"/proc/{program.program.pid}/maps").read_text().splitlines():
        begin, end = (int(text, 16) for text in line.split()[0].split("-"))
        if begin <= address < end:
            return line.split()[4]
    raise AssertionError(f"{name} is not mapped")


@pytest.mark.parametrize("value", ["None", "{'a': [1, (2, 3)]}", "'ä' * 100_000", "b'x' * 3_000_000", "[bytes(50_000) for _ in range(9)]"])
def test_what_is_put_is_what_is_got_here_beside_and_elsewhere(here: Remote, beside: Remote, elsewhere: Remote, value: str) -> None:
    here.do(f"r = unios.put({value})")
    for program in (here, beside, elsewhere):
        if program is not here:
            here.give("r", program)
        assert program.ask(f"unios.get(r) == {value} and [unios.get(r)] == unios.get([r])")


def test_an_array_is_read_in_the_memory_where_it_was_born(here: Remote, beside: Remote) -> None:
    here.do(f"a = unios.empty(({MEGA}, 8)); a[:] = 3; r = unios.put(a)")
    here.give("r", beside)
    beside.do("import numpy; b = unios.get(r)")
    assert inode(here, "a") == inode(beside, "b")
    assert beside.ask("bool((b == 3).all()) and b.shape == (1_000_000, 8)")


def test_an_array_that_was_not_born_there_is_copied_once_and_then_read_in_place(here: Remote, beside: Remote) -> None:
    here.do(f"import numpy; r = unios.put(numpy.ones({MEGA})); b = unios.get(r)")
    here.give("r", beside)
    beside.do("b = unios.get(r)")
    assert inode(here, "b") == inode(beside, "b")


@pytest.mark.parametrize("size", [0, 10, 40_000, MEGA])
def test_a_buffer_that_was_allocated_is_got_as_a_view(here: Remote, beside: Remote, elsewhere: Remote, size: int) -> None:
    here.do(f"b = unios.allocate({size}); b[:2] = b'xy'[:{size}]; r = unios.put(b)")
    for program in (here, beside, elsewhere):
        if program is not here:
            here.give("r", program)
        assert program.ask("(type(r.get()).__name__, bytes(r.get()[:3]).hex(), len(r.get()))") == ["memoryview", b"xy\0".hex() if size else "", size]


def test_many_readers_take_the_memory_of_one(here: Remote, beside: Remote) -> None:
    here.do(f"a = unios.empty({MEGA * 25}); a[:] = 1; r = unios.put(a)")
    here.give("r", beside)
    beside.do(
        "import numpy; pss = lambda: sum(int(l.split()[1]) for l in open('/proc/self/smaps_rollup') if l.startswith(('Private_Dirty', 'Private_Clean')))"
    )
    before = beside.ask("pss()")
    assert beside.ask("bool((unios.get(r) == 1).all())") and beside.ask("float(unios.get(r).sum())") == MEGA * 25
    beside.do("many = [unios.get(r) for _ in range(10)]; total = sum(float(one.sum()) for one in many)")
    assert beside.ask("pss()") - before < 20_000, "200 MB read ten times took more than 20 MB of one's own"


def test_what_is_written_to_an_array_nobody_else_sees(here: Remote, beside: Remote) -> None:
    here.do(f"a = unios.empty({MEGA}); a[:] = 1; r = unios.put(a); a[0] = 2")
    here.give("r", beside)
    beside.do("b = unios.get(r); b[0] += 10; b[1] = 5")
    assert beside.ask("list(b[:3])") == [11, 5, 1]
    assert beside.ask("list(unios.get(r)[:3])") == here.ask("list(unios.get(r)[:3])") == [1, 1, 1]
    here.do("r2 = unios.put(a)")
    assert here.ask("list(unios.get(r2)[:2])") == [2, 1]


def test_an_object_lives_exactly_as_long_as_somebody_refers_to_it(here: Remote, beside: Remote, elsewhere: Remote) -> None:
    here.do(f"r = unios.put(bytes({MEGA}))")
    for program in (beside, elsewhere):
        here.give("r", program)
    here.do("del r")
    assert beside.ask("len(unios.get(r))") == MEGA
    beside.do("del r")
    assert elsewhere.ask("len(unios.get(r))") == MEGA
    assert settled(elsewhere, objects=1)["memory_bytes"] >= MEGA
    elsewhere.do("del r")
    settled(elsewhere, objects=0, memory_bytes=0)
    settled(here, objects=0, memory_bytes=0, loans=0)


def test_a_reference_that_is_sent_and_let_go_at_once_does_not_dangle(here: Remote, beside: Remote, elsewhere: Remote) -> None:
    for program in (beside, elsewhere):
        here.give("unios.put([1, 2, 3])", program, "r")
        here.do("gc.collect()")
        assert program.ask("unios.get(r)") == [1, 2, 3]


def test_a_reference_that_has_come_is_told_although_nobody_gets_its_object(here: Remote, beside: Remote) -> None:
    here.give("unios.put([1, 2, 3])", beside, "r")
    here.do("gc.collect()")
    assert settled(here, loans=0)["objects"] == 1
    assert beside.ask("unios.get(r)") == [1, 2, 3]


def test_objects_outlive_the_program_that_put_them(whole: System, here: Remote) -> None:
    with Remote(whole, "n1") as putting:
        putting.do(f"r = unios.put('x' * {MEGA})")
        putting.give("r", here)
        putting.kill()
    assert here.ask("len(r.get())") == MEGA
    settled(here, parties=1, objects=1)
    here.do("del r")
    settled(here, objects=0, memory_bytes=0)


def test_a_killed_program_holds_nothing(whole: System, here: Remote) -> None:
    with Remote(whole, "n1") as putting:
        putting.do(f"r = unios.put(bytes({MEGA})); b = unios.get(r)")
        assert here.statistics()["objects"] == 1
        putting.kill()
    settled(here, objects=0, memory_bytes=0, read=0, parties=1)


def test_an_object_with_references_inside_keeps_what_they_refer_to(here: Remote, beside: Remote, elsewhere: Remote) -> None:
    here.do("r = unios.put({'inner': unios.put([unios.put('deep')])})")
    for program in (beside, elsewhere):
        here.give("r", program)
        assert program.ask("r.get()['inner'].get()[0].get()") == "deep"
    here.do("del r")
    assert elsewhere.ask("r.get()['inner'].get()[0].get()") == "deep"
    for program in (beside, elsewhere):
        program.do("del r")
    settled(here, objects=0)
    settled(elsewhere, objects=0)


def test_a_forked_child_refers_to_what_its_parent_did_also_before_it_can_say_so(here: Remote) -> None:
    here.do(
        """
gate, ready, done = os.pipe(), os.pipe(), os.pipe()
os.register_at_fork(after_in_child=lambda: os.read(gate[0], 1))  # before that of unios, which is loaded at its first use
r = unios.put([1, 2, 3])
child = os.fork()
if child == 0:
    try:
        os.read(ready[0], 1)
        first = unios.get(r)
        mine = unios.put('of the child')
        os.write(done[1], repr((first, unios.get(mine))).encode())
    finally:
        os._exit(0)
"""
    )
    here.do("p = unios.put('put later'); del r; gc.collect(); del p")
    settled(here, parties=1, objects=1)  # p is gone, and so what was let go before it has been heard
    here.do("os.write(gate[1], b'x')")
    settled(here, parties=2, objects=1, loans=0)
    here.do("os.write(ready[1], b'x'); said = os.read(done[0], 100).decode(); os.waitpid(child, 0)")
    assert here.ask("said") == "([1, 2, 3], 'of the child')"
    settled(here, parties=1, objects=0)
    assert here.ask("unios.get(unios.put(5))") == 5


def test_what_cannot_be_pickled_is_refused_at_once_with_a_sentence(here: Remote) -> None:
    for value in ("lambda lock=threading.Lock(): lock", "threading.Lock()", "(x for x in 'ab')"):
        with pytest.raises(Raised, match="cannot be sent") as caught:
            here.do(f"unios.put({value})")
        assert caught.value.name == "CallerError"
    with pytest.raises(Raised, match="remake cannot be pickled"):
        here.do("unios.put(1, remake=lambda: 1)")
    with pytest.raises(Raised, match="get takes a reference"):
        here.do("unios.get('no reference')")


def test_a_wait_has_an_end(here: Remote, elsewhere: Remote) -> None:
    here.do(f"r = unios.put(bytes({200 * MEGA}))")
    here.give("r", elsewhere)
    with pytest.raises(Raised) as caught:
        elsewhere.do("unios.get(r, timeout=0.001)")
    assert caught.value.name == "TimeoutError"
    assert elsewhere.ask("len(unios.get(r, timeout=60))") == 200 * MEGA


def test_an_object_of_another_node_is_fetched_once_for_all_programs_there(whole: System, here: Remote, elsewhere: Remote) -> None:
    here.do(f"r = unios.put(bytes({50 * MEGA}))")
    here.give("r", elsewhere)
    elsewhere.do("r.get()")
    with Remote(whole, "n2") as other:
        here.give("r", other)
        elsewhere.do("a = memoryview(r.get())")
        other.do("a = memoryview(r.get())")
        assert settled(other, objects=1)["memory_bytes"] < 60 * MEGA
        settled(here, parties=2, objects=1)  # this program, and the other node


def test_garbage_at_the_holders_port_changes_nothing(here: Remote) -> None:
    here.do("r = unios.put('whole')")
    before = settled(here, objects=1, parties=1)
    here.do(
        """
from unios.client import ports
from unios.client.connection import Connection
from unios.client.messages.acceptor import me
from unios.client.messages.port import Port
name = f"objects/{me()}/n1"
with Connection() as connection:
    for text in (b"", b"x", b"\\xff" * 100_000, (5).to_bytes(4, "little") + b"abcde", os.urandom(4_000)):
        with ports.connect_raw(connection, name) as sock:
            try:
                sock.sendall(text)
            except OSError:
                pass
errors = []
with Port(name) as port:
    for op, args in (("put", ()), ("put", ("x", 5, None, 1)), ("get", (("a",),)), ("bring", (None,)), ("tie", (5, 5, 5)), ("__init__", ()), ("serve", ())):
        try:
            port.options(timeout=10).call(op, *args)
        except Exception as error:
            errors.append(type(error).__name__)
"""
    )
    assert len(here.ask("errors")) == 7 and "OutcomeUnknown" not in here.ask("errors")
    assert here.ask("r.get()") == "whole"
    after = settled(here, objects=1, parties=before["parties"])
    assert after["pid"] == before["pid"] and after["memory_bytes"] == before["memory_bytes"]


def test_thousands_of_objects_leave_neither_memory_nor_descriptors(here: Remote, beside: Remote) -> None:
    here.do("unios.get(unios.put(bytes(1_000_000)))")
    before = settled(here, objects=0, read=0)
    mine = here.ask("len(os.listdir('/proc/self/fd'))")
    here.do("refs = [unios.put(bytes(200_000) if n % 4 == 0 else n) for n in range(2_000)]")
    here.give("refs", beside)
    assert beside.ask(
        "[len(one) if isinstance(one, bytes) else one for one in unios.get(refs)] == [200_000 if n % 4 == 0 else n for n in range(2_000)]"
    )
    assert settled(here, objects=2_000)["memory_bytes"] >= 500 * 200_000
    for program in (here, beside):
        program.do("del refs")
    after = settled(here, objects=0, memory_bytes=0, read=0, loans=0)
    assert after["files"] <= before["files"] + 1
    assert here.ask("len(os.listdir('/proc/self/fd'))") <= mine


def test_threads_share_the_references_of_their_program(here: Remote) -> None:
    here.do(
        """
failures = []
def work():
    try:
        for n in range(60):
            r = unios.put([n] * 10)
            copies = pickle.loads(pickle.dumps([r] * 3))
            del r
            assert unios.get(copies) == [[n] * 10] * 3
    except BaseException as error:
        failures.append(repr(error))
threads = [threading.Thread(target=work) for _ in range(6)]
for one in threads: one.start()
for one in threads: one.join()
"""
    )
    assert here.ask("failures") == []
    settled(here, objects=0, loans=0)


def test_a_hundred_megabytes_are_had_from_shared_memory_within_milliseconds(here: Remote, beside: Remote) -> None:
    here.do(f"a = unios.empty({100 * MEGA}, 'u1'); a[:] = 1; r = unios.put(a)")
    here.give("r", beside)
    beside.do("import numpy; unios.get(r)")
    beside.do(
        """
def took():
    begun = time.perf_counter(); found = unios.get(r); return time.perf_counter() - begun
best = min(took() for _ in range(20))
"""
    )
    assert beside.ask("best") < 0.01, "copied, it takes fifty"


LOOKER = """
from unios.client.objects.counts import COUNTS
asked, call, kept = [], COUNTS.tie().call, []
COUNTS.tie().call = lambda op, *args, **kwargs: (asked.append(op), call(op, *args, **kwargs))[1]
def look(ref):
    kept.append(ref.get())
    return float(kept[-1][0] + kept[-1][-1])
def leave(ref):
    kept.append(ref)
server = unios.listen("test/looker", {"look": look, "leave": leave})
files = lambda: len(os.listdir("/proc/self/fd"))
"""


def test_a_reference_brings_the_memory_of_what_its_sender_has_put(here: Remote, beside: Remote) -> None:
    """Whoever gets it at once need not ask the holder, which counts him all the same. (He asks if he comes to it a moment late.)"""
    beside.do("unios.put(0)")
    beside.do(LOOKER)
    here.do("port = unios.connect('test/looker')")
    settled(here, read=0)
    here.do(f"a = unios.empty({MEGA}); a[:] = 3; r = unios.put(a); a[:] = 9")
    before = beside.ask("files()")

    def brought() -> bool:
        beside.do("asked.clear(); kept.clear(); gc.collect()")
        assert here.ask("port.call('look', r)") == 6
        return beside.ask("asked") == []

    wait_for(brought, lambda is_so: is_so, "it is had without asking", 20)
    assert inode(here, "a") == inode(beside, "kept[0]")
    here.do("del a; gc.collect()")
    settled(here, read=1)
    here.do("del r; gc.collect(); port.call('leave', None)")
    beside.do("kept.clear(); gc.collect()")
    settled(here, read=0)
    here.do(f"a = unios.empty({MEGA}); r = unios.put(a); [port.call('leave', r) for _ in range(50)]")
    wait_for(lambda: beside.ask("files()"), lambda found: found <= before, "what nobody gets is closed", 20)
    here.do("del a, r; port.close(); gc.collect()")
    beside.do("server.close(); kept.clear(); gc.collect()")
    settled(here, read=0)


def test_the_asyncio_twins_do_the_same_and_do_not_hold_up_their_loop(here: Remote, elsewhere: Remote) -> None:
    here.do(f"big = unios.put(bytes({100 * MEGA}))")
    here.give("big", elsewhere)
    elsewhere.do(
        """
import asyncio
async def work():
    turns = 0
    fetching = asyncio.create_task(unios.aio.get(big))
    while not fetching.done():
        turns += 1
        await asyncio.sleep(0)
    refs = await asyncio.gather(*(unios.aio.put(n) for n in range(50)))
    errors = []
    for call in (unios.aio.put(threading.Lock()), unios.aio.get("no reference")):
        try:
            await call
        except unios.CallerError as error:
            errors.append(str(error)[:22])
    return turns, len(await fetching), await unios.aio.get(refs) == list(range(50)), errors, (await unios.aio.system()) is unios.system()
turns, *found = asyncio.run(work())
"""
    )
    assert elsewhere.ask("found") == [100 * MEGA, True, ["this cannot be sent: T", "get takes a reference,"], True]
    assert elsewhere.ask("turns > 10")


def test_the_system_says_what_a_holder_is(whole: System, here: Remote) -> None:
    here.do("r = unios.put(1)")
    [pid] = wait_for(lambda: holders(whole), lambda found: len(found) == 1, "one holder runs")
    assert whole.process(pid)["node"] == "n1"
    assert os.path.isdir(whole.home)
