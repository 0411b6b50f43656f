"""The pytest plugin: a small system for a test run, that run's alone, and nothing for a run that does not ask."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.e2e.embedding import Programs
from tests.e2e.system import wait_for

ROOT = Path(__file__).parents[2]
USES = """
import os, subprocess, sys, unios
def ps():
    return subprocess.run([sys.executable, "-m", "unios", "nodes", "--json"], capture_output=True, text=True, check=True).stdout
def test_one(unios_system):
    assert os.environ["UNIOS_HOME"] == str(unios_system.home) == str(unios.system().home)
    print("HOME", unios_system.home, ps().count('"ready"'), file=sys.__stderr__)
def test_two(unios_system):
    assert ps()
"""


def run(programs: Programs, text: str, *words: str) -> "subprocess.Popen[str]":
    """Run pytest over one test file, with this plugin only."""
    tests = programs.folder / "t"
    tests.mkdir(exist_ok=True)
    (tests / "test_it.py").write_text(text)
    argv = [sys.executable, "-m", "pytest", "-p", "unios.pytest_plugin", "-p", "no:cacheprovider", "-rA", *words, str(tests)]
    env = {**programs.env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    pipe = subprocess.PIPE
    started = subprocess.Popen(argv, env=env, cwd=tests, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
    programs.started.append(started)
    return started


def ended(started: "subprocess.Popen[str]") -> tuple[int, str]:
    out, err = started.communicate(timeout=100)
    return started.returncode, out + err


def test_it_is_an_entry_point_of_pytest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"unios": "unios.pytest_plugin"}


@pytest.mark.parametrize(("words", "nodes"), [((), 2), (("--unios-nodes", "1"), 1), (("-o", "unios_nodes=1"), 1)])
def test_tests_of_a_run_share_one_system_which_goes_with_the_run(programs: Programs, words: tuple[str, ...], nodes: int) -> None:
    code, said = ended(run(programs, USES, "-s", *words))
    assert code == 0 and "2 passed" in said, said
    assert re.findall(r"HOME \S+ (\d)", said) == [str(nodes)]
    assert programs.left() == []


def test_each_worker_has_its_own(programs: Programs) -> None:
    text = (
        USES
        + "\ndef test_three(unios_system):\n    print('AT', unios_system.home)\ndef test_four(unios_system):\n    print('AT', unios_system.home)\n"
    )
    code, said = ended(run(programs, text, "-p", "xdist", "-n", "2", "--dist", "each", "--unios-nodes", "1"))
    assert code == 0 and "8 passed" in said, said
    assert len(set(re.findall(r"AT (\S+)", said))) == 2
    assert programs.left() == []


@pytest.mark.parametrize("ending", ["os._exit(9)", "os.kill(os.getpid(), 9)", "assert False", "raise KeyboardInterrupt"])
def test_a_run_that_crashes_leaves_nothing(programs: Programs, ending: str) -> None:
    code, said = ended(run(programs, USES + f"\ndef test_end(unios_system):\n    {ending}\n", "--unios-nodes", "1"))
    assert code != 0, said
    programs.wait_nothing_left()


def test_a_run_that_is_killed_leaves_nothing(programs: Programs) -> None:
    started = run(programs, USES + "\ndef test_wait(unios_system):\n    import signal; signal.pause()\n", "--unios-nodes", "1", "-k", "wait")
    wait_for(lambda: list(programs.runtime.glob("*/nodes/n1/run/ready")), bool, "the system is there")
    started.send_signal(signal.SIGKILL)
    started.communicate()
    programs.wait_nothing_left()


def test_a_run_without_it_loads_nothing_and_starts_nothing(programs: Programs) -> None:
    text = "import sys\ndef test_one():\n    assert [m for m in sys.modules if m.split('.')[0] in ('unios', 'msgspec')] == ['unios', 'unios.pytest_plugin']\n"
    code, said = ended(run(programs, text))
    assert code == 0 and "1 passed" in said, said
    assert os.listdir(programs.runtime) == []


@pytest.mark.parametrize("words", [("--unios-nodes", "0"), ("--unios-nodes", "1000"), ("-o", "unios_nodes=many")])
def test_an_impossible_number_of_nodes_is_said(programs: Programs, words: tuple[str, ...]) -> None:
    code, said = ended(run(programs, USES, *words))
    assert code != 0 and "is no number of nodes for unios: choose 1 to 16" in said and "INTERNALERROR" not in said, said
    assert programs.homes() == []
