"""Last watch: the kernel's eye on supervisor and guard. Each of those restarts the other; if both died at once, or one while the other was to be
started anew, nobody else would: the node would count as ready and start nothing for ever. Then the kernel starts a supervisor, which starts the rest.

A supervisor that ends in order removes `run/supervisor.json`: then there is nothing to start. Two at once do no harm: the second finds the first's lock.
"""

from typing import TYPE_CHECKING, Final

from unios.kernel import runfiles, watchman
from unios.kernel.beats import Beats
from unios.kernel.clocks import boot_ms
from unios.limits import HUNG_MS
from unios.wire.ticks import tick

if TYPE_CHECKING:
    import subprocess

    from unios.kernel.node import Node

LOOK_S: Final = 1.0
BOTH: Final = ("supervisor", "guard")


class LastWatch:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._beats = Beats(node.folder.beats)
        self._started: subprocess.Popen[bytes] | None = None
        self._not_before_ms = 0

    async def run(self) -> None:
        """Look again and again; ends only by cancellation."""
        while True:
            await tick(LOOK_S)
            self.look(boot_ms())

    def look(self, now_ms: int) -> None:
        """Start a supervisor if there is neither one nor a guard. The beats spare the look at the run files while both live."""
        if self._started is not None and self._started.poll() is not None:
            self._started = None  # reaped
        if now_ms < self._not_before_ms or self._node.stopping.under_way or any(now_ms - self._beats.last_ms(name) <= HUNG_MS for name in BOTH):
            return
        run = self._node.folder.run
        if any(runfiles.read(run / f"{name}.json") for name in BOTH):
            return  # one that hangs is the other's business
        self._not_before_ms = now_ms + int(watchman.SETTLE_S * 1000)
        self._started = watchman.start_supervisor(str(run)) or self._started
