"""Objects of a program that has a system of its own: they go with it, and the next system has others. What is spilled goes to a disk."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.e2e.embedding import Programs

LOST = """
def lost(ref):
    try:
        return ref.get()
    except unios.DataLost as error:
        return "put on node n1, is lost" in str(error)
"""


def test_after_a_system_was_taken_away_objects_are_those_of_the_next(programs: Programs) -> None:
    code = """
first = unios.put("first")
home = unios.system().home
unios.system().close()
second = unios.put("second")
tell(other=unios.system().home != home, second=second.get(), lost=lost(first))
"""
    assert programs.told(programs.start(LOST + code)) == {"other": True, "second": "second", "lost": True}


def test_a_child_that_outlives_its_parent_has_objects_of_its_own_system(programs: Programs) -> None:
    code = """
first = unios.put("first")
home, gone = unios.system().home, os.pidfd_open(os.getpid())
if os.fork() == 0:
    import select
    select.select([gone], [], [])
    while os.path.exists(home):
        os.sched_yield()
    second = unios.put("second")
    tell(other=unios.system().home != home, second=second.get(), lost=lost(first))
    sys.exit()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert programs.told(programs.start(LOST + code)) == {"other": True, "second": "second", "lost": True}


def test_where_the_home_is_in_memory_objects_are_spilled_to_a_disk(programs: Programs) -> None:
    with TemporaryDirectory(prefix="u-", dir="/dev/shm") as runtime:
        code = """
refs = [unios.put(bytes([n]) * 2_000_000) for n in range(10)]
from unios.client.objects.counts import ask
found = ask("statistics")
tell(right=all(ref.get() == bytes([n]) * 2_000_000 for n, ref in enumerate(refs)), spilled=found["disk_bytes"] > 10_000_000)
"""
        program = programs.start(code, XDG_RUNTIME_DIR=runtime, UNIOS_OBJECTS_MEMORY="8000000")
        assert programs.told(program) == {"right": True, "spilled": True}
        program.communicate(timeout=60)
        assert list(Path(runtime).iterdir()) == []
