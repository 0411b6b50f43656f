"""Starts a peer in a room of the lab and says how long that took: `starts.py [--idle] ray|dask ...`. With --idle also memory and processor at rest."""

import os
import subprocess
import sys
import time

import lab  # type: ignore[import-not-found]  # of ../shared/peers, by PYTHONPATH
import launch  # type: ignore[import-not-found]

AREA = "starts"


def ray(idle: bool) -> None:
    """`ray start --head`, join, first task done."""
    system, began = launch.ray_up(lab.room())
    task = system.remote(_true)
    assert system.get(task.remote()) == 0
    lab.emit(AREA, "ray", "system_start", time.perf_counter() - began, "s")
    if idle:
        lab.emit_idle(AREA, "ray", over=20.0)


def dask(idle: bool) -> None:
    """Import, LocalCluster of 2 worker processes, first task done."""
    client, began = launch.dask_up(lab.room())
    assert client.submit(launch.run_true, 0, pure=False).result() == 0
    lab.emit(AREA, "dask", "system_start", time.perf_counter() - began, "s")
    if idle:
        lab.emit_idle(AREA, "dask", [*lab.others(), os.getpid()], over=20.0)
    sys.stdout.flush()
    os._exit(0)  # the room ends its workers


def _true() -> int:
    return subprocess.run(["true"]).returncode


def main() -> None:
    words = sys.argv[1:]
    idle = "--idle" in words
    names = [word for word in words if not word.startswith("--")]
    if "--inside" in words:
        {"ray": ray, "dask": dask}[names[0]](idle)
    else:
        lab.run_peers(__file__, names, AREA, limit=180, extra=["--idle"] if idle else [])


if __name__ == "__main__":
    main()
