"""Watchman: the guard's eye on the supervisor. If that dies and nobody replaces it, the watchman starts `run/restart`, with back-off; one that
hangs is killed first.

A supervisor that ends in order removes `run/supervisor.json`: then there is nothing to restart.
"""

import contextlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from unios.kernel import runfiles
from unios.kernel.beats import Beats
from unios.kernel.clocks import boot_ms
from unios.kernel.poller import Poller
from unios.limits import BEAT_MS, HUNG_MS, RESTART_DELAY_MS_MAX, SUPERVISOR_GONE_MS

if TYPE_CHECKING:
    import subprocess

LOOK_S: Final = BEAT_MS / 1000
SETTLE_S: Final = 5.0
"""How long a started supervisor has to write its run file before the next is started."""


class Watchman:
    """That of one guard."""

    def __init__(self, loop: Poller, node_folder: str) -> None:
        self._loop, self._run = loop, f"{node_folder}/run"
        self._pidfd = -1
        self._gone_since = 0.0
        self._not_before = 0.0
        self._tries = 0
        self._beats = Beats(f"{node_folder}/beats")
        self._watched_at = 0.0
        self._grace_at = 0.0
        self._look()

    def _look(self) -> None:
        """Find a living supervisor and wait for its end, else count how long there is none."""
        running = runfiles.read(f"{self._run}/supervisor.json")
        descriptor = runfiles.open_pidfd(running) if running else None
        if descriptor is not None:
            self._gone_since, self._tries, self._pidfd = 0.0, 0, descriptor
            self._loop.add(descriptor, lambda _mask: self._ended())
            return
        now = time.monotonic()
        self._gone_since = self._gone_since or now
        if now - self._gone_since >= SUPERVISOR_GONE_MS / 1000 and now >= self._not_before:
            self._restart(now)
        self._loop.after(LOOK_S, self._look)

    def watch(self) -> None:
        """Kill a supervisor that does not beat; to be called every LOOK_S. Time in which this guard did not run does not count."""
        now = time.monotonic()
        if now - self._watched_at > 3 * LOOK_S:
            self._grace_at = now
        self._watched_at = now
        last = self._beats.last_ms("supervisor")
        silent_ms = boot_ms() - last
        if self._pidfd >= 0 and last and silent_ms > HUNG_MS and (now - self._grace_at) * 1000 > HUNG_MS:
            runfiles.complain(f"the supervisor hangs ({silent_ms} ms): killing it")
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._grace_at = now

    def _ended(self) -> None:
        self._loop.remove(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._look()

    def _restart(self, now: float) -> None:
        child = start_supervisor(self._run)
        if child is None and not os.path.exists(f"{self._run}/supervisor.json"):
            return
        if child is not None:
            child.returncode = 0  # the guard reaps by itself
        self._tries += 1
        self._not_before = now + min(SETTLE_S * 2 ** (self._tries - 1), RESTART_DELAY_MS_MAX / 1000)


def start_supervisor(run: str) -> "subprocess.Popen[bytes] | None":
    """Start a supervisor as `run/restart` says, unless the last one has ended in order; None if none was started. The caller reaps it."""
    if not os.path.exists(f"{run}/supervisor.json"):
        return None
    try:
        import subprocess  # heavy, and for a bad day only

        with open(f"{run}/restart") as file:
            argv = json.load(file)
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/")
    except (OSError, ValueError, TypeError) as error:
        runfiles.complain(f"cannot start the supervisor: {error}")
        return None
