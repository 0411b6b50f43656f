"""Empty tasks of a peer as benchmarks/tasks.py has them: `tasks.py ray|dask ...`. Two workers, several floods, a first one that does not count."""

import os
import sys
import time
from collections.abc import Callable

import lab  # type: ignore[import-not-found]  # of ../shared/peers, by PYTHONPATH
import launch  # type: ignore[import-not-found]

AREA = "tasks"
FLOOD, TURNS, ALONE, NESTED = 2_000, 5, 500, 250


def ray() -> None:
    """A head with two processors; tasks of tasks as well."""
    system, began = launch.ray_up(lab.room())
    task = system.remote(_nothing)
    system.get(task.remote(0))
    lab.emit(AREA, "ray", "system_start", time.perf_counter() - began, "s")
    _tell("ray-task", lambda: system.get(task.remote(0)), lambda: system.get([task.remote(number) for number in range(FLOOD)]))

    def _nest(count: int) -> list[float]:
        taken = []
        for number in range(count):
            start = time.perf_counter()
            system.get(task.remote(number))
            taken.append(time.perf_counter() - start)
        return taken

    nest = system.remote(_nest)
    system.get(nest.remote(20))
    lab.emit_latency(AREA, "ray-task", "nested_task", system.get(nest.remote(NESTED)))


def dask() -> None:
    """LocalCluster of two worker processes."""
    client, began = launch.dask_up(lab.room())
    client.submit(_nothing, 0, pure=False).result()
    lab.emit(AREA, "dask", "system_start", time.perf_counter() - began, "s")
    _tell(
        "dask-task",
        lambda: client.submit(_nothing, 0, pure=False).result(),
        lambda: client.gather(client.map(_nothing, range(FLOOD), pure=False)),
    )
    sys.stdout.flush()
    os._exit(0)  # the room ends its workers


def _tell(peer: str, one: Callable[[], object], flood: Callable[[], object]) -> None:
    flood()
    for seconds in lab.timed(flood, TURNS, limit=60, warm=0):
        lab.emit(AREA, peer, "empty_task_sustained", FLOOD / seconds, "/s", FLOOD, "all submitted at once")
    lab.emit_latency(AREA, peer, "empty_task", lab.timed(one, ALONE, 20))


def _nothing(_number: int) -> int:
    return 0


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["--inside"]:
        {"dask": dask, "ray": ray}[words[1]]()
    else:
        lab.run_peers(__file__, words, AREA, limit=180)


if __name__ == "__main__":
    main()
