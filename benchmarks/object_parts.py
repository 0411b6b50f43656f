"""Processes of the benchmark of objects: `python -m benchmarks.object_parts serve|give`, on the node that UNIOS_NODE names.

`serve` gets and reads what it is told of. `give` puts, tells, and says how long that took, for one order a line: a JSON object each way.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

import unios
from unios.client.messages.port import Port
from unios.client.messages.server import Server

Array = Any
MARK = 1.5


def port_of(node: str) -> str:
    """Return the name under which the process on a node listens."""
    return f"benchmark/objects/{node}"


# who gets

_kept: list[unios.Ref[Array]] = []
"""What is looked at: a node keeps what it has fetched while a process there refers to it."""


def look(ref: unios.Ref[Array]) -> tuple[float, float]:
    """Get an array and read both its ends; return their sum and the seconds of `get`. The reference is kept."""
    _kept.append(ref)
    began = time.perf_counter()
    array = unios.get(ref)
    took = time.perf_counter() - began
    return float(array[0] + array[-1]), took


def forget() -> None:
    """Keep no reference."""
    _kept.clear()


def read(ref: unios.Ref[Array]) -> dict[str, float]:
    """Sum an array that was got, twice, beside one of this process; and say by how much that made this process grow."""
    ordinary = numpy.full(ref.nbytes // 8, MARK)
    ordinary.sum()
    before = anonymous_mb(Path("/proc/self/smaps_rollup").read_text())
    array = unios.get(ref)
    found = {"first_s": _seconds(array.sum), "again_s": _seconds(array.sum), "ordinary_s": _seconds(ordinary.sum)}
    return {**found, "grown_mb": anonymous_mb(Path("/proc/self/smaps_rollup").read_text()) - before}


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def anonymous_mb(text: str) -> float:
    """Return what a process has of memory that no file and nobody else has, in MB (10^6 bytes), of its smaps_rollup. ValueError if it does not say."""
    for line in text.splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError("no line on anonymous memory")


def serve() -> None:
    """Answer until the input ends."""
    with Server(port_of(os.environ["UNIOS_NODE"]), {"look": look, "read": read, "forget": forget}):
        print("ready", flush=True)
        sys.stdin.read()


# who gives


class Giver:
    """Carries orders out."""

    def __init__(self) -> None:
        self._ports: dict[str, Port] = {}
        self._ordinary: dict[int, Array] = {}

    def give(self, to: str, size: int, born: bool) -> dict[str, float]:
        """Put `size` bytes and have them looked at on node `to`, twice. The array is made and filled before."""
        array = self._array(size, born)
        port = self._port(to)
        began = time.perf_counter()
        ref = unios.put(array)
        put = time.perf_counter()
        ends, get_s = port.call("look", ref)
        done = time.perf_counter()
        if ends != 2 * MARK:
            raise RuntimeError("other values came than were put")
        _ends, again_s = port.call("look", ref)
        port.call("forget")
        return {"put_s": put - began, "get_s": get_s, "whole_s": done - began, "again_s": again_s}

    def read(self, to: str, size: int) -> dict[str, float]:
        """Have the process on node `to` read all of what is put here."""
        ref = unios.put(self._array(size, born=True))
        found: dict[str, float] = self._port(to).call("read", ref)
        return found

    def _array(self, size: int, born: bool) -> Array:
        if born:
            array = unios.empty(size // 8)
            array[:] = MARK
            return array
        if size not in self._ordinary:
            self._ordinary[size] = numpy.full(size // 8, MARK)
        return self._ordinary[size]

    def _port(self, node: str) -> Port:
        if node not in self._ports:
            self._ports[node] = Port(port_of(node))
        return self._ports[node]


def give() -> None:
    """Carry out the orders that come until the input ends."""
    giver = Giver()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(getattr(giver, order.pop("do"))(**order)), flush=True)


if __name__ == "__main__":
    {"serve": serve, "give": give}[sys.argv[1]]()
