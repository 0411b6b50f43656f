"""A program with nothing running: it gets a system of its own at first use, and nothing of it outlives the program, however that ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.embedding import Programs
from tests.e2e.system import System, wait_for

TELL = "tell(home=str(unios.system().home), embedded=unios.system().embedded)\n"
WORK = "subprocess.run([sys.executable, '-m', 'unios', 'run', '-d', '--', 'sleep', '1000'], check=True, stdout=subprocess.DEVNULL)\n"
"""So that there is a tree with its control group."""
SLOW = "unios: starting a node for this program ...\n"
"""What may be said on a busy machine, and nothing else."""
WAIT = "sys.stdin.read()\n"


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise ValueError('mine')", 1),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(100)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(100)", -signal.SIGINT),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.abort()", -signal.SIGABRT),
        ("os.execvp('true', ['true'])", 0),
    ],
)
def test_nothing_outlives_the_program(programs: Programs, ending: str, code: int) -> None:
    assert programs.left() == []
    program = programs.start(WORK.join((TELL, "tell()\n")) + "sys.stdin.readline()\n" + ending)
    told = programs.told(program)
    assert told["embedded"] and os.path.dirname(told["home"]) == str(programs.runtime)
    programs.told(program)
    assert len(programs.left()) > 5
    out, err = program.communicate("go on\n", timeout=60)
    assert program.returncode == code and out == ""
    assert ("ValueError: mine" in err) == ("mine" in ending) and "unios" not in err.replace(SLOW, "")
    programs.wait_nothing_left()


def test_when_a_program_has_ended_by_itself_all_is_gone_at_once(programs: Programs) -> None:
    program = programs.start(TELL + WORK + "tell()")
    programs.told(program)
    program.communicate(timeout=60)
    assert programs.left() == []


def test_nothing_is_started_before_it_is_needed_and_both_streams_stay_empty(programs: Programs) -> None:
    program = programs.start(
        "tell(homes=os.listdir(os.environ['XDG_RUNTIME_DIR']), names=len(dir(unios)))\n" + TELL + "unios.system().close()\n" + WAIT
    )
    assert programs.told(program)["homes"] == []
    programs.told(program)
    wait_for(programs.left, lambda left: not left, "close() takes it away while the program goes on")
    out, err = program.communicate(timeout=60)
    assert (out, err.replace(SLOW, "")) == ("", "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_program_that_is_killed_while_its_system_starts_leaves_nothing(programs: Programs, number: signal.Signals) -> None:
    for reached in ("", "owner.json", "system.json", "nodes/n1/run/supervisor.json", "nodes/n1/kernel.sock"):
        program = programs.start(TELL + WAIT)
        wait_for(programs.homes, bool, "the home is made")
        wait_for((programs.runtime / programs.homes()[0] / reached).exists, bool, reached)
        program.send_signal(number)
        program.communicate(timeout=60)
        programs.wait_nothing_left()


def test_a_child_forked_while_the_system_starts_does_not_keep_it(programs: Programs) -> None:
    code = """
threading.Thread(target=unios.system, daemon=True).start()
homes = os.environ['XDG_RUNTIME_DIR']
while not any(os.path.exists(f'{homes}/{one}/owner.json') for one in os.listdir(homes)):
    os.sched_yield()
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    program = programs.start(code)
    program.wait(60)
    home = programs.homes()
    wait_for(programs.homes, lambda homes: not homes, f"{home} is gone while the child lives", 15)


def test_supervisors_killed_with_the_program_have_successors_that_see_it_gone(programs: Programs) -> None:
    program = programs.start(TELL + WORK + "tell()\n" + WAIT)
    home = Path(programs.told(program)["home"])
    programs.told(program)
    supervisor = int(json.loads((home / "nodes/n1/run/supervisor.json").read_text())["pid"])
    os.kill(supervisor, signal.SIGKILL)
    program.kill()
    programs.wait_nothing_left()


def test_what_a_power_cut_left_is_taken_away_by_the_next_program(programs: Programs) -> None:
    program = programs.start(TELL + WAIT)
    home = Path(programs.told(program)["home"])
    parts = [home / "nodes/n1/run" / f"{name}.json" for name in ("guard", "supervisor", "kernel", "placement", "recovery", "store")]
    for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none replaces or takes away anything
        for part in parts:
            os.kill(int(json.loads(part.read_text())["pid"]), number)
    program.kill()
    program.communicate()
    wait_for(programs.left, lambda left: not [one for one in left if one != home.name and one not in programs.groups], "all processes are gone")
    groups = list(programs.groups)
    begun = programs.runtime / f"unios-{program.pid}-0123abcd"
    begun.mkdir()  # one that came no further than that
    os.utime(begun, (0, 0))
    kept = programs.runtime / "unios-mine"
    kept.mkdir()
    again = programs.start(TELL + WAIT)
    told = programs.told(again)
    wait_for(programs.homes, lambda homes: homes == sorted([os.path.basename(told["home"]), kept.name]), "the leftovers are gone, and nothing else")
    assert not [group for group in groups if os.path.exists(group)]
    kept.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a pid namespace: needs root")
