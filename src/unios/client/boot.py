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
from typing import IO, Final

from unios.client import readiness
from unios.client.channel import Asked, Channel
from unios.client.connection import PASSING
from unios.errors import CallerError, InternalError, OutcomeUnknown, Unavailable, UniosError, from_wire
from unios.limits import BOOT_TIMEOUT_MS, LEAVE_TIMEOUT_MS
from unios.wire.doors import connect_unix
from unios.wire.home import Home, NodeFolder
from unios.wire.installation import environment, obstacle
from unios.wire.operations import Leave

Progress = Callable[[str], None]
Warn = Callable[[str, int], None]
"""(sentence, the TCP port that it is about or 0)"""
_LINE_BYTES_MAX = 64 * 1024
_STOP_HELLO_S = 1.0
BREAK_OFF_S: Final = 40.0
"""So long the program that starts nodes may take to take that back."""


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
    return _boot(home, [*arguments, *_options(name, listen, advertise)], stdin=stdin, progress=progress)


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


def _options(name: str, listen: str, advertise: str) -> list[str]:
    pairs = (("--name", name), ("--listen", listen), ("--advertise", advertise))
    return [f"{option}={value}" for option, value in pairs if value]


def down(home: Home, *, node: str = "", everything: bool = False, progress: Progress = _silent) -> None:
    """Stop the nodes of this machine, or only `node`. Idempotent; CallerError if this machine has no such node.

    `everything`: leave no process and no mount behind, even of nodes that do not answer or that run what cannot run elsewhere.
    """
    folders = [folder for folder in home.nodes() if not node or folder.name == node]
    if node and not folders:
        raise CallerError(f"{node} is no node of this machine (UNIOS_HOME={home.path})")
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


def _boot(home: Home, arguments: Sequence[str], *, stdin: bytes = b"", progress: Progress, warn: Warn = _unwarned) -> list[str]:
    command = [sys.executable, "-P", "-m", "unios.kernel.boot", "--home", str(home.path), *arguments]
    with tempfile.TemporaryFile() as complaints:
        try:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, cwd="/", env=environment())
        except OSError as error:
            raise Unavailable(f"cannot start {sys.executable}: {obstacle() or error.strerror}") from error
        try:
            ready = _listen(child, stdin, progress, warn)
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


def _listen(child: "subprocess.Popen[bytes]", stdin: bytes, progress: Progress, warn: Warn) -> list[str]:
    if child.stdin is None or child.stdout is None:
        raise InternalError("boot was started without pipes")
    try:
        child.stdin.write(stdin)
        child.stdin.close()
    except BrokenPipeError:
        pass
    ready: list[str] = []
    failure: UniosError | None = None
    for line in _lines(child.stdout, child.pid):
        said = _parse(line)
        if "ready" in said:
            ready.append(str(said["ready"]))
            progress(f"{said['ready']} ready")
        elif "error" in said:
            failure = failure or from_wire(str(said["error"]), str(said.get("text", "")))
        elif "warning" in said:
            warn(str(said["warning"]), int(str(said.get("port") or 0)))
        elif "progress" in said:
            progress(str(said["progress"]))
    child.wait()
    if failure is not None:
        raise failure
    return ready


def _lines(pipe: IO[bytes], pid: int) -> Iterator[bytes]:
    """Yield lines until the program has ended; a node that inherited the pipe does not keep us waiting."""
    gone = os.pidfd_open(pid)
    os.set_blocking(pipe.fileno(), False)
    buffer = b""
    deadline = time.monotonic() + BOOT_TIMEOUT_MS / 1000
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise OutcomeUnknown(f"starting or stopping took more than {BOOT_TIMEOUT_MS // 1000} s; see `unios status`")
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
