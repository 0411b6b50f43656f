"""Spares: inits made ahead of their job, already in their namespaces and with folder and group, so that a spawn does not wait for that.

How many there are decides core/spares.py; the zygote forks them. Where namespaces cannot be had the spares come without, and say why.
"""

import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from unios.core import spares as decider
from unios.kernel import cgroups, clone, freezer, guarded, poller, runfiles, trees_protocol, zygote
from unios.kernel.poller import Client
from unios.limits import REAPED_MAX, SPARE_TIMEOUT_S

FAILURES_MAX: Final = 3
"""Spares that die one after the other of themselves and without a word before namespaces are given up."""
ANSWER_S: Final = 2.0
"""How long a zygote may take to fork; then it is replaced."""
BURY_S: Final = 0.2
ZYGOTE_PAUSE_S: Final = 0.01
ZYGOTE_PAUSE_MAX_S: Final = 5.0
"""A zygote that dies before it has forked anything is made again after the first, and after twice as long each time up to the second."""
ANYBODY: Final = ()
LINGER_S: Final = 1.0
"""How long inits wait for a tree, once the last of them is ready, if there are more than at rest."""


class Spare(NamedTuple):
    """An init without a job. Whoever takes it owns pidfd and control. `group` names its folder too.

    `owner`: uid, gid and groups of the trees that it has had, and only such it may have; ANYBODY if it is new.
    """

    pid: int
    start: int
    pidfd: int
    control: socket.socket
    group: str
    namespaces: bool
    owner: guarded.Owner = ANYBODY
    before: str = ""
    """The group of its last tree, which it removes before it is ready."""


