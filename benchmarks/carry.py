"""carry: a folder of 10,000 small files taken along to another node, against `rsync -a` over ssh on loopback, in turns in one run.

Ours reads and hashes every file, has all on the disks of two nodes, lays the folder out anew on a third and runs `true` in it; rsync compares sizes and
times and updates one copy. So rsync does less, and the second and third row of ours contain the laying out of 10,000 files.
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.peers import Peers
from benchmarks.row import Report, Row
from benchmarks.samples import once
from benchmarks.system import System

FILES = 10_000
FOLDERS = 100
FILE_BYTES = 400
WAIT_S = 10.0


def _make(folder: Path) -> None:
    for number in range(FILES):
        place = folder / f"d{number % FOLDERS}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{number}").write_bytes(f"{number} ".encode() * (FILE_BYTES // 6))


@contextlib.contextmanager
def _rsync(folder: Path) -> Iterator[list[str]]:
    """Yield the rsync command up to its source, over an sshd of its own on loopback."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, stdin=subprocess.DEVNULL)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.makedirs("/run/sshd", exist_ok=True)
    options = ["-o", f"AuthorizedKeysFile={folder}/authorized", "-o", "StrictModes=no", "-o", "PidFile=none", "-o", "UsePAM=no"]
    sshd = subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-f", "/dev/null", "-p", str(port), "-h", str(folder / "host"), *options], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if time.monotonic() > deadline:
                raise RuntimeError("sshd does not start")
        ssh = f"ssh -q -p {port} -i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes"
        yield ["rsync", "-a", "-e", ssh]
    finally:
        sshd.terminate()
        sshd.wait()


def run(_peers: Peers) -> Report:
    """Measure both in turns."""
    report = Report("carry")
    with System() as system:
        system.up()
        source = system.folder / "source"
        _make(source)

        def ours() -> None:
            system.command("run", "--carry", str(source), "--on", "n3", "--cwd", str(source), "--", "true")

        def change() -> None:
            (source / "d7" / "f7").write_text("changed")

        with contextlib.ExitStack() as stack:
            theirs: Callable[[], None] | None = None
            if all(map(shutil.which, ("rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd"))):
                command = [*stack.enter_context(_rsync(system.folder)), f"{source}/", f"{getpass.getuser()}@127.0.0.1:{system.folder}/copy/"]

                def copy() -> None:
                    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

                theirs = copy

            stages: dict[str, Callable[[], None] | None] = {"first time": None, "nothing changed": None, "one file changed": change}
            for what, before in stages.items():
                print(what, file=sys.stderr)
                if before is not None:
                    before()
                mine = once(ours)
                peer = once(theirs) if theirs is not None else None
                against = "rsync -a over ssh, same run:" if peer is not None else ""
                report.rows.append(Row(f"{FILES} small files, {what}", mine, "s", 1, against, peer))
    report.notes.append(
        "ours keeps two copies on disk (synced), lays the folder out anew for each process and runs it; rsync updates one copy and runs nothing"
    )
    return report
