"""Start and stop the nodes of this machine: the part of a client that needs no kernel, since there is none yet.

The work is done by `python -m unios.kernel.boot`, which speaks JSON lines and detaches the nodes; here it is started and listened
to. Nodes that answer are stopped by asking them; what does not answer is swept up by that program.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final, NamedTuple

from unios.client import readiness
from unios.client.channel import Asked, Channel
from unios.client.connection import PASSING
from unios.errors import InternalError, NodeUnknown, OutcomeUnknown, Unavailable, UniosError, from_wire
from unios.limits import BOOT_TIMEOUT_MS, LEAVE_TIMEOUT_MS, UPGRADE_NODE_MS
from unios.wire.doors import connect_unix
from unios.wire.home import Home, NodeFolder
from unios.wire.installation import Installation, environment, obstacle, own_place, remembered
from unios.wire.operations import Leave

Progress = Callable[[str], None]
Warn = Callable[[str, int], None]
"""(sentence, the TCP port that it is about or 0)"""
Told = Callable[[dict[str, object]], None]
_LINE_BYTES_MAX = 64 * 1024
_STOP_HELLO_S = 1.0
BREAK_OFF_S: Final = 40.0
"""So long the program that starts nodes may take to take that back."""


class Upgraded(NamedTuple):
    """`replaced`: the nodes that run `release` by now, or, if that was only looked at, would; `had`: those that did already."""

    release: str
    python: str
    path: str
    replaced: tuple[str, ...]
    had: tuple[str, ...]


def _silent(_text: str) -> None:
    pass


def _unwarned(_text: str, _port: int) -> None:
    pass


def up(
    home: Home,
    *,
    nodes: int = 0,
    name: str = "",
    listen: str = "",
    advertise: str = "",
    store_address: str = "",
    store: str = "",
    cores: int = -1,
    progress: Progress = _silent,
) -> list[str]:
    """Make this machine have at least `nodes` nodes, all ready; return the names of those that are. Idempotent.

    `store`: where the etcd is that shall keep the records of a new system, etcd://HOST:PORT,.../NAME. `cores`: how many each offers from its next
    start on, 0 for all of the machine's. `progress` gets a phrase now and then. Raises what boot says went wrong.
    """
    arguments = ["--nodes", str(nodes)] if nodes else []
    arguments += [f"--store-address={store_address}"] if store_address else []
    arguments += [f"--cores={cores}"] if cores >= 0 else []
    arguments += ["--store"] if store else []
    stdin = store.encode() + b"\n" if store else b""
    return _boot(home, [*arguments, *_options(name, listen, advertise)], stdin=stdin, progress=progress, one=chosen(home, progress))


def chosen(home: Home, progress: Progress) -> Installation | None:
    """Return the installation that an upgrade has chosen for this machine's nodes, if that is another than this and is there: a unit of systemd, say, may
    still name the one before. None: this one."""
    now = remembered(home.path).get("now")
    if now is None or now.is_at(own_place()):
        return None
    if not os.access(now.python, os.X_OK):
        progress(f"the installation that the nodes ran, {now.python}, is gone: they run this one from now on")
        return None
    return now


def join(
    home: Home, token: str, *, name: str = "", listen: str = "", advertise: str = "", progress: Progress = _silent, warn: Warn = _unwarned
) -> list[str]:
    """Make this machine a member of the token's system. The token goes by stdin: a command line is everybody's to read."""
    return _boot(home, ["--join", *_options(name, listen, advertise)], stdin=token.encode() + b"\n", progress=progress, warn=warn)


def embed(home: Home, *, nodes: int = 1, progress: Progress = _silent) -> list[str]:
    """Start a system that ends with the calling process, in a home that is not there yet; return its nodes' names, all ready.

    When this process ends, in whatever way, nothing of it stays on this machine. Raises what boot says went wrong; then nothing stays either.
    """
    return _boot(home, [f"--owner={os.getpid()}", f"--nodes={nodes}"], progress=progress)


def upgrade(
    home: Home, *, to: str = "", back: bool = False, node: str = "", check: bool = False, progress: Progress = _silent, warn: Warn = _unwarned
) -> Upgraded:
    """Have the nodes of this machine, or only `node`, run another installation, one after the other; what runs on them goes on.

    `to`: an interpreter, a virtual environment or a checkout, by default this process's installation; `back`: what they ran before the last upgrade; `check`:
    only say whether it could be done. Idempotent: asked again it goes on where it was. CallerError: it makes no sense; Unavailable: it cannot be done, or the
    roll stopped at a node, which then runs again what it ran; the text says where the roll stands.
    """
    arguments = ["--upgrade", *([f"--to={os.path.abspath(to)}"] if to else []), *(["--back"] if back else []), *(["--check"] if check else [])]
    told: list[dict[str, object]] = []
    timeout_ms = BOOT_TIMEOUT_MS + UPGRADE_NODE_MS * len(home.nodes())
    _boot(home, [*arguments, *([f"--node={node}"] if node else [])], progress=progress, warn=warn, told=told.append, timeout_ms=timeout_ms)
    fields = told[-1] if told else {}
    names = [fields.get(key, []) for key in ("replaced", "had")]
    replaced, had = (tuple(map(str, each)) if isinstance(each, list) else () for each in names)
    return Upgraded(str(fields.get("release", "")), str(fields.get("python", "")), str(fields.get("path", "")), replaced, had)


def _options(name: str, listen: str, advertise: str) -> list[str]:
    pairs = (("--name", name), ("--listen", listen), ("--advertise", advertise))
    return [f"{option}={value}" for option, value in pairs if value]


def down(home: Home, *, node: str = "", everything: bool = False, progress: Progress = _silent) -> None:
    """Stop the nodes of this machine, or only `node`. Idempotent; NodeUnknown if this machine has no such node.

    `everything`: leave no process and no mount behind, even of nodes that do not answer or that run what cannot run elsewhere.
    """
    folders = [folder for folder in home.nodes() if not node or folder.name == node]
    if node and not folders:
        raise NodeUnknown(f"{node} is no node of this machine (UNIOS_HOME={home.path})")
    if not folders and not home.unfinished.exists():
        return
    _stop_politely(folders, force=everything, progress=progress)
    _boot(home, ["--down", "--node", node] if node else ["--down", "--all"], progress=progress)


def _stop_politely(folders: list[NodeFolder], *, force: bool, progress: Progress) -> None:
    """Ask all at once, then collect: they stop side by side. One that does not answer is left to the sweep."""
    body = Leave(force, tuple(each.name for each in folders))
    with contextlib.ExitStack() as channels, ThreadPoolExecutor(len(folders) or 1) as greeters:
        requests: list[tuple[NodeFolder, Asked]] = []
        for folder, channel in zip(folders, greeters.map(_greet, folders), strict=True):
            if channel is not None:
                channels.enter_context(channel)
                with contextlib.suppress(*PASSING):
                    requests.append((folder, channel.begin("node.stop", body)))
        deadline = time.monotonic() + LEAVE_TIMEOUT_MS / 1000
        for folder, request in requests:
            with contextlib.suppress(*PASSING):
                request.finish(timeout_s=max(0.0, deadline - time.monotonic()))
                progress(f"{folder.name} stopped")


def _greet(folder: NodeFolder) -> Channel | None:
    """Return a channel to the node's kernel, None if it does not answer."""
    with contextlib.suppress(OSError, *PASSING):
        return Channel(connect_unix(folder.door, timeout_s=_STOP_HELLO_S), timeout_s=_STOP_HELLO_S)
    return None


