"""Init: pid 1 of one process tree. Has the program started, reaps, pumps its streams, answers on a socket, and is the tree's leash.

It is made ahead of its job (a spare), in a folder of its own that the guard renames when it hands the job over. From then on it needs nobody: it
outlives guard, kernel and supervisor. It never decides about the lease itself (core/fencing.py does), and it looks at the clock after every wait and
before it moves any byte or answers anything.

Invariants: from the deadline on no byte of the tree is taken and no exit is reported until the claim is confirmed; when the init ends, no
process of the tree lives and its record, exit.json, is on disk or was at least told to whoever listens.
"""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from unios.core.fencing import DeadlineMoved, Freeze, Kill, Leash, LeashEvent, LeashOrder, Thaw, Tick, WakeAt
from unios.kernel import bounds, clone, exit_notes, guarded, init_door, launcher, poller, program, trees_protocol
from unios.kernel.accounting import Accounting
from unios.kernel.followers import Followers
from unios.kernel.freezer import Freezer
from unios.kernel.freezer import members as living
from unios.kernel.lease_page import LeasePage
from unios.kernel.pumps import InputPump, OutputPump
from unios.kernel.sessions import Sessions
from unios.kernel.streams import StreamWriter
from unios.kernel.terminal import Terminal, TerminalInput, TerminalOutput
from unios.kernel.throttling import Throttling
from unios.kernel.time_index import TimeWriter
from unios.limits import STREAM_HOLD_S
from unios.wire.segments import NAMES

KILL_AGAIN_S: Final = 0.05
FREEZE_WAIT_S: Final = 0.02
"""How long an order to freeze is watched before the loop goes on; the freezer needs about a millisecond."""
LAST_WORDS_S: Final = 1.0
BURY_S: Final = 0.1
"""How long a launcher that has told the end may take to say whether it can have another program."""
NUDGE_S: Final = 0.05
NUDGE_AGAIN_S: Final = 0.5
_EXIT_BYTES: Final = 1024


