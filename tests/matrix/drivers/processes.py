"""Processes: start one, wait for its end, read what it said; one that is bound to the node that suffers, and one that may be anywhere.

What was acknowledged has to end once, rightly, with its output, or the loss is told. At the end each one that was acknowledged is looked at again.
"""

import itertools
import os
from collections.abc import Callable

from tests.matrix.drivers.work import Wrong, repeat
from unios.client import output, processes
from unios.client.connection import Connection
from unios.demands import Resources
from unios.errors import OutcomeUnknown
from unios.wire.operations import Program

ENDS_S = 90
acknowledged: dict[int, int] = {}
"""The exit code that each has to end with."""


def life(node: str) -> Callable[[], None]:
    connection, numbers = Connection(), itertools.count()

    def step() -> None:
        number = next(numbers)
        code = number % 100
        script = f"echo begin {number}; sleep 0.2; echo end {number}; exit {code}"
        program = Program(argv=(b"/bin/sh", b"-c", script.encode()), node=node, resources=Resources(cpu_milli=50))
        pid = processes.submit(connection, program).pid
        acknowledged[pid] = code
        view = processes.wait(connection, pid, timeout_s=ENDS_S)
        if view.state not in processes.ENDED:
            raise Wrong(f"{pid} has not ended within {ENDS_S} s: {view.state} on {view.node}, {view.reason}")
        judge(connection, pid)
        said = b"".join(chunk.data for chunk in output.follow(connection, pid, view=view) if isinstance(chunk, output.Chunk))
        if view.reason.startswith("output was cut"):
            raise OutcomeUnknown(f"{pid}: {view.reason}")
        if said != f"begin {number}\nend {number}\n".encode():
            raise Wrong(f"{pid}.{view.incarnation} on {view.node} said {said!r} and not begin and end {number}; {view.reason}")

    return step


def judge(connection: Connection, pid: int) -> None:
    """Raise Wrong unless it has ended as it had to, OutcomeUnknown if its record says that and why it was lost."""
    view = processes.view(connection, pid)
    if view.state == "exited" and view.exit_code == acknowledged[pid]:
        return
    if view.reason:
        del acknowledged[pid]
        raise OutcomeUnknown(f"{pid} {view.state}: {view.reason}")
    raise Wrong(
        f"{pid}.{view.incarnation} on {view.node}: {view.state}, code {view.exit_code}, signal {view.signal}, and no word why; {acknowledged[pid]} is right"
    )


def look_again() -> None:
    with Connection() as connection:
        for pid in list(acknowledged):
            judge(connection, pid)


if __name__ == "__main__":
    repeat({"bound": life(os.environ["MATRIX_VICTIM"]), "free": life("")}, pause_s=0.05, at_the_end=look_again)
