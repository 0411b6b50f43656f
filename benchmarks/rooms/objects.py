"""Arrays that Ray hands over as benchmarks/objects.py has it: `objects.py ray`. `put`, and an actor in another process gets it and reads both ends."""

import sys
import time

import lab  # type: ignore[import-not-found]  # of ../shared/peers, by PYTHONPATH
import launch  # type: ignore[import-not-found]

AREA = "objects"
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
MIB_100 = 100 << 20


def ray() -> None:
    """One node, a store of 1 GB."""
    system, _began = launch.ray_up(lab.room())
    import numpy

    class Reader:
        def look(self, values: "numpy.ndarray") -> float:
            return float(values[0] + values[-1])

    reader = system.remote(Reader).remote()

    def hand_over(values: "numpy.ndarray") -> None:
        if system.get(reader.look.remote(system.put(values))) != 3.0:
            raise RuntimeError("other values came than were put")

    for size in SIZES:
        values = numpy.full(size // 8, 1.5)
        taken = lab.timed(lambda values=values: hand_over(values), max(5, min(300, 400_000_000 // size)), 20)
        lab.emit(AREA, "ray", f"hand_over_MBs_{size}", size / 1e6 / lab.percentile(taken, 50), "MB/s", len(taken), "p50")
    values = numpy.full(MIB_100 // 8, 1.5)
    lab.emit_latency(AREA, "ray", "array100MiB", lab.timed(lambda: hand_over(values), 20, 30, warm=2), "put, and an actor has it mapped; one copy")
    puts, gets = [], []
    for _ in range(10):
        began = time.perf_counter()
        ref = system.put(values)
        puts.append(time.perf_counter() - began)
        began = time.perf_counter()
        system.get(ref)
        gets.append(time.perf_counter() - began)
        del ref
    lab.emit_latency(AREA, "ray", "put100MiB", puts)
    lab.emit_latency(AREA, "ray", "get100MiB", gets, "by who put it")


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["--inside"]:
        ray()
    else:
        lab.run_peers(__file__, words, AREA, limit=240)


if __name__ == "__main__":
    main()