class Init:
    """One tree. Built before the job is known, so that only what depends on it is left to do. Raises OSError."""

    def __init__(self, node_folder: str, group: str, freezer: Freezer, launched: launcher.Launched, *, namespaces: bool) -> None:
        self.freezer, self.namespaces, self.launched = freezer, namespaces, launched
        self._path = f"{node_folder}/spares/{group}"
        os.mkdir(self._path, mode=0o700)
        self.folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lay_file(guarded.EXIT_LAID, _EXIT_BYTES)
        self._lay_file("tree.json", guarded.TREE_BYTES)
        self._notes = exit_notes.Sender(node_folder)
        self.accounting = Accounting(freezer.bounds)
        self.poller = poller.Poller(self.look)
        self.followers = Followers(self.poller)
        self.sessions = Sessions(self)
        self.terminal: Terminal | None = None
        self._times = TimeWriter(self.folder)
        self.leash: Leash | None = None
        self.stdin: InputPump | None = None
        self.status: int | None = None
        """As waitpid gave it; None while the program lives."""
        self.program_pid = 0
        self.ending = False
        self.told_to_end = ""
        """Why it was killed, when that was not the leash."""
        self.waiting_for_start: list[Callable[[], None]] = []
        self._lease = LeasePage(f"{node_folder}/lease")
        self._seen = (-1, -1)
        self._journal = -1
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._journal = os.open(f"{node_folder}/journal/init.{time.monotonic_ns()}", flags, 0o600)  # only if that folder is there
        self._timer = clone.BootTimer()
        self._childless = False
        """Nothing of the tree lives: nothing is left to kill."""
        self._without_launcher = False
        self._ended_at = 0.0
        self.started = False
        self.disturbed = not namespaces
        """Whether something has happened to the tree after which its init shall not have another one."""
        self.launcher_vacant = False
        self._launcher: poller.Client | None = None
        self._recorded = False
        self._make_pumps()
        self._watch_children()
        self.poller.add(self._timer.fileno(), lambda _mask: self._timer.clear())
        self.throttling = Throttling(self)
        self.door = init_door.Door(self)

    def _make_pumps(self) -> None:
        launched = self.launched
        for descriptor in (launched.stdin, launched.out, launched.err):
            os.set_blocking(descriptor, False)
        self._stdin_pipe = launched.stdin
        self.pumps = {
            name: OutputPump(self.poller, pipe, StreamWriter(self.folder, name), self._may_pump, self._limit(name))
            for name, pipe in zip(NAMES, (launched.out, launched.err), strict=True)
        }

    # the job

    def take(self, job: program.Job, control: socket.socket) -> None:
        """Have the program of `job` started; the answer goes to `control` when it has been executed. Raises Refused."""
        self.job = job
        self._control_socket = control
        self._control: poller.Client | None = None
        self.leash = Leash("keep" if job.on_partition == "keep" else "stop" if job.on_partition == "stop" else "replace", job.incarnation)
        self.look()
        if self.leash.frozen or self.leash.killed:
            raise program.Refused("unavailable", "this node's lease has ended: it starts nothing until it is renewed")
        if job.lease and self._seen[1] != job.lease:
            raise program.Refused("unavailable", "this node has lost the lease under which the start was decided")
        if job.hold:
            self.followers.expect()
        self.throttling.begin()
        self.freezer.bounds.apply(bounds.parse(job.bounds))
        self.freezer.bounds.deny(job.denied)
        if job.terminal[0]:
            self.disturbed = True
            self.terminal = made = Terminal(self.poller, job.uid, job.terminal, lambda: self.program_pid if self.status is None else 0)
            self.stdin, self.pumps["out"] = TerminalInput(made, self.poller, self._stdin_moved), TerminalOutput(made, self.poller, self.pumps["out"])
            os.close(self._stdin_pipe)
            job = self.job = job._replace(tty=made.path)
        elif job.stdin:
            self.stdin = InputPump(self.poller, self._stdin_pipe, self._stdin_moved)
        else:
            os.close(self._stdin_pipe)
        if self.namespaces:
            clone.write_kernel_file(launcher.NEXT_PID, str(job.pid - 1))  # nobody else forks here now
        client = self._launcher = poller.Client(
            self.poller, self.launched.control, lambda _client, frame: self._on_launcher(frame), lambda _client: self._launcher_gone()
        )
        guarded.begins(self.folder)
        client.send_bytes(launcher.encode(job))
        self.poller.after(NUDGE_AGAIN_S, self._nudge_start)

    def rehearse(self) -> None:
        """Go once through what a job will need, so that the pages that this touches are this process's own before the job is there."""
        program.rehearse()
        leash = Leash("replace", 1)
        leash.on(DeadlineMoved(*self._lease.read()))
        leash.on(Tick(0))
        self.freezer.holds_only(self.launched.pid)
        self.accounting.close(killed=False)
        self.freezer.bounds.rest()
        trees_protocol.encode({"event": "exit", "at_ms": time.time_ns() // 1_000_000, **self.ends()})
        self.followers.tell_growth(self.ends())
        self.poller.after(0, lambda: None)
        self.poller.turn()

    def leave(self) -> None:
        """Remove what it has, as one that never started anything; unless the guard has renamed its folder: then the next guard does."""
        self.freezer.remove()
        with contextlib.suppress(OSError):
            os.stat(self._path)
            for entry in os.listdir(self.folder):
                os.unlink(entry, dir_fd=self.folder)
            os.rmdir(self._path)

    def _limit(self, name: Any) -> Callable[[], int]:
        return lambda: self.followers.limit(name)

    def _lay_file(self, name: str, size: int) -> None:
        """Make a file for what will have to be written, so that this is quick, and possible on a disk that is full by then."""
        with contextlib.suppress(OSError):
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self.folder)
            try:
                os.write(file, b" " * size)
            finally:
                os.close(file)

    def _watch_children(self) -> None:
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.poller.add(self._wake, lambda _mask: self._reap())

    def _on_launcher(self, frame: trees_protocol.Frame) -> None:
        fields = frame.fields or {}
        if "program" in fields:
            self._executed(int(fields["program"]))
        elif "status" in fields:
            self.status = int(fields["status"])
            if self.namespaces and self.freezer.holds_only(self.launched.pid):
                self._childless = (
                    True  # nothing else lives, and the launcher is about to end; should a stranger to the group live, it ends with this init
                )
            self._reap()
        elif "vacant" in fields:
            self.launcher_vacant = True
        elif "error" in fields:
            self._fail(str(fields["error"]), str(fields.get("text", "")))

    def _launcher_gone(self) -> None:
        """It has told how the program ended, or it was killed, most likely with everything else."""
        self._without_launcher = True
        if not self.started:
            if not (self.namespaces and clone.lives(self.job.pid)):
                self._fail("unavailable", "the process was killed before its program began")
            self._executed(self.job.pid)  # the launcher was killed between the start and its word
        self._reap()

    def _watch_program(self) -> None:
        """See the program's end also where its launcher does not: a program may stop its parent."""
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(self.program_pid)

            def ended(_mask: int) -> None:
                self.poller.remove(pidfd)
                os.close(pidfd)
                self.throttling.program_ended()
                self.poller.after(NUDGE_S, lambda: self._nudge(signal.SIGCONT))

            self.poller.add(pidfd, ended)

    def _nudge_start(self) -> None:
        """A program may stop its launcher before that has told of it."""
        assert self.leash is not None
        if self.started or self._without_launcher:
            return
        self.disturbed = True
        if not self.leash.frozen:
            with contextlib.suppress(OSError):
                os.kill(self.launched.pid, signal.SIGCONT)
        self.poller.after(NUDGE_AGAIN_S, self._nudge_start)

    def _nudge(self, number: int) -> None:
        """The program has ended and its launcher has not said how: let it go on; then do without it."""
        assert self.leash is not None
        if self.status is not None or self._without_launcher:
            return
        self.disturbed = True
        if not self.leash.frozen:
            with contextlib.suppress(OSError):
                os.kill(self.launched.pid, number)
            number = signal.SIGKILL
        self.poller.after(NUDGE_AGAIN_S, lambda: self._nudge(number))

    def _executed(self, pid: int) -> None:
        self.program_pid = pid
        self.started = True
        self._watch_program()
        self._control = poller.Client(self.poller, self._control_socket, lambda _client, _frame: None)
        self._control.send({"started": True, "freezer": self.freezer.kind})
        for tell in self.waiting_for_start:
            tell()
        self.pumps_changed()

    def _fail(self, code: str, text: str) -> NoReturn:
        with contextlib.suppress(OSError):
            os.unlink(guarded.EXIT_LAID, dir_fd=self.folder)
        self.freezer.kill()
        self.freezer.remove()
        refuse(self._control_socket, code, text)
        os._exit(0)

    # the leash

    def look(self) -> None:
        """Look at lease and clock, and do what they demand."""
        if self.leash is None:
            return
        seen = self._lease.read()
        if seen != self._seen:
            self._seen = seen
            self.tell_leash(DeadlineMoved(*seen))
        self.tell_leash(Tick(time.clock_gettime_ns(time.CLOCK_BOOTTIME)))

    def tell_leash(self, event: LeashEvent) -> None:
        """Hand the leash an event and carry out its orders."""
        assert self.leash is not None
        orders = self.leash.on(event)
        if self._journal >= 0:
            self._note(event, orders)
        for order in orders:
            self._carry_out(order)

    def _note(self, event: LeashEvent, orders: list[LeashOrder]) -> None:
        """Write a line as core/journal.py reads it; that module is too heavy for an init."""
        named = [[type(thing).__name__, thing._asdict()] for thing in (event, *orders)]
        made = [self.job.on_partition, self.job.incarnation]
        line = {"decider": "fencing", "id": f"{self.job.pid}.{self.job.incarnation}", "made": made, "event": named[0], "orders": named[1:]}
        data = json.dumps(line).encode() + b"\n"
        with contextlib.suppress(OSError):
            if os.write(self._journal, data) == len(data):
                return
        os.close(self._journal)  # a journal with a hole does not replay: it ends where the disk was full, and the tree lives
        self._journal = -1

    def _carry_out(self, order: LeashOrder) -> None:
        match order:
            case WakeAt(at_ns):
                self._timer.set(at_ns)
            case Freeze():
                self.disturbed = True
                if not self.ending:
                    self.freezer.freeze()
                    self._wait_settled()
            case Thaw():
                self.freezer.thaw()
            case Kill():
                self.disturbed = True
                self.end()
        self.pumps_changed()

    def _wait_settled(self) -> None:
        until = time.monotonic() + FREEZE_WAIT_S
        while not self.freezer.settled() and time.monotonic() < until:
            time.sleep(0.0005)

    def _may_pump(self) -> bool:
        """Look again before each byte that is moved: this process may have been paused since the last look."""
        self.look()
        assert self.leash is not None
        return self.started and not self.leash.by_lease and not self.leash.killed

    def pumps_changed(self) -> None:
        for pump in self.pumps.values():
            pump.update()

    # the end

    def kill(self, reason: str) -> None:
        """Kill the tree because somebody asked for it."""
        self.told_to_end = self.told_to_end or reason
        self.disturbed = True
        self.end()

    def end(self) -> None:
        """Kill whatever lives in the tree, again and again until nothing does. Idempotent."""
        if not self._childless:
            self.freezer.kill()
        if not self.ending:
            self.ending = True
            self.poller.after(KILL_AGAIN_S, self._end_again)

    def _end_again(self) -> None:
        self._reap()
        if not self._childless:
            self.freezer.kill()
            self.poller.after(KILL_AGAIN_S, self._end_again)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self.program_pid:
                    self.status = status
                else:
                    self.sessions.reaped(pid, status)
        except ChildProcessError:
            self._childless = True
            self._ended_at = self._ended_at or time.monotonic()
            if self._without_launcher and self.status is None:
                self.status = signal.SIGKILL  # the launcher had taken note of the end, and was killed before it could tell
        if self.status is not None:
            self.end()  # the program's end is the tree's

    def finished(self) -> bool:
        """Whether nothing lives, nothing is left to pump and the end may be told."""
        assert self.leash is not None
        if not (self.started and self._childless and self.status is not None):
            return False
        if self.leash.killed:
            return True
        if self.leash.by_lease:
            return bool(self.told_to_end)
        drained = [pump.drain() for pump in self.pumps.values()]
        return all(drained) or (self._disk_full() != "" and time.monotonic() > self._ended_at + STREAM_HOLD_S)

    def _disk_full(self) -> str:
        return next((pump.disk_full for pump in self.pumps.values() if pump.disk_full), "")

    def ends(self) -> dict[str, int]:
        return {name: pump.end for name, pump in self.pumps.items()}

    def exit_fields(self) -> dict[str, Any]:
        """Return what exit.json says; the program must have ended."""
        assert self.leash is not None and self.status is not None
        number = os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0
        told = self.leash.killed or self.told_to_end
        used = self.accounting.close(killed=number == signal.SIGKILL and not told)
        return {
            "code": 128 + number if number else os.WEXITSTATUS(self.status),
            "signal": number or None,
            "core": bool(number) and os.WCOREDUMP(self.status),
            "at_ms": time.time_ns() // 1_000_000,
            "reason": told or used["exhausted"] or (f"output was cut: {self._disk_full()}" if self._disk_full() else ""),
            "fenced": bool(self.leash.killed),
            **used,
            **self.ends(),
        }

    def _record_exit(self, fields: dict[str, Any]) -> None:
        text = json.dumps(fields).encode()
        with contextlib.suppress(OSError):
            file = os.open(guarded.EXIT_LAID, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self.folder)
            try:
                os.write(file, text.ljust(_EXIT_BYTES))
            finally:
                os.close(file)
            os.rename(guarded.EXIT_LAID, "exit.json", src_dir_fd=self.folder, dst_dir_fd=self.folder)
            self._recorded = True

    def run(self) -> bool:
        """Serve the tree until it has ended and all of it is gone; return whether nothing is left that would keep this process from having another."""
        while not self.finished():
            self.turn()
        self.tell_end()
        return self._vacate()

    def _vacate(self) -> bool:
        """Let go of guard and launcher if both may be needed again; else remove the groups."""
        self.throttling.close()
        until = time.monotonic() + BURY_S
        fit = not self.disturbed and self._recorded and self.freezer.bounds.complete() and self._control is not None and self._control.open
        if fit:
            self.poller.after(BURY_S, lambda: None)
        while fit and not (self.launcher_vacant or self._without_launcher) and time.monotonic() < until:
            self.poller.turn()
        fit = fit and not self.disturbed
        if not (fit and self.launcher_vacant and not self._without_launcher and self._control is not None and self._launcher is not None):
            self.freezer.remove()
            return False
        self._control.detach()
        self._launcher.detach()
        self.door.close()
        self._notes.close()
        return True

    def turn(self) -> None:
        """Wait for the next events and do what they ask for."""
        self.poller.turn()
        ends = self.ends()
        self.followers.tell_growth(ends)
        self._times.note(ends)

    def tell_end(self) -> None:
        """Record and tell how the program ended."""
        fields = self.exit_fields()
        self._record_exit(fields)
        event = {"event": "exit", "pid": self.job.pid, "incarnation": self.job.incarnation, **fields}
        self._notes.send(event)
        self.followers.tell_growth(self.ends())
        self.tell(event)
        self._say_last_words()

    def tell(self, event: dict[str, Any]) -> None:
        """Tell the guard, and who follows."""
        if self._control is not None:
            self._control.send(event)
        self.followers.tell(event)

    def _say_last_words(self) -> None:
        until = time.monotonic() + LAST_WORDS_S
        self.poller.after(LAST_WORDS_S, lambda: None)
        while self.door.behind() and time.monotonic() < until:
            self.poller.turn()

    def _stdin_moved(self) -> None:
        if self.stdin is not None:
            self.door.tell_stdin(self.stdin.written, closed=self.stdin.closed)

    def stats(self) -> dict[str, Any]:
        """Return what the tree uses now."""
        members = [one for one in living(namespaces=self.namespaces) if one.pid != self.launched.pid]
        return {
            "cpu_ms": self.accounting.cpu_ms(sum(one.ticks for one in members)),
            "rss_bytes": self.accounting.memory_bytes(sum(one.pages for one in members)),
            "processes": len(members),
            "state": self.state(),
            "disk": self._disk_full(),
            **self.ends(),
        }

    def processes(self) -> list[int]:
        """Return the living processes of the tree, without its launcher, as this namespace numbers them."""
        return [one.pid for one in living(namespaces=self.namespaces) if one.pid != self.launched.pid]

    def state(self) -> str:
        assert self.leash is not None
        if self.status is not None or self.ending:
            return "ended"
        return "frozen" if self.leash.frozen else "running"


def refuse(control: socket.socket, code: str, text: str) -> None:
    with contextlib.suppress(OSError):
        control.setblocking(True)
        control.sendall(trees_protocol.encode({"started": False, "error": code, "text": text}))
