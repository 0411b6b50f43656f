"""files: the tree of files through mounts of two nodes, with the lab's fs.py: on the node that owns the tree and on another one, beside this machine's disk."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import baseline
from benchmarks.peers import LAB, Peers
from benchmarks.row import Report, Row
from benchmarks.system import System

PEERS = ("sshfs", "glusterfs-replica2", "moosefs-goal2", "nfs4-ganesha-libnfs")
RATES = {
    "create_write100_close": "create, write 100 bytes, close",
    "stat_warm": "stat, again",
    "open_read_close_warm": "open, read, close, again",
    "stat_cold": "stat, cold",
    "open_read_close_cold": "open, read, close, cold",
    "rename": "rename",
    "unlink": "unlink",
    "mkdir": "mkdir",
    "append4k_fsync": "append of 4 KiB with fsync",
    "read_random4k_cold": "random read of 4 KiB, cold",
}
TIMES = {
    "readdir_cold": "listing of the small files, cold",
    "ls_l_cold": "the same with attributes, cold",
    "append4k_fsync_p50": "append of 4 KiB with fsync, p50",
}
BULK = {"write_seq": "256 MiB written and synced", "read_seq_cold": "256 MiB read, cold"}
SEEN = {
    "see_new": "a new file",
    "see_listed": "a new name in a listing",
    "see_overwrite": "other bytes",
    "see_size": "a file that has grown",
    "see_rename_over": "a file in the place of another",
}
Figures = dict[str, tuple[float, int]]


def run(_peers: Peers) -> Report:
    """Measure."""
    report = Report("files")
    with System(nodes=2) as system, tempfile.TemporaryDirectory(prefix="unios-bench-mnt-") as place:
        system.up()
        folders = [Path(place, name) for name in ("n1", "n2", "local")]
        for folder in folders:
            folder.mkdir()
        for name in ("n1", "n2"):
            system.command("--node", name, "mount", os.path.join(place, name))
        try:
            local = _measured(folders[2], "local", "--mib", "256")
            owner = _measured(folders[0], "owner", str(folders[1]))
            other = _measured(
                folders[1], "other", str(folders[0]), "--files", "500", "--dirs", "200", "--mib", "64", "--reads", "500", "--changes", "50"
            )
        finally:
            for name in ("n1", "n2"):
                system.command("--node", name, "umount", os.path.join(place, name))
    for who, figures in (("the owner's mount", owner), ("another node's mount", other)):
        _rows(report, who, figures, local)
    report.notes.append(
        "Two nodes on one machine and one disk. Local: this machine's disk, same run. A peer's figure is the best of sshfs, GlusterFS (replica 2), "
        f"MooseFS (goal 2) and NFS 4 by Ganesha in the {baseline.LABEL}, on the same kind of machine at another time, when its disk made 16,780 such files a "
        "second. What the owner's programs are answered is in its journal, and in the log some 10 ms later; what another node is answered is in the log "
        "before, and what it has written synced. Cold: Linux's caches dropped, not mounted anew. The small files of the second are 500, and 64 MiB are written."
    )
    return report


def _measured(folder: Path, label: str, *more: str) -> Figures:
    print(f"fs.py on {label}", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, str(LAB / "fs.py"), str(folder), label, *more],
        env={**os.environ, "PYTHONPATH": str(LAB), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {str(line["metric"]): (float(line["value"]), int(line["n"])) for line in lines}


def _rows(report: Report, who: str, figures: Figures, local: Figures) -> None:
    for metrics, unit, rate in ((RATES, "/s", True), (BULK, "MB/s", True), (TIMES, "ms", False)):
        for metric, what in metrics.items():
            if metric not in figures:
                continue
            value, n = figures[metric]
            if metric in local:
                report.rows.append(Row(f"{who}: {what}", value, unit, n, "local, same run:", local[metric][0], rate=rate))
            best = _best(metric, rate=rate)
            if best is not None:
                report.rows.append(Row(f"{who}: {what}", value, unit, n, f"{best[0]}, {baseline.LABEL}:", best[1], rate=rate))
    for metric, what in SEEN.items():
        if f"{metric}_p50" in figures:
            report.rows.append(
                Row(f"changed at {who}: {what} is seen at the other, p50", *_of(figures, f"{metric}_p50", "ms"), "limit", 1.0, at_most=1.0)
            )
            report.rows.append(Row(f"likewise, p99: {what}", *_of(figures, f"{metric}_p99", "ms"), "limit", 5.0, at_most=1.0))
            report.rows.append(
                Row(f"likewise, first looks that were old: {what}", *_of(figures, f"{metric}_stale", "times"), "limit", 0.5, at_most=1.0)
            )


def _of(figures: Figures, metric: str, unit: str) -> tuple[float, str, int]:
    value, n = figures[metric]
    return value, unit, n


def _best(metric: str, *, rate: bool) -> tuple[str, float] | None:
    known = baseline.figures(LAB)
    found = [(peer, known[metric, peer]) for peer in PEERS if (metric, peer) in known]
    return (max if rate else min)(found, key=lambda one: one[1]) if found else None
