"""Near calls: one call at a time between two programs of one node, blocking and under asyncio, in turns with bare connections of two processes.

Linux puts two processes that wake each other on one processor now, on two then, each for seconds; the waking of the other processor alone costs more than all
that a bare connection does (14 us against 65, 2026-11-28). So where they are is chosen here, for all alike: one processor for both, then one for each.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import call_limits, chains, child
from benchmarks.call_limits import WORD
from benchmarks.call_parts import NAME
from benchmarks.row import Row
from benchmarks.samples import blocks, percentile, timed
from benchmarks.system import System
from unios.client.messages.port import Port

Block = Callable[[int], list[float]]
LIMIT = 1.5
"""Of what has the same framing and nothing else."""
TWIN, UVLOOP_TWIN = "benchmark/twin", "benchmark/twin/uvloop"
VENV = Path(os.environ.get("PEERS_VENV") or "/tmp/peers-venv")
_ROWS = (
    ("", "near", "unix", "a bare Unix socket with the same framing, same run:", LIMIT),
    ("", "near", "values", "the same socket, the same values pickled, same run:", None),
    ("", "near", "connection", "the standard library's connection, the same values, same run:", None),
    (", asyncio twins", "twin", "uvloop", "an echo of two uvloop processes, same run:", LIMIT),
    (", asyncio twins", "twin", "uvloop-values", "the same, the same values pickled, same run:", None),
    (", asyncio twins", "twin", "asyncio", "two processes under asyncio, the same values, same run:", None),
    (", asyncio twins under uvloop", "uvloop-twin", "uvloop", "an echo of two uvloop processes, same run:", LIMIT),
)


def places() -> dict[str, tuple[int, int]]:
    """Return (the caller's processor, the answerer's) by what it is called. Without a second processor there is one place."""
    usable = sorted(os.sched_getaffinity(0))
    return {"on one processor": (usable[0], usable[0])} | ({"on two processors": (usable[0], usable[1])} if len(usable) > 1 else {})


def rows(system: System, count: int, in_block: int) -> list[Row]:
    """Measure `count` blocks of `in_block` calls of each."""
    found = []
    for where, (caller, answerer) in places().items():
        print(f"calls of 64 bytes on one node, {where}, {count} blocks of {in_block}", file=sys.stderr)
        with _pairs(system, caller, answerer) as pairs:
            taken = blocks(pairs, count, in_block)
        for kind, ours, theirs, against, limit in _ROWS:
            for percent in (50, 99) if {ours, theirs} <= taken.keys() else ():
                mine, other = (1e6 * percentile(taken[name], percent) for name in (ours, theirs))
                at_most = limit if percent == 50 else None
                found.append(Row(f"call of 64 bytes on one node{kind}, {where}, p{percent}", mine, "us", count * in_block, against, other, at_most))
    return found


@contextlib.contextmanager
def _pairs(system: System, caller: int, answerer: int) -> Iterator[dict[str, Block]]:
    """Yield what calls, by name; every process is on the processor of its side from its beginning."""
    uvloop = _with_uvloop(system)
    with contextlib.ExitStack() as stack, on(caller):
        with on(answerer):
            stack.enter_context(answering(system, "n1"))
            stack.enter_context(answering(system, "n1", "serve-twin", TWIN))
            if uvloop:
                stack.enter_context(answering(system, "n1", "serve-twin", UVLOOP_TWIN, env=uvloop))
            pairs = {
                "unix": timed(stack.enter_context(call_limits.unix_echo())),
                "values": timed(stack.enter_context(call_limits.unix_echo(values=True))),
                "connection": timed(stack.enter_context(chains.connection_echo())),
            }
        port = stack.enter_context(Port(NAME, home=system.home, node="n1"))
        pairs["near"] = timed(lambda: port.call("echo", WORD))
        python, part = VENV / "bin" / "python", str(Path(__file__).with_name("call_parts.py"))
        loops = {
            "twin": [sys.executable, "-m", "benchmarks.call_parts", "twin", "n1", TWIN],
            **({"uvloop-twin": [sys.executable, "-m", "benchmarks.call_parts", "twin", "n1", UVLOOP_TWIN]} if uvloop else {}),
            "asyncio": [sys.executable, "-m", "benchmarks.call_parts", "asyncio", str(answerer)],
            **({name: [str(python), "-P", part, name, str(answerer)] for name in ("uvloop", "uvloop-values")} if has_uvloop() else {}),
        }
        for name, words in loops.items():
            pairs[name] = _told(stack.enter_context(child.running(words, uvloop if name == "uvloop-twin" else system.env)))
        yield pairs


def _with_uvloop(system: System) -> dict[str, str]:
    """Return an environment in which our Python finds the peers' uvloop and nothing else of theirs; empty if that cannot be."""
    folder = system.folder / "uvloop"
    if not folder.exists():
        folder.mkdir()
        for package in VENV.glob("lib/python*/site-packages/uvloop"):
            (folder / "uvloop").symlink_to(package)
    env = {**system.env, "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}
    return env if not subprocess.run([sys.executable, "-c", "import uvloop"], env=env, capture_output=True).returncode else {}


@contextlib.contextmanager
def all_on(pids: list[int], processor: int) -> Iterator[None]:
    """Every thread of these processes is on one processor meanwhile."""
    threads = [int(thread.name) for pid in pids for thread in Path(f"/proc/{pid}/task").glob("*")]
    before = {}
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):
            before[thread] = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, {processor})
    try:
        yield
    finally:
        for thread, processors in before.items():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, processors)


@contextlib.contextmanager
def on(processor: int) -> Iterator[None]:
    """This thread, and what it starts meanwhile, is on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def answering(system: System, node: str, how: str = "serve", *words: str, env: dict[str, str] | None = None) -> Iterator[int]:
    """Yield the pid of who answers."""
    with child.running([sys.executable, "-m", "benchmarks.call_parts", how, node, *words], env or system.env) as process:
        yield process.pid


def has_uvloop() -> bool:
    """Return whether the peers' environment has it."""
    python = VENV / "bin" / "python"
    return python.exists() and not subprocess.run([python, "-c", "import uvloop"], capture_output=True).returncode


def _told(process: "subprocess.Popen[bytes]") -> Block:
    def block(count: int) -> list[float]:
        taken: list[float] = child.ask(process, count)
        return taken

    return block