def _boot(
    home: Home,
    arguments: Sequence[str],
    *,
    stdin: bytes = b"",
    progress: Progress,
    warn: Warn = _unwarned,
    told: Told = lambda _fields: None,
    timeout_ms: int = BOOT_TIMEOUT_MS,
    one: Installation | None = None,
) -> list[str]:
    """Run the program that starts nodes, of this installation or of `one`."""
    python, env = (one.python, one.environment()) if one else (sys.executable, environment())
    command = [python, "-P", "-m", "unios.kernel.boot", "--home", str(home.path), *arguments]
    with tempfile.TemporaryFile() as complaints:
        try:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, cwd="/", env=env)
        except OSError as error:
            raise Unavailable(f"cannot start {python}: {obstacle() or error.strerror}") from error
        try:
            ready = _listen(child, stdin, progress, warn, told, timeout_ms)
        except BaseException:
            _break_off(child, progress)
            raise
        finally:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        if child.returncode:
            complaints.seek(0)
            raise InternalError(_last_words(complaints.read(), child.returncode))
    return ready


def _break_off(child: "subprocess.Popen[bytes]", progress: Progress) -> None:
    """Have it take back what it has started. Who does not wait for that leaves it to it."""
    if child.poll() is not None:
        return
    progress("taking back what was started")
    child.terminate()
    try:
        child.wait(BREAK_OFF_S)
    except subprocess.TimeoutExpired:
        child.kill()


def _listen(child: "subprocess.Popen[bytes]", stdin: bytes, progress: Progress, warn: Warn, told: Told, timeout_ms: int) -> list[str]:
    if child.stdin is None or child.stdout is None:
        raise InternalError("boot was started without pipes")
    try:
        child.stdin.write(stdin)
        child.stdin.close()
    except BrokenPipeError:
        pass
    ready: list[str] = []
    failure: UniosError | None = None
    for line in _lines(child.stdout, child.pid, timeout_ms):
        said = _parse(line)
        if "ready" in said:
            ready.append(str(said["ready"]))
            progress(f"{said['ready']} ready")
        elif "error" in said:
            failure = failure or from_wire(str(said["error"]), str(said.get("text", "")))
        elif "warning" in said:
            warn(str(said["warning"]), int(str(said.get("port") or 0)))
        elif isinstance(said.get("upgraded"), dict):
            told(said["upgraded"])  # type: ignore[arg-type]
        elif "progress" in said:
            progress(str(said["progress"]))
    child.wait()
    if failure is not None:
        raise failure
    return ready


def _lines(pipe: IO[bytes], pid: int, timeout_ms: int) -> Iterator[bytes]:
    """Yield lines until the program has ended; a node that inherited the pipe does not keep us waiting."""
    gone = os.pidfd_open(pid)
    os.set_blocking(pipe.fileno(), False)
    buffer = b""
    deadline = time.monotonic() + timeout_ms / 1000
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise OutcomeUnknown(f"starting or stopping took more than {timeout_ms // 1000} s; see `unios status`")
            readable, _ = readiness.wait([pipe.fileno(), gone], timeout_s=left)
            data = pipe.read() or b""
            *lines, buffer = (buffer + data).split(b"\n")
            buffer = buffer[:_LINE_BYTES_MAX]
            yield from lines
            if (gone in readable or pipe.fileno() in readable) and not data:
                return
    finally:
        os.close(gone)


def _parse(line: bytes) -> dict[str, object]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _last_words(complaints: bytes, code: int) -> str:
    words = complaints.decode(errors="replace").strip().splitlines()
    return f"the program that starts nodes ended with {code}: {words[-1] if words else 'it said nothing'}"


def home_of(path: str | Path | None) -> Home:
    """Return the home at `path`, by default the environment's."""
    return Home.default() if path is None else Home(Path(path).absolute())
