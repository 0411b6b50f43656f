"""Kills a worker of a peer with the task that runs on it, and says when the task runs elsewhere: `losses.py dask|ray ...`.

The counterpart of benchmarks/failover.py: kill -9 of every process of one of two workers, all of them on this machine.
"""

import os
import signal
import sys
import time
from pathlib import Path

import lab  # type: ignore[import-not-found]  # of ../shared/peers, by PYTHONPATH
import launch  # type: ignore[import-not-found]

AREA = "losses"
TURNS = 3


def tell(folder: str) -> None:
    """The task: leave its parents' pids, then run on."""
    Path(folder, str(os.getpid())).write_text(f"{os.getpid()} {os.getppid()}")
    time.sleep(600)


def measure(peer: str, folder: Path, start: object, victims: object) -> None:
    """`start(folder)` submits the task; `victims(text)` returns the pids to kill."""
    for turn in range(TURNS):
        mine = folder / f"turn{turn}"
        mine.mkdir()
        start(str(mine))  # type: ignore[operator]
        lab.wait_for(lambda mine=mine: any(mine.iterdir()))
        time.sleep(1.0)
        first = next(mine.iterdir())
        pids = victims(first.read_text())  # type: ignore[operator]
        began = time.perf_counter()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        lab.wait_for(lambda mine=mine: len(list(mine.iterdir())) > 1, 90, 0.004)
        lab.emit(AREA, peer, "runs_elsewhere", time.perf_counter() - began, "s")
        time.sleep(2.0)


def dask() -> None:
    """LocalCluster of 2 x TURNS worker processes; the worker is killed, its nanny too."""
    folder = lab.room()
    os.chdir(folder)
    from dask.distributed import Client, LocalCluster  # type: ignore[import-not-found]

    client = Client(LocalCluster(n_workers=2 * TURNS, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"))
    keep = []
    measure("dask", folder, lambda where: keep.append(client.submit(tell, where, pure=False)), lambda text: [int(text.split()[0])])
    sys.stdout.flush()
    os._exit(0)


def ray() -> None:
    """A head without processors and two nodes; everything of the node that runs the task is killed."""
    folder = lab.room()
    system, _began = launch.ray_up(folder)
    for _ in range(2 * TURNS):
        lab.quiet(
            lab.tool("ray"),
            "start",
            "--address=127.0.0.1:6379",
            "--num-cpus=1",
            '--resources={"here": 1}',
            "--disable-usage-stats",
            "--object-store-memory=100000000",
        )
    task = system.remote(num_cpus=1, resources={"here": 1}, max_retries=3)(tell)
    keep = []
    measure("ray", folder, lambda where: keep.append(task.remote(where)), _node_of)


def _node_of(text: str) -> list[int]:
    """Return the worker and its raylet with everything below it."""
    worker, raylet = map(int, text.split())
    below = [pid for pid in lab.others() if _parent(pid) == raylet]
    return [raylet, *below] if worker in below else [raylet, worker, *below]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["--inside"]:
        {"dask": dask, "ray": ray}[words[1]]()
    else:
        lab.run_peers(__file__, words, AREA, limit=180)


if __name__ == "__main__":
    main()
