"""Guard: makes the process trees of one node, and is there when one of them, or the supervisor, dies. Small, so that its fork is cheap.

It serves `guard.sock`; a request carries `id` and `op` and gets one answer:

| request | fields | answer |
|---|---|---|
| spawn | pid, incarnation, argv, env, cwd, uid, gid, groups, umask, limits, stdin, hold, on_partition, bounds, devices | init_pid, namespaces, freezer, group |
| list | | trees |
| forget | pid, incarnation | ok; the folder of an ended tree is removed |
| watch | | ok; from then on events `exit` |
| info | | pid, protocol, namespaces, why_not, freezer, place, groups, trees |

Spawn answers when the program has been executed, or why it cannot be, and answers the same when it is asked the same again. Errors: program-not-found,
program-not-runnable, cwd, too-big, limits, denied, superseded, caller, unavailable. A job whose init is killed goes to another init if that one had
certainly not had the program started (guarded.begins), else the start fails. It may die at any moment: trees have inits of their own, and the next
guard knows them from their folders. It never decides about leases.
"""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from unios.kernel import (
    cgroups,
    clone,
    descriptors,
    freezer,
    guarded,
    hierarchies,
    init_door,
    poller,
    program,
    runfiles,
    spares,
    trees_protocol,
    zygote,
)
from unios.kernel.guarded import Tree
from unios.kernel.poller import Client
from unios.kernel.watchman import Watchman
from unios.limits import BEAT_MS, TREES_PER_NODE_MAX

OLDER_END_S: Final = 5.0
"""How long a spawn waits for an older incarnation of the same process to die."""
CONNECT_AGAIN_S: Final = 0.5
INITS_MAX: Final = 3
"""So many inits may be killed, one after the other, with a job that they have not begun, before the start fails."""
SPARE_PAUSE_S: Final = 0.006
"""A start in progress has the processor for so long before the next spare is made; another spare is there meanwhile."""


