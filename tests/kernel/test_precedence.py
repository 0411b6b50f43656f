"""Parts of a node go before programs where Linux allows it, and what they fork does not."""

import os
import subprocess
import sys

import pytest

from unios.kernel import precedence

TAKES = """
import os, sys
from unios.kernel import precedence
os.setsid()
if sys.argv[1] == "user":
    os.setgid(65534); os.setuid(65534)
elif sys.argv[1] != "root":
    os.nice(int(sys.argv[1]))
took = precedence.take()
def seen():
    return os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, repr(seen()[0]).encode())
    os._exit(0)
os.wait()
group = open("/proc/self/autogroup").read().split()[-1] if os.path.exists("/proc/self/autogroup") else None
print(repr((took, seen()[0], int(os.read(read, 100)), group)))
"""


def taken(who: str) -> tuple[bool, int, int, str | None]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    made = subprocess.run([sys.executable, "-c", TAKES, who], env=environment, capture_output=True, text=True, check=True)
    found: tuple[bool, int, int, str | None] = eval(made.stdout)
    return found


@pytest.mark.skipif(os.getuid() != 0, reason="only root has precedence to give")
def test_who_may_goes_first_and_does_not_hand_it_on() -> None:
    took, mine, childs, group = taken("root")
    assert took and mine == precedence.NICE and childs == 0
    assert group in (None, str(precedence.NICE))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_who_may_not_stays_as_he_is() -> None:
    took, mine, childs, group = taken("user")
    assert (took, mine, childs) == (False, 0, 0) and group in (None, "0")


def test_a_nice_value_that_was_given_is_kept() -> None:
    assert taken("5")[:3] == (False, 5, 5)