def test_a_program_in_another_pid_namespace_leaves_it_alone(programs: Programs) -> None:
    """It shares the folder and sees none of its processes. The supervisor may be dead just then."""
    program = programs.start(TELL + WAIT)
    home = Path(programs.told(program)["home"])
    os.kill(int(json.loads((home / "nodes/n1/run/supervisor.json").read_text())["pid"]), signal.SIGKILL)
    code = "import unios; print(unios.system().embedded)"
    words = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    assert subprocess.run(words, env=programs.env, capture_output=True, text=True, timeout=60).stdout == "True\n"
    assert (home / "system.json").exists()
    program.communicate("", timeout=60)


def test_two_programs_have_a_system_each(programs: Programs) -> None:
    one, other = programs.start(TELL + WAIT), programs.start(TELL + WAIT)
    homes = programs.told(one)["home"], programs.told(other)["home"]
    assert homes[0] != homes[1]
    one.communicate(timeout=60)
    assert programs.homes() == [os.path.basename(homes[1])]


def test_threads_that_begin_together_get_one_system(programs: Programs) -> None:
    code = """
homes, barrier = set(), threading.Barrier(8)
def begin():
    barrier.wait()
    homes.add(unios.system().home)
threads = [threading.Thread(target=begin) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
tell(count=len(homes), there=len(os.listdir(os.environ['XDG_RUNTIME_DIR'])))
"""
    assert programs.told(programs.start(code + WAIT)) == {"count": 1, "there": 1}


def test_a_forked_child_uses_the_system_and_does_not_take_it_away(programs: Programs) -> None:
    code = """
mine = unios.system()
if os.fork() == 0:
    same = unios.system() is mine
    unios.system().close()
    sys.exit(0 if same else 9)
code = os.waitstatus_to_exitcode(os.wait()[1])
tell(code=code, answers=subprocess.run([sys.executable, '-m', 'unios', 'ps'], capture_output=True).returncode)
"""
    assert programs.told(programs.start(code + WAIT)) == {"code": 0, "answers": 0}


def test_a_child_that_outlives_the_program_does_not_keep_its_system_and_gets_another(programs: Programs) -> None:
    code = """
first = unios.system().home
if os.fork() == 0:
    gone = os.pidfd_open(os.getppid())
    tell(first=str(first))
    import select
    select.select([gone], [], [])
    while os.path.exists(first):
        os.sched_yield()
    tell(second=str(unios.system().home))
    sys.stdin.read()
    sys.exit()
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
    program = programs.start(code)
    first = programs.told(program)["first"]
    assert program.stdin is not None
    program.stdin.write("go on\n")
    program.stdin.flush()
    assert programs.told(program)["second"] != first
    assert not os.path.exists(first)


def test_programs_started_from_a_program_share_its_system(programs: Programs) -> None:
    child = "import unios, json; s = unios.system(); print(json.dumps([str(s.home), s.embedded]))"
    code = """
home = unios.system().home
done = subprocess.run([sys.executable, '-c', CHILD], capture_output=True, text=True)
tell(same=json.loads(done.stdout) == [str(home), False])
"""
    assert programs.told(programs.start(f"CHILD = {child!r}\n" + code + WAIT)) == {"same": True}


def test_a_system_that_runs_is_used_and_left_alone(programs: Programs) -> None:
    with System() as system:
        system.unios("up", "--nodes", "1")
        program = programs.start(TELL, UNIOS_HOME=system.env["UNIOS_HOME"])
        assert programs.told(program) == {"home": system.env["UNIOS_HOME"], "embedded": False}
        program.communicate(timeout=60)
        assert programs.homes() == [] and list(system.nodes()) == ["n1"]
        system.unios("down", "--all")
        program = programs.start(TELL, UNIOS_HOME=system.env["UNIOS_HOME"])
        _out, err = program.communicate(timeout=60)
        assert program.returncode == 1 and "unios.errors.Unavailable: the system of UNIOS_HOME=" in err and "is down: `unios up` starts it" in err


def test_a_program_that_unios_runs_uses_the_system_that_runs_it(programs: Programs) -> None:
    with System() as system:
        system.unios("up", "--nodes", "1")
        code = "import unios; print(unios.system().home, unios.system().embedded)"
        said = system.unios("run", "--", sys.executable, "-c", code).stdout.decode()
        assert said == f"{system.env['UNIOS_HOME']} False\n"


def test_stopped_from_another_terminal_it_still_leaves_nothing(programs: Programs) -> None:
    program = programs.start(TELL + WAIT)
    home = programs.told(program)["home"]
    down = [sys.executable, "-m", "unios", "down", "--all"]
    subprocess.run(down, env={**programs.env, "UNIOS_HOME": home}, check=True, timeout=60)
    program.communicate(timeout=60)
    assert programs.left() == []


def test_where_no_node_can_be_started_the_program_gets_a_sentence(programs: Programs) -> None:
    program = programs.start("sys.executable = ''\ntry:\n    unios.system()\nexcept unios.Unavailable as error:\n    tell(said=str(error))\n")
    assert "`unios up` first" in programs.told(program)["said"]
