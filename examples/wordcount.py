"""The main job: count the words of a real corpus on three nodes, lose one of them in the middle, and get the right answer all the same.

It boots three nodes of a system of its own on this machine, runs eight workers (examples/count_words.py, which know nothing of unios), kills every process
of one node with SIGKILL while they work, collects what the workers say, and compares the sum with what `sort | uniq -c` counts. Nothing is left running.
"""

import argparse
import collections
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from unios.client import boot, events, nodes, output, processes
from unios.client.connection import Connection
from unios.demands import Resources
from unios.errors import UniosError
from unios.wire.home import Home
from unios.wire.operations import Program

WORKERS: Final = 8
Counts = collections.Counter[bytes]


class Progress:
    """Lines with the time since the start; the story is told again at the end."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        with self._lock:
            print(f"{time.monotonic() - self._started:6.2f} s  {text}", flush=True)


def corpus(folder: Path) -> list[Path]:
    """Return the Python sources below a folder, by name."""
    return sorted(path for path in folder.rglob("*.py") if "site-packages" not in path.parts and path.is_file())


def shares(files: list[Path], count: int, folder: Path) -> list[Path]:
    """Write the files' names into `count` lists of about the same number of bytes."""
    bins: list[list[Path]] = [[] for _ in range(count)]
    sizes = [0] * count
    for path in sorted(files, key=lambda path: -path.stat().st_size):
        smallest = sizes.index(min(sizes))
        bins[smallest].append(path)
        sizes[smallest] += path.stat().st_size
    lists = []
    for number, names in enumerate(bins):
        path = folder / f"share{number}"
        path.write_text("\n".join(map(str, names)))
        path.chmod(0o644)
        lists.append(path)
    return lists


def collect(home: Home, pid: int, progress: Progress) -> Counts:
    """Return what a worker counted, from the output of the incarnation that ended well."""
    with Connection(home.path) as connection:
        text = bytearray()
        for piece in output.follow(connection, pid, hold=True):
            if isinstance(piece, output.Anew):
                progress.say(f"worker {piece}")
                text.clear()  # what the lost incarnation had said is said again by this one
            elif piece.stream == "out":
                text += piece.data
        ended = processes.wait(connection, pid)
    lines = bytes(text).splitlines()
    if ended.exit_code != 0 or not lines or not lines[-1].startswith(b"complete "):
        raise SystemExit(f"worker {pid} did not finish: {ended.state} {ended.exit_code} {ended.reason}")
    counts: Counts = collections.Counter()
    for line in lines[:-1]:
        number, word = line.split(b" ", 1)
        counts[word] = int(number)
    progress.say(f"worker {pid} finished on {ended.node}: {sum(counts.values())} words, incarnation {ended.incarnation}")
    return counts


def expected(files: list[Path], folder: Path) -> Counts:
    """Count the same with tr, sort and uniq."""
    names = folder / "names0"
    names.write_bytes(b"".join(os.fsencode(path) + b"\0" for path in files))
    script = f"xargs -0 cat -- < '{names}' | LC_ALL=C tr -cs 'A-Za-z_' '\\n' | LC_ALL=C grep . | LC_ALL=C sort -S 200M | LC_ALL=C uniq -c"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    counts: Counts = collections.Counter()
    for line in done.stdout.splitlines():
        number, word = line.split()
        counts[word] = int(number)
    return counts


def lose_a_node(home: Home, pids: list[int], progress: Progress) -> str:
    """Kill every process of a node that runs a worker and keeps no other kernel's connection of ours; return its name."""
    with Connection(home.path) as connection:
        for _attempt in range(200):
            running = [view for view in processes.list_processes(connection) if view.pid in pids and view.state == "running"]
            if running:
                break
            time.sleep(0.01)
        else:
            raise SystemExit("no worker was running any more: the corpus is too small")
        victim = running[-1].node
        view = next(node for node in nodes.list_nodes(connection) if node.name == victim)
        here = sum(one.node == victim for one in running)
    progress.say(f"killing {victim} with SIGKILL: {len(view.pids)} Linux processes, {here} workers among them")
    for pid in view.pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return victim


def count_words(home: Home, files: list[Path], folder: Path, progress: Progress) -> Counts:
    """Run the job on a system that is up."""
    worker = Path(__file__).resolve().parent / "count_words.py"
    with Connection(home.path) as connection:
        pids = []
        for share in shares(files, WORKERS, folder):
            argv = (sys.executable, str(worker), "--pace", "1.5", str(share))
            program = Program(
                tuple(map(os.fsencode, argv)), cwd=os.fsencode(folder), resources=Resources(cpu_milli=0)
            )  # all at once, few as the cores are
            submitted = processes.submit(connection, program)
            pids.append(submitted.pid)
            progress.say(f"worker {submitted.pid} runs on {submitted.node}")
    results: dict[int, Counts] = {}
    failures: list[BaseException] = []

    def work(pid: int) -> None:
        try:
            results[pid] = collect(home, pid, progress)
        except BaseException as error:  # noqa: BLE001 the end of a thread: told to the person below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(pid,)) for pid in pids]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    lose_a_node(home, pids, progress)
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(str(failures[0]))
    total: Counts = collections.Counter()
    for counts in results.values():
        total.update(counts)
    return total


def story(home: Home) -> None:
    """Show what happened, as the system recorded it."""
    print("\nwhat happened:")
    with Connection(home.path) as connection:
        for event in events.events(connection):
            moment = time.strftime("%H:%M:%S", time.localtime(event.at_ms / 1000))
            print(f"  {moment}.{event.at_ms % 1000:03d}  {event.node:4s} {event.text}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path(sysconfig.get_paths()["stdlib"]), help="a folder of Python sources")
    options = parser.parse_args()
    progress = Progress()
    files = corpus(options.corpus)
    if len(files) < WORKERS:
        raise SystemExit(f"{options.corpus} has {len(files)} Python files; the job wants at least {WORKERS}")
    folder = Path(tempfile.mkdtemp(prefix="unios-wordcount-"))
    folder.chmod(0o755)
    home = Home(folder / "home")
    kept = False
    try:
        ready = boot.up(home, nodes=3)
        progress.say(f"three nodes are ready: {', '.join(sorted(ready))}")
        progress.say(f"corpus: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")
        total = count_words(home, files, folder, progress)
        progress.say(f"merged: {sum(total.values())} words, {len(total)} different ones; comparing with sort | uniq -c")
        right = expected(files, folder)
        story(home)
    except UniosError as error:
        print(f"wordcount: {error}\nthe nodes' logs are kept in {folder}", file=sys.stderr)
        kept = True
        return error.exit_code
    finally:
        boot.down(home, everything=True)
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    if total != right:
        print("\nWRONG: the counts differ", file=sys.stderr)
        return 1
    print("\nthe same as sort | uniq -c; most frequent:", ", ".join(f"{word.decode()} {count}" for word, count in total.most_common(5)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
