"""The leash of the tests: what a run has started ends with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests import leash
from tests.e2e.system import wait_for

ROOT = Path(__file__).parents[1]
RUN = """
import time
from tests.e2e.system import System

def test_that_is_killed():
    system = System()
    system.unios("up", "--nodes", "2")
    system.run_detached("sleep", "1000")
    print(system.home, flush=True)
    time.sleep(1000)
"""


def test_a_run_that_is_killed_leaves_no_node(tmp_path: Path) -> None:
    (tmp_path / "test_killed.py").write_text(RUN)
    words = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path / "test_killed.py")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")))}
    with subprocess.Popen(words, env=env, cwd=ROOT, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        said = next(line for line in run.stdout if b"unios-e2e-" in line)
        home = leash.hold(Path(said.decode().strip()))  # should its own leash be broken
        try:
            assert home.is_dir() and len(leash.naming(home)) > 4
        finally:
            run.send_signal(signal.SIGKILL)
    wait_for(lambda: (leash.naming(home), home.exists()), lambda left: left == ({}, False), "everything of it is gone")
    leash.let_go(home)


def test_what_was_let_go_of_is_left_alone_and_what_a_forked_child_holds_ends_with_the_child(tmp_path: Path) -> None:
    kept, held = tmp_path / "kept", tmp_path / "held"
    kept.mkdir()
    held.mkdir()
    leash.hold(kept)
    child = os.fork()
    if not child:
        leash.hold(held)
        leash.hold(kept)
        leash.let_go(kept)
        os._exit(0)
    os.waitpid(child, 0)
    wait_for(held.exists, lambda there: not there, "what the child held is gone")
    assert kept.exists()
    leash.let_go(kept)
