"""`python -m tests.availability`: ten probes a second from each of three machines through the faults of schedule.toml; answered / asked, beside what the
quorums predict. Makes docs/availability.md. Needs root; about three minutes. Ends with 1 if a machine that reaches no majority was answered for good.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO

from tests.availability import predict, results
from tests.availability.predict import MACHINES, Fault
from tests.availability.results import Probe
from tests.deaths.rig import Tail
from tests.e2e.system import wait_for
from tests.live import machines
from tests.live.machines import Machine
from tests.matrix.workloads import process
from tests.matrix.world import World, missing, node, world
from tests.standstill import stop_all

WHOLE_S = 120


class Prober:
    """The one of a machine. What it tells lies outside of the machine."""

    def __init__(self, machine: Machine, life: int) -> None:
        self.machine = machine
        path = machine.lab.folder / f"probes.{machine.name}.{life}"
        self._files: list[IO[bytes]] = [path.open("wb"), path.with_name(path.name + ".err").open("wb")]
        words = machine.command(sys.executable, "-m", "tests.availability.prober", machine.name, predict.other_of(machine.name))
        self._running = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=self._files[0], stderr=self._files[1])
        self._path = path

    def close(self) -> list[Probe]:
        """End it; return what it asked, and when that was answered."""
        if self._running.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._running.stdin.close()
        self._running.wait(timeout=20)
        asked: dict[int, Probe] = {}
        for word, number, kind, at in Tail(self._path).more():
            if word == "asked":
                asked[number] = Probe(self.machine.name, kind, at, None)
            else:
                asked[number] = asked[number]._replace(answered=at)
        for file in self._files:
            file.close()
        return list(asked.values())


class Course:
    """The schedule as it is carried out: probers on all machines, and faults."""

    def __init__(self, made: World) -> None:
        self.world = made
        self.probes: list[Probe] = []
        self._machines = {machine.name: machine for machine in made.lab.machines}
        self._lives = 0
        self._probers = {name: self._prober(machine) for name, machine in self._machines.items()}

    def _prober(self, machine: Machine) -> Prober:
        self._lives += 1
        return Prober(machine, self._lives)

    def close(self) -> None:
        for prober in self._probers.values():
            self.probes += prober.close()

    @contextlib.contextmanager
    def under(self, fault: Fault) -> Iterator[None]:
        """Have the fault until the end of the block; the machine that comes back asks at once."""
        hit = [self._machines[name] for name in fault.machines]
        match fault.fault:
            case "cut":
                for machine in hit:
                    machine.cut_from(*(other for other in self._machines.values() if other is not machine))
                yield
                for machine in hit:
                    machine.heal()
            case "stands still":
                stopped = [(machine, stop_all(machine.pids)) for machine in hit]
                yield
                for machine, pids in stopped:
                    machine.signal_all(signal.SIGCONT, pids)
            case "dies":
                groups = [self.world.groups(machine) for machine in hit]
                for machine, those in zip(hit, groups, strict=True):
                    machine.die()
                    machines.remove_groups(those)
                    self.probes += self._probers[machine.name].close()
                yield
                for machine in hit:
                    machine.boot()
                    self._probers[machine.name] = self._prober(machine)
                    machine.start("sh", "-c", f"exec {sys.executable} -m unios up >/var/up.log 2>&1")
            case other:
                raise ValueError(f"the schedule has a fault {other}, which nobody knows")

    def run(self, length_s: float, faults: list[Fault]) -> float:
        """Carry it out; return when it began."""
        begun = time.monotonic()
        for fault in faults:
            _sleep_until(begun + fault.at_s)
            with self.under(fault):
                _sleep_until(begun + fault.at_s + fault.for_s)
        _sleep_until(begun + length_s)
        return begun


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def serve(made: World) -> None:
    """Keep a server on each machine."""
    for machine in made.lab.machines:
        words = ("--cpus", "0.05", "--on", node(machine), "--", sys.executable, "-m", "tests.availability.server", f"probe/{machine.name}")
        pid = int(json.loads(machine.unios("run", "-d", "--json", *words).stdout)["pid"])
        wait_for(lambda pid=pid: process(made, pid)["state"], lambda state: state == "running", "the server runs", 30)  # type: ignore[misc]


def measured() -> results.Course:
    """Build a system, play the schedule, return what came of it."""
    length_s, faults = predict.read()
    with world("etcd") as made:
        wait_for(made.ailing, lambda why: not why, "it is whole", WHOLE_S)
        wait_for(lambda: voting(made), lambda count: count == len(MACHINES), "three vote", WHOLE_S)
        serve(made)
        course = Course(made)
        try:
            time.sleep(5)  # the probers begin
            begun = course.run(length_s, faults)
        finally:
            course.close()
    probes = [one._replace(asked=one.asked - begun, answered=one.answered and one.answered - begun) for one in course.probes]
    return results.Course([one for one in probes if 0 <= one.asked < length_s])


def voting(made: World) -> int:
    """Return how many members vote."""
    done = made.observer.unios("store", "status", "--json", check=False)
    members = json.loads(done.stdout)["members"] if done.stdout.strip() else []
    return sum(one.get("answers", False) and not one.get("learner") for one in members)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.availability", description=__doc__)
    parser.add_argument("--dry", action="store_true", help="write down nothing")
    parser.add_argument("--page", action="store_true", help="only make docs/availability.md anew")
    options = parser.parse_args()
    if not options.page and (why := missing("etcd")):
        print(f"no pseudo-machines on etcd here: {why}", file=sys.stderr)
        return 2
    course = results.read() if options.page else measured()
    print(results.page(course))
    if not options.dry:
        results.write(course)
    wrong = results.impossible(course)
    for text in wrong:
        print(f"broken: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