class Spares:
    """Those of one guard. `ready` is called when one has become so, `failed` with a sentence when none can be made for want of a folder."""

    def __init__(
        self,
        loop: poller.Poller,
        node_folder: str,
        groups: zygote.Groups,
        *,
        namespaces: bool,
        ready: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._loop, self._folder, self._groups = loop, node_folder, groups
        self._ready_callback, self._failed_callback = ready, failed
        self.namespaces = namespaces
        self.why_not = "" if namespaces else "they are switched off"
        """Why trees get no namespaces."""
        self._failures = self._deaths = self._zygote_deaths = 0
        """Spares that were lost since the last that was ready; of these, those that died of themselves without a word."""
        self._statuses: dict[int, int] = {}
        """How children of the guard ended that it has reaped, as waitpid gave it, by pid: those being made, and any while the zygote has still to say
        what it has forked; bounded by REAPED_MAX."""
        self._token, self._number = os.urandom(4).hex(), 0
        self._zygote: Client | None = None
        self._zygote_pidfd = -1
        self._asked: list[tuple[str, bool]] = []
        """Group and kind of those that the zygote shall fork, in order."""
        self._making: dict[int, Spare] = {}
        self._ready: list[Spare] = []
        self._closed = self._resting = self._thinning = False
        self._recorded = cgroups.recorded(node_folder)
        gc.collect()
        gc.freeze()
        self._remove_stale()

    def folder_of(self, spare: Spare) -> str:
        return f"{self._folder}/spares/{spare.group}"

    def _remove_stale(self) -> None:
        """Remove what the spares of an earlier guard left: they end with it."""
        os.makedirs(f"{self._folder}/spares", mode=0o700, exist_ok=True)
        for group in os.listdir(f"{self._folder}/spares"):
            self._remove(group)

    def _remove(self, group: str) -> None:
        freezer.release(self._recorded, group)
        guarded.remove(f"{self._folder}/spares/{group}")

    def take(self, owner: guarded.Owner) -> Spare | None:
        """Return a spare for a job of `owner` if one is ready: best one that has had a tree of his."""
        for kind in (owner, ANYBODY):
            for spare in [one for one in self._ready if one.owner == kind]:  # the oldest first: its launcher has surely joined its groups by now
                self._ready.remove(spare)
                self._loop.remove(spare.control.fileno())
                if runfiles.start_of(spare.pid) == spare.start != 0:
                    return spare
                self._discard(spare)
        return None

    def any(self) -> bool:
        """Return whether a spare is ready."""
        return bool(self._ready)

    def counts(self) -> dict[str, int]:
        """Return how many are ready, and how many are on the way."""
        return {"ready": len(self._ready), "making": len(self._making) + len(self._asked)}

    def want(self, owners: Sequence[guarded.Owner]) -> None:
        """See to it that there are enough for the waiting jobs, whose owners these are (core/spares.py)."""
        while not (self._closed or self._resting) and self._lacking(owners):
            self._ask()

    def _lacking(self, owners: Sequence[guarded.Owner]) -> int:
        all_ = [*self._making.values(), *self._ready]
        new = len(self._asked) + sum(one.owner == ANYBODY for one in all_)
        return decider.lacking(new, [one.owner for one in all_ if one.owner != ANYBODY], owners)

    def recycle(self, spare: Spare) -> bool:
        """Take an init that has had a tree and waits to hear in which group it shall have another; False if it is not needed."""
        if self._closed or not decider.may_recycle(sum(one.owner != ANYBODY for one in (*self._making.values(), *self._ready))):
            return False
        spare = spare._replace(group=self._next_group(), before=spare.group)
        try:
            spare.control.setblocking(True)
            spare.control.sendall(trees_protocol.encode({"group": spare.group}))
        except OSError:
            return False
        self._begin(spare)
        return True

    def _thin(self) -> None:
        """End those that nobody has taken meanwhile, up to what there is at rest."""
        self._thinning = False
        recycled = [one for one in self._ready if one.owner != ANYBODY]
        new = [one for one in self._ready if one.owner == ANYBODY]
        kept_new, kept_recycled = decider.kept_at_rest(len(new), len(recycled))
        for spare in (*recycled[kept_recycled:], *new[kept_new:]):
            self._loop.remove(spare.control.fileno())
            self._discard(spare)

    def _next_group(self) -> str:
        self._number += 1
        return f"{self._token}.{self._number}"

    # the zygote

    def _ask(self) -> None:
        if self._zygote is None:
            try:
                self._zygote_pidfd, sock = zygote.start(self._folder, self._groups)
            except OSError as error:
                runfiles.complain(f"no zygote can be forked: {error.strerror}")
                self._resting = True
                self._loop.after(1.0, self._ask_again)
                return
            self._zygote = Client(self._loop, sock, self._answered, self._zygote_gone)
        group = self._next_group()
        self._asked.append((group, self.namespaces))
        self._zygote.send({"group": group, "namespaces": self.namespaces})
        self._loop.after(ANSWER_S, lambda: self._zygote_hangs(group))

    def _ask_again(self) -> None:
        self._resting = False
        self._ready_callback()

    def _zygote_hangs(self, group: str) -> None:
        if any(asked == group for asked, _namespaces in self._asked):
            self._kill_zygote()

    def _kill_zygote(self) -> None:
        if self._zygote is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._zygote_pidfd, signal.SIGKILL)
            self._zygote.close()

    def _zygote_gone(self, client: Client) -> None:
        if client is self._zygote:
            self._zygote = None
            os.close(self._zygote_pidfd)
            self._asked.clear()
            self._forget_strangers()
            if not self._closed:
                self._resting = True
                self._loop.after(min(ZYGOTE_PAUSE_S * 2**self._zygote_deaths, ZYGOTE_PAUSE_MAX_S), self._ask_again)
                self._zygote_deaths = min(self._zygote_deaths + 1, 16)

    def _answered(self, client: Client, frame: trees_protocol.Frame) -> None:
        fields: dict[str, Any] = frame.fields or {}
        if not self._asked or ("error" not in fields and len(client.fds) < 2):
            client.close()
            return
        self._zygote_deaths = 0
        group, namespaces = self._asked.pop(0)
        if "error" in fields:
            self._forget_strangers()
            self._cannot(namespaces and not fields.get("passing"), str(fields["error"]))
            return
        pidfd, control = client.fds[:2]
        del client.fds[:2]
        pid = int(fields["pid"])
        self._begin(Spare(pid, runfiles.start_of(pid), pidfd, socket.socket(fileno=control), group, namespaces))
        self._forget_strangers()

    def _begin(self, spare: Spare) -> None:
        self._making[spare.control.fileno()] = spare
        self._loop.add(spare.control.fileno(), lambda _mask: self._heard(spare))
        self._loop.after(SPARE_TIMEOUT_S, lambda: self._too_late(spare))

    def _cannot(self, namespaces: bool, why: str) -> None:
        """No init can be forked that way."""
        if namespaces and self.namespaces:
            self._give_up(why)
            self._ready_callback()
        else:
            runfiles.complain(f"cannot make an init: {why}")
            self._loop.after(0.1, self._ready_callback)

    def _give_up(self, why: str) -> None:
        """Go on without namespaces."""
        self.namespaces, self.why_not, self._failures, self._deaths = False, why, 0, 0
        runfiles.complain(f"trees get no namespaces of their own: {why}")
        clone.become_subreaper()

    # the spares

    def _heard(self, spare: Spare) -> None:
        """A spare says that it is ready, or that it cannot be; or it is gone."""
        try:
            data = spare.control.recv(4096, socket.MSG_DONTWAIT)
            frames = trees_protocol.Decoder().feed(data)
        except BlockingIOError:
            return
        except (OSError, trees_protocol.Garbage):
            frames = []
        fields = frames[0].fields if frames else None
        if fields and fields.get("ready"):
            self._making.pop(spare.control.fileno(), None)
            self._failures = self._deaths = 0
            self._ready.append(spare)
            if not self._thinning:  # counted from now: on a busy machine it may have taken longer than LINGER_S to get here
                self._thinning = True
                self._loop.after(LINGER_S, self._thin)
            self._ready_callback()
            return
        if spare in self._ready or spare.owner != ANYBODY:  # it was killed, or cannot go on: that says nothing about what can be had here
            self._loop.remove(spare.control.fileno())
            self._discard(spare)
            self._loop.after(0.05, self._ready_callback)
            return
        if fields and fields.get("passing"):
            runfiles.complain(f"an init could not be made now: {fields.get('text', '')}")
            self._lost(spare)
            return
        if fields and fields.get("namespaces", True):
            self._lost(spare)
            self._failed_callback(str(fields.get("text", "")))
            return
        if spare.namespaces and self.namespaces:
            self._deaths += not fields and self._died_of_itself(spare)
            if fields or self._deaths >= FAILURES_MAX:
                self._give_up(str(fields.get("text", "")) if fields else "the init died")
        self._lost(spare)

    def reaped(self, pid: int, status: int) -> None:
        """Note how a child of the guard has ended, if it is one that is being made or may turn out to be one."""
        if self._asked or any(spare.pid == pid for spare in self._making.values()):
            self._statuses.pop(pid, None)
            self._statuses[pid] = status
            if len(self._statuses) > REAPED_MAX:
                del self._statuses[next(iter(self._statuses))]

    def _forget_strangers(self) -> None:
        """Once the zygote has answered all, those that were reaped and are not being made were something else."""
        if not self._asked and self._statuses:
            made = {spare.pid for spare in self._making.values()}
            self._statuses = {pid: status for pid, status in self._statuses.items() if pid in made}

    def _died_of_itself(self, spare: Spare) -> bool:
        """Return whether one that is gone without a word has ended and was not killed, by a person or for want of memory: that would say nothing here."""
        runfiles.wait_readable(spare.pidfd, BURY_S)
        status = self._statuses.get(spare.pid)
        with contextlib.suppress(ChildProcessError):
            pid, found = os.waitpid(spare.pid, os.WNOHANG)
            status = found if pid else status
        return status is not None and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)

    def _lost(self, spare: Spare) -> None:
        self._loop.remove(spare.control.fileno())
        self._discard(spare)
        self._failures += 1
        self._loop.after(0.1 * self._failures if self._failures < 50 else 5.0, self._ready_callback)

    def _too_late(self, spare: Spare) -> None:
        if self._making.get(spare.control.fileno()) is spare:
            self._lost(spare)

    def _discard(self, spare: Spare) -> None:
        """Kill it and remove what it leaves."""
        self._making.pop(spare.control.fileno(), None)
        self._statuses.pop(spare.pid, None)
        if spare in self._ready:
            self._ready.remove(spare)
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(spare.pidfd, signal.SIGKILL)
        runfiles.wait_readable(spare.pidfd, BURY_S)
        os.close(spare.pidfd)
        spare.control.close()
        self._remove(spare.group)
        if spare.before:
            freezer.release(self._recorded, spare.before)

    def drop(self, spare: Spare) -> None:
        """End a spare that was taken and is not needed."""
        self._discard(spare)

    def close(self) -> None:
        """End the spares and the zygote."""
        self._closed = True
        self._kill_zygote()
        for spare in [*self._making.values(), *self._ready]:
            self._loop.remove(spare.control.fileno())
            self._discard(spare)