class Guard:
    """That of one node. `namespaces` and `freezer_kind` are for trying out what a poorer machine offers."""

    def __init__(self, folder: str, beat: Callable[[], None], *, namespaces: bool = True, freezer_kind: str = "") -> None:
        self.folder, self._beat = folder, beat
        self.loop = poller.Poller()
        self.stopping = False
        self._trees: dict[tuple[int, int], Tree] = {}
        self._living: set[Tree] = set()
        """Those that start or run."""
        self._seen: dict[int, int] = {}
        self._kept: Counter[int] = Counter()
        """How many trees of each pid there are in `_trees`."""
        self._connected: dict[Tree, Client] = {}
        self._clients: set[Client] = set()
        self._watchers: set[Client] = set()
        self._waiting: list[tuple[Tree, dict[str, Any]]] = []
        self._jobs: dict[Tree, dict[str, Any]] = {}
        """Those whose inits have not said yet that the program was started."""
        self._taken_spares: dict[Tree, spares.Spare] = {}
        """The spares that trees were begun with, as long as these may have another one."""
        self._pausing = False
        os.makedirs(f"{folder}/trees", mode=0o700, exist_ok=True)
        freezer.tidy(folder)  # a tree that was forgotten while its init made ready for another may have left its groups to a guard that died
        self._place = None if freezer_kind == "signals" else cgroups.settle(folder, freezer_kind)
        self._groups = zygote.Groups(self._place, hierarchies.settle(folder, self._place, hierarchies.kinds()))
        self._recorded = cgroups.recorded(folder)
        if not namespaces:
            clone.become_subreaper()
        self._spares = spares.Spares(self.loop, folder, self._groups, namespaces=namespaces, ready=self._start_waiting, failed=self._fail_waiting)
        self._watch_signals()
        self._adopt_all()
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._listener = poller.listen(descriptor, "guard.sock")
        os.close(descriptor)
        poller.serve(self.loop, self._listener, lambda: len(self._clients), self._taken)
        self._watchman = Watchman(self.loop, folder)
        self._operations: dict[str, Callable[[Client, dict[str, Any]], dict[str, Any]]] = {
            "list": lambda _client, _fields: {"trees": [tree.describe() for tree in self._trees.values()]},
            "forget": self._forget,
            "watch": self._watch,
            "info": self._info,
        }

    def _watch_signals(self) -> None:
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.loop.add(self._wake, lambda _mask: self._woken())

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._spares.reaped(*ended)

    def run(self) -> None:
        """Serve until SIGTERM; the trees go on."""
        self._tick()
        self._spares.want(())
        while not self.stopping:
            self.loop.turn()
        self._spares.close()

    def _tick(self) -> None:
        self._beat()
        self._watchman.watch()
        self.loop.after(BEAT_MS / 1000, self._tick)

    # clients

    def _taken(self, sock: socket.socket) -> None:
        self._clients.add(Client(self.loop, sock, self._on_frame, self._on_close))

    def _on_close(self, client: Client) -> None:
        self._clients.discard(client)
        self._watchers.discard(client)

    def _on_frame(self, client: Client, frame: trees_protocol.Frame) -> None:
        fields = frame.fields
        if fields is None:
            client.close()
        elif fields.get("op") == "spawn":
            request = fields.get("id")
            self._spawn(fields, lambda reply: client.send({"id": request, **reply}))
        else:
            init_door.answer(client, fields, self._operations)

    def _watch(self, client: Client, _fields: dict[str, Any]) -> dict[str, Any]:
        self._watchers.add(client)
        return {}

    def _info(self, _client: Client, _fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "protocol": trees_protocol.PROTOCOL,
            "namespaces": self._spares.namespaces,
            "why_not": self._spares.why_not,
            "freezer": self._place.version if self._place else "signals",
            "groups": [list(one) for one in self._groups.hierarchies],
            "place": list(self._place) if self._place else [],
            "trees": len(self._living),
            "spares": {**self._spares.counts(), "ending": sum(tree.state == "ended" for tree in self._taken_spares)},
        }

    def _forget(self, _client: Client, fields: dict[str, Any]) -> dict[str, Any]:
        tree = self._trees.get((int(fields["pid"]), int(fields["incarnation"])))
        if tree is not None:
            if tree.state in ("starting", "running"):
                raise ValueError(f"process {tree.name} has not ended")
            tree.remove()
            self._drop(tree)
            if tree.pid not in self._kept:
                self._seen.pop(tree.pid, None)  # the number may come again, for another process
        return {}

    def _keep(self, tree: Tree) -> None:
        self._kept[tree.pid] += (tree.pid, tree.incarnation) not in self._trees
        self._trees[tree.pid, tree.incarnation] = tree

    def _drop(self, tree: Tree) -> None:
        del self._trees[tree.pid, tree.incarnation]
        self._kept[tree.pid] -= 1
        if not self._kept[tree.pid]:
            del self._kept[tree.pid]

    # spawning

    def _spawn(self, fields: dict[str, Any], answer: guarded.Answer) -> None:
        try:
            pid, incarnation = program.name_of(fields)
            tree = self._trees.get((pid, incarnation)) or self._new_tree(pid, incarnation, fields)
        except program.Refused as refused:
            answer({"error": refused.args[0], "text": refused.args[1]})
            return
        if tree.state == "starting":
            tree.answers.append(answer)
        else:
            answer(tree.reply())

    def _new_tree(self, pid: int, incarnation: int, fields: dict[str, Any]) -> Tree:
        newest = self._seen.get(pid, 0)
        if incarnation < newest:
            raise program.Refused("superseded", f"process {pid} is at incarnation {newest} here; {incarnation} is past")
        if len(self._living) >= TREES_PER_NODE_MAX:
            raise program.Refused("unavailable", f"this node runs {TREES_PER_NODE_MAX} processes, its bound")
        tree = Tree(f"{self.folder}/trees/{pid}.{incarnation}", pid, incarnation)
        tree.devices = [str(path) for path in fields.get("devices", ())]
        with contextlib.suppress(TypeError, ValueError):  # the init says what is wrong
            tree.owner = (int(fields.get("uid", os.getuid())), int(fields.get("gid", os.getgid())), *map(int, fields.get("groups", ())))
        if tree.devices and any(set(one.devices) & set(tree.devices) for one in self._living if one.pid != pid):
            raise program.Refused("unavailable", f"another process has {' or '.join(tree.devices)}")
        self._keep(tree)
        self._seen[pid] = incarnation
        older = [one for one in self._living if one.pid == pid and one.state == "running"]
        self._living.add(tree)
        for one in older:
            self._supersede(one, incarnation)
        self._waiting.append((tree, fields))
        if older:
            self.loop.after(OLDER_END_S, lambda: self._older_lives(tree))
        self._start_waiting()
        return tree

    def _supersede(self, older: Tree, incarnation: int) -> None:
        client = self._connected.get(older)
        sock = guarded.sock_of(older.folder)
        if sock is not None:
            with sock:
                sock.sendall(trees_protocol.encode({"op": "supersede", "incarnation": incarnation}))
        elif client is not None:
            client.close()

    def _older_lives(self, tree: Tree) -> None:
        if any(one is tree for one, _fields in self._waiting):
            self._waiting = [(one, fields) for one, fields in self._waiting if one is not tree]
            self._failed(tree, "unavailable", "an older incarnation of the process does not die on this node")

    def _blocked(self, tree: Tree) -> bool:
        """Whether an older incarnation still lives here."""
        return any(one.pid == tree.pid and one.state == "running" for one in self._living)

    def _start_waiting(self) -> None:
        """Hand waiting jobs to the spares that are ready."""
        for entry in list(self._waiting):
            if not self._spares.any():
                break
            if self._blocked(entry[0]):
                continue
            spare = self._spares.take(entry[0].owner)
            if spare is None:
                continue
            self._waiting.remove(entry)
            self._hand_over(*entry, spare)
        if self._waiting:
            self._spares.want(self._owners())
        elif not self._pausing:
            self._pausing = True
            self.loop.after(SPARE_PAUSE_S, self._paused)  # not while the program is being started

    def _paused(self) -> None:
        self._pausing = False
        self._spares.want(self._owners())

    def _owners(self) -> list[guarded.Owner]:
        """Return whose the waiting jobs are."""
        return [tree.owner for tree, _fields in self._waiting if not self._blocked(tree)]

    def _hand_over(self, tree: Tree, fields: dict[str, Any], spare: spares.Spare) -> None:
        tree.init, tree.group, tree.namespaces = runfiles.Running(spare.pid, spare.start), spare.group, spare.namespaces
        try:
            tree.settle(self._spares.folder_of(spare))
        except OSError as error:  # a tree that the next guard would not know is not started
            self._spares.drop(spare)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            text = f"the disk of {os.path.basename(self.folder)} is full" if full else "the folder of the process cannot be written"
            self._failed(tree, "no-room" if full else "unavailable", f"{text}: {error.strerror}")
            return
        client = Client(self.loop, spare.control, lambda _one, frame: self._heard(tree, frame), lambda _one: self._init_gone(tree))
        self._follow_end(tree, spare.pidfd)
        self._connected[tree] = client
        self._taken_spares[tree] = spare
        self._jobs[tree] = fields
        tree.inits += 1
        client.send(fields)

    def _heard(self, tree: Tree, frame: trees_protocol.Frame) -> None:
        fields = frame.fields or {}
        if fields.get("event") == "exit":
            self._ended(tree, {name: value for name, value in fields.items() if name not in ("event", "pid", "incarnation")})
        elif fields.get("event") == "vacant":
            self._vacant(tree)
        elif fields.get("event") == "throttled":
            self._tell_watchers(fields)
        elif fields.get("started"):
            tree.freezer, tree.state = str(fields.get("freezer", "")), "running"
            self._jobs.pop(tree, None)
            tree.tell()
            self._start_waiting()
        elif "error" in fields:
            self._failed(tree, str(fields["error"]), str(fields.get("text", "")))

    def _vacant(self, tree: Tree) -> None:
        """The tree has left nothing behind: its init may have another one, or ends."""
        client, spare = self._connected.pop(tree, None), self._taken_spares.pop(tree, None)
        if client is None or spare is None:
            return
        sock = client.detach()
        self.loop.remove(spare.pidfd)
        if tree.state == "ended" and self._spares.recycle(spare._replace(control=sock, owner=tree.owner)):
            self._start_waiting()
        else:
            sock.close()
            self._follow_end(tree, spare.pidfd)

    def _fail_waiting(self, text: str) -> None:
        """No init can be made for want of a folder: whoever waits for one is told."""
        waiting, self._waiting = self._waiting, []
        for tree, _fields in waiting:
            self._failed(tree, "unavailable", text)

    def _failed(self, tree: Tree, code: str, text: str) -> None:
        """Nothing runs: nothing is left, and the same spawn may be asked again."""
        tree.state, tree.failure = "failed", {"error": code, "text": text}
        self._jobs.pop(tree, None)
        self._living.discard(tree)
        if self._trees.get((tree.pid, tree.incarnation)) is tree:
            self._drop(tree)
        tree.remove()
        tree.tell()

    # adopting and burying

    def _adopt_all(self) -> None:
        for name in os.listdir(f"{self.folder}/trees"):
            tree = guarded.load(f"{self.folder}/trees/{name}")
            if tree is not None:
                self._keep(tree)
                self._seen[tree.pid] = max(self._seen.get(tree.pid, 0), tree.incarnation)
                if tree.state in ("starting", "running"):
                    self._living.add(tree)
                    self._adopt(tree)

    def _adopt(self, tree: Tree) -> None:
        """Know a tree again that an earlier guard made; its init is not this guard's child."""
        descriptor = runfiles.open_pidfd(tree.init)
        if descriptor is None or tree.has_exit():  # an init writes that when all is dead; it may have another tree by now
            if descriptor is not None:
                os.close(descriptor)
            self._buried(tree)
            return
        self._follow_end(tree, descriptor)
        self._connect(tree)

    def _connect(self, tree: Tree) -> None:
        if tree.state not in ("starting", "running"):
            return
        sock = guarded.sock_of(tree.folder)
        if sock is None:
            # Either it has not got that far or it is dying with a frozen group in its way.
            if runfiles.start_of(tree.init.pid) != tree.init.start or tree.state == "running":
                self._init_gone(tree)
            self.loop.after(CONNECT_AGAIN_S, lambda: self._connect(tree))
            return
        client = Client(self.loop, sock, lambda one, frame: self._heard_adopted(tree, frame), lambda _one: self._init_gone(tree))
        self._connected[tree] = client
        client.send({"id": 1, "op": "started"})
        client.send({"id": 2, "op": "follow"})

    def _heard_adopted(self, tree: Tree, frame: trees_protocol.Frame) -> None:
        fields = frame.fields or {}
        if fields.get("event") == "exit":
            self._ended(tree, {name: value for name, value in fields.items() if name not in ("event", "pid", "incarnation")})
        elif fields.get("event") == "throttled":
            self._tell_watchers(fields)
        elif fields.get("id") == 1 and tree.state == "starting":
            tree.state = "running"
            tree.tell()

    def _follow_end(self, tree: Tree, pidfd: int) -> None:
        def ended(_mask: int) -> None:
            self.loop.remove(pidfd)
            os.close(pidfd)
            self._taken_spares.pop(tree, None)
            self._buried(tree)

        self.loop.add(pidfd, ended)

    def _init_gone(self, tree: Tree) -> None:
        """The init's socket has closed: it dies. If it was killed, a frozen group of version 1 would keep it from ever being dead."""
        self._connected.pop(tree, None)
        if tree.state in ("starting", "running") and not tree.exit:
            freezer.release(self._recorded, tree.group)

    def _ended(self, tree: Tree, fields: dict[str, Any]) -> None:
        if tree.exit:
            return
        tree.exit, tree.state = fields, "ended"
        self._living.discard(tree)
        self._tell_exit(tree)
        tree.tell()
        if not tree.has_exit():  # what the init has written is enough for a later guard
            tree.try_save()

    def _buried(self, tree: Tree) -> None:
        """The init process is no more: whatever it left undone is done here. A start that was refused may have a successor of the same name."""
        client, job = self._connected.pop(tree, None), self._jobs.pop(tree, None)
        self._living.discard(tree)
        if self._trees.get((tree.pid, tree.incarnation), tree) is not tree:
            return
        freezer.release(self._recorded, tree.group)
        if tree.state == "starting" and job is not None and tree.inits < INITS_MAX and tree.is_unbegun():
            if client is not None and client.open:
                client.detach().close()  # nothing of it is news any more
            self._wait_again(tree, job)
        elif tree.state == "starting" and tree.init.pid and not tree.has_exit() and tree.answers:
            self._failed(tree, "unavailable", "the init of the tree died before it could start the program")
        elif tree.state in ("starting", "running"):
            if not tree.read_exit():
                tree.write_exit(time.time_ns() // 1_000_000)
            tree.state = "ended"
            self._tell_exit(tree)
            tree.tell()
            tree.try_save()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{tree.folder}/sock")
        self._start_waiting()

    def _wait_again(self, tree: Tree, job: dict[str, Any]) -> None:
        """Its init was killed before it had the program started: another may have the job, as if there had been none."""
        tree.init, tree.group = runfiles.Running(0, 0), ""
        tree.remove()  # should this guard die, the next one knows nothing of it, and is asked again
        self._living.add(tree)
        self._waiting.append((tree, job))

    def _tell_exit(self, tree: Tree) -> None:
        self._tell_watchers({"event": "exit", "pid": tree.pid, "incarnation": tree.incarnation, **tree.exit})

    def _tell_watchers(self, event: dict[str, Any]) -> None:
        for client in list(self._watchers):
            client.send(event)


def main(folder: str | os.PathLike[str], beat: Callable[[], None] | None = None, **options: Any) -> int:
    """Be the node's guard until SIGTERM; 0, at once if it has one."""
    path = os.path.abspath(os.fspath(folder))
    lock = os.open(f"{path}/guard.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    clone.name_process("unios-guard")
    descriptors.raise_bound()
    Guard(path, beat or _own_beat(path), **options).run()
    os.close(lock)
    return 0


def _own_beat(folder: str) -> Callable[[], None]:
    from unios.kernel.beats import Beats

    beats = Beats(f"{folder}/beats")
    return lambda: beats.beat("guard")


USAGE: Final = """python -m unios.kernel.guard --folder FOLDER [--await-word] [--no-namespaces] [--freezer v1|v2|signals]
Make the process trees of one node. --await-word: begin when a byte comes on stdin, end if none can come any more."""


def _options(typed: list[str]) -> dict[str, str]:
    """Return what was typed, "" for a flag. By hand: each init would be a fork of argparse too."""
    found: dict[str, str] = {}
    rest = iter(typed)
    for word in rest:
        found[word] = next(rest, "") if word in ("--folder", "--freezer") else ""
    known = {"--folder", "--await-word", "--no-namespaces", "--freezer"}
    if not found.get("--folder") or set(found) - known or found.get("--freezer", "") not in ("", "v2", "v1", "signals"):
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    return found


if __name__ == "__main__":
    chosen = _options(sys.argv[1:])
    if "--await-word" in chosen and not os.read(0, 1):
        sys.exit(0)
    sys.exit(main(chosen["--folder"], namespaces="--no-namespaces" not in chosen, freezer_kind=chosen.get("--freezer", "")))
