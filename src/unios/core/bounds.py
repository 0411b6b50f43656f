"""Bounds: whether what a process demands is in range. Decides only. Asked of what is submitted, and by the gate of what members write: a record with
minus three cores would make room where there is none.
"""

from typing import Final

from unios.demands import PRIORITY_MAX, Placing, Queueing, Resources
from unios.errors import CallerError
from unios.limits import PID_MAX, TIME_LIMIT_MS_MAX

NAMES_MAX: Final = 32
NAME_BYTES_MAX: Final = 100
NUMBER_MAX: Final = 1 << 53


def check(resources: Resources, queueing: Queueing, placing: Placing) -> None:
    """Raise CallerError for what is out of range."""
    _check_resources(resources)
    _check_queueing(queueing)
    _check_placing(placing)


def _check_resources(resources: Resources) -> None:
    numbers = (resources.cpu_milli, resources.memory_bytes, resources.cpu_milli_max, resources.tasks)
    if any(not 0 <= number <= NUMBER_MAX for number in numbers):
        raise CallerError("cores, memory and the bounds of both are numbers from 0 on")
    _check_names(resources.devices, "devices")


def _check_queueing(queueing: Queueing) -> None:
    if not 0 <= queueing.priority <= PRIORITY_MAX:
        raise CallerError(f"priorities go from 0 to {PRIORITY_MAX}")
    if not 0 <= queueing.time_limit_ms <= TIME_LIMIT_MS_MAX:
        raise CallerError(f"time limits go from 0 to {TIME_LIMIT_MS_MAX} ms")
    numbers = (queueing.array, queueing.index, queueing.array_limit)
    if any(not 0 <= number <= NUMBER_MAX for number in numbers) or queueing.array > PID_MAX:
        raise CallerError(f"the numbers of arrays go from 0 to {NUMBER_MAX}, and their pids to {PID_MAX}")
    if len(queueing.after) > NAMES_MAX:
        raise CallerError(f"a process may wait for {NAMES_MAX} others at most; an array counts as one")


def _check_placing(placing: Placing) -> None:
    for names, what in (
        (placing.forbidden, "nodes"),
        (placing.near, "processes"),
        (placing.apart, "processes"),
        ((placing.label,), "labels"),
        ((placing.policy,), "policies"),
    ):
        _check_names(names, what)


def _check_names(names: tuple[str, ...], what: str) -> None:
    if len(names) > NAMES_MAX or any(len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX for name in names):
        raise CallerError(f"{what}: at most {NAMES_MAX}, of {NAME_BYTES_MAX} bytes each")
