"""Terminals on hard days: the kernel on the way is killed, the node of the program is lost."""

import os
import signal

from tests.e2e.keyboard import Keyboard
from tests.e2e.system import System


def test_an_attached_terminal_outlives_kernels_without_loss_and_goes_on_elsewhere_after_the_loss_of_the_node(fresh: System) -> None:
    with Keyboard(fresh, "run", "-t", "--", "bash", "--norc", "--noediting") as person:
        person.wait_for(r"\$ ")
        person.type("echo pid=$UNIOS_PID.$UNIOS_NODE; for i in $(seq 1 400); do echo line $i; sleep 0.005; done\r")
        found = person.wait_for(r"pid=(\d+)\.(n\d)")
        home = found[2].decode()
        person.wait_for("line 20\r\n")
        for name, node in fresh.nodes().items():
            if name in (home, "n1"):
                os.kill(node["kernel_pid"], signal.SIGKILL)
        person.wait_for("line 400\r\n", 40)
        shown = [int(line.split()[1]) for line in person.said.split(b"\r\n") if line.startswith(b"line ")]
        assert shown == list(range(1, 401))
        person.type("echo typed-$((3+4))\r")
        person.wait_for("typed-7\r\n")
        fresh.power_cut(home)
        person.wait_for(r"was started again on n\d", 40)
        person.wait_for(r"\$ ")
        person.type("echo now-on-$UNIOS_NODE; exit 9\r")
        assert person.wait_for(r"now-on-(n\d)")[1].decode() != home
        assert person.ends() == 9 and person.modes() == person.before
