"""Renicing on real processes: all threads, children that are born meanwhile, and who may favour."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from unios.kernel import renicing

THREADS = "import threading, sys; threading.Thread(target=threading.Event().wait).start(); print('up', flush=True)"


BASE = 0 if os.geteuid() == 0 else os.getpriority(os.PRIO_PROCESS, 0)
"""What the processes of these tests begin with: as root always the same, else that of whoever runs the tests, which they cannot leave."""
WORSE, WORST = BASE + 1, BASE + 2
pytestmark = pytest.mark.skipif(WORST > renicing.NICE_MAX, reason="these tests run with a nice value that leaves no room for a higher one")


@pytest.fixture
def threaded() -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen([sys.executable, "-c", THREADS], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    begin(process.pid)
    yield process
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def begin(pid: int) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.setpriority(os.PRIO_PROCESS, int(thread), BASE)


def values(pid: int) -> set[int]:
    return {os.getpriority(os.PRIO_PROCESS, int(name)) for name in os.listdir(f"/proc/{pid}/task")}


def test_every_thread_is_reniced_and_again_changes_nothing(threaded: "subprocess.Popen[bytes]") -> None:
    assert renicing.renice(lambda: [threaded.pid], WORSE, may_favour=False) == 2
    assert values(threaded.pid) == {WORSE}
    assert renicing.renice(lambda: [threaded.pid], WORSE, may_favour=False) == 0


def test_favouring_is_refused_and_changes_nothing(threaded: "subprocess.Popen[bytes]") -> None:
    first = os.listdir(f"/proc/{threaded.pid}/task")[-1]
    os.setpriority(os.PRIO_PROCESS, int(first), WORST)
    with pytest.raises(PermissionError, match="root"):
        renicing.renice(lambda: [threaded.pid], WORSE, may_favour=False)
    assert values(threaded.pid) == {BASE, WORST}


def test_what_is_born_between_two_looks_is_reniced_too(threaded: "subprocess.Popen[bytes]") -> None:
    child = subprocess.Popen(["sleep", "1000"])
    begin(child.pid)
    looks = iter([[threaded.pid], [threaded.pid, child.pid]])
    try:
        renicing.renice(lambda: next(looks, [threaded.pid, child.pid]), WORSE, may_favour=False)
        assert values(child.pid) == {WORSE}
    finally:
        child.kill()
        child.wait()


def test_what_has_ended_is_passed_over() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert renicing.renice(lambda: [gone.pid], WORSE, may_favour=False) == 0
