"""Admission: whether a node takes one more process, by what it has set aside itself. Decides only; kernel/admission.py asks.

Invariant: at no time is more admitted than is offered; what asks for nothing is admitted always.
"""

from collections.abc import Callable

from unios.core.processes import ProcessRecord
from unios.counted import counted, is_or_are

Key = tuple[int, int]
"""(pid, incarnation)"""


class Room:
    """That of one node."""

    def __init__(self) -> None:
        self._held: dict[Key, tuple[int, int]] = {}
        """(cpu_milli, memory_bytes)"""

    def take(self, record: ProcessRecord, cores: int, memory_bytes: int, lives: Callable[[Key], bool]) -> str:
        """Set aside what a process asks for and return "", or why there is no room. Idempotent.

        `memory_bytes` 0: nobody knows how much there is. `lives`: whether a process still runs or is being started; asked only when there is no room
        else, and what it denies is given back.
        """
        wanted = (record.resources.cpu_milli, record.resources.memory_bytes)
        key = (record.pid, record.incarnation)
        if wanted == (0, 0) or key in self._held:
            return ""
        if self._lacks(wanted, cores, memory_bytes):
            self._held = {held: size for held, size in self._held.items() if lives(held)}
        lacks = self._lacks(wanted, cores, memory_bytes)
        if not lacks:
            self._held[key] = wanted
        return lacks

    def hold(self, record: ProcessRecord) -> None:
        """It runs here already, whether or not there is room for it."""
        self._held[record.pid, record.incarnation] = (record.resources.cpu_milli, record.resources.memory_bytes)

    def give_back(self, pid: int, incarnation: int) -> None:
        """It was not started. Idempotent."""
        self._held.pop((pid, incarnation), None)

    def _lacks(self, wanted: tuple[int, int], cores: int, memory_bytes: int) -> str:
        cpu = sum(held[0] for held in self._held.values())
        if wanted[0] and cpu + wanted[0] > cores * 1_000:
            return f"{cpu / 1_000:g} of {counted(cores, 'core')} {is_or_are(cores)} set aside"
        used = sum(held[1] for held in self._held.values())
        if wanted[1] and memory_bytes and used + wanted[1] > memory_bytes:
            return f"{used >> 20} of {memory_bytes >> 20} MiB of memory are set aside"
        return ""
