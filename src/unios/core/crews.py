"""Crews: how the workers of an executor are divided into processes of the system, and what each sets aside. Decides only; where they go placement decides."""

from collections.abc import Sequence
from typing import NamedTuple


class Crew(NamedTuple):
    """What one process is to have: `seats` workers, for which so much is set aside."""

    seats: int
    cpu_milli: int
    memory_bytes: int


def plan_crews(workers: int, cores: Sequence[int], *, cpu_milli: int, memory_bytes: int, single: bool) -> list[Crew]:
    """Divide `workers` among nodes with so many cores, in proportion; none asks for more cores than such a node has, since it would wait for ever.

    `single`: each worker is a crew, as where each has a device of its own.
    """
    if single:
        return [_crew(1, max(cores, default=1), cpu_milli, memory_bytes)] * workers
    nodes = sorted(cores, reverse=True) or [1]
    seats = [0] * len(nodes)
    for _ in range(workers):
        seats[min(range(len(nodes)), key=lambda at: ((seats[at] + 1) / max(1, nodes[at]), at))] += 1
    return [_crew(count, has, cpu_milli, memory_bytes) for count, has in zip(seats, nodes, strict=True) if count]


def _crew(seats: int, cores: int, cpu_milli: int, memory_bytes: int) -> Crew:
    return Crew(seats, min(seats * cpu_milli, max(1, cores) * 1_000), seats * memory_bytes)


def smaller(crew: Crew, *, at_least_milli: int) -> list[Crew]:
    """Divide a crew for which there is no room in two; the last one of all sets aside `at_least_milli` if that is less. Empty: it has to wait for its turn."""
    if crew.seats == 1:
        return [crew._replace(cpu_milli=at_least_milli)] if at_least_milli < crew.cpu_milli else []
    half = crew.seats // 2
    return [Crew(seats, crew.cpu_milli * seats // crew.seats, crew.memory_bytes * seats // crew.seats) for seats in (crew.seats - half, half)]
