"""What can be simulated: each kind with its steps, its mutants, and what its runs count."""

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from tests.sim import calls_run, log_run, run, watch_run
from tests.sim.calls_mutants import CALLS_MUTANTS
from tests.sim.log_mutants import LOG_MUTANTS
from tests.sim.mutants import MUTANTS
from tests.sim.scenarios import schedule_of
from tests.sim.schedule import Schedule, Steps
from tests.sim.watch_mutants import WATCH_MUTANTS
from tests.sim.world import Violation, World


class Going(Protocol):
    """A run of any kind."""

    world: World

    @property
    def count(self) -> int: ...

    def go(self) -> None: ...


class Kind(NamedTuple):
    """`counted`: what the count of a run is of. Mutants are switched on while the context that they return is entered."""

    name: str
    make: Callable[[Schedule], Going]
    steps: Steps
    mutants: Mapping[str, Callable[[], Any]]
    counted: str


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("nodes", run.Run, run.STEPS, MUTANTS, "effects accepted"),
        Kind("logs", log_run.LogRun, log_run.STEPS, LOG_MUTANTS, "entries acknowledged"),
        Kind("watch", watch_run.WatchRun, watch_run.STEPS, WATCH_MUTANTS, "writes acknowledged"),
        Kind("calls", calls_run.CallsRun, calls_run.STEPS, CALLS_MUTANTS, "requests done"),
    )
}


def schedule(kind: str, seed: int, scenario: str = "", mutant: str = "") -> Schedule:
    """Return the schedule that a seed stands for."""
    return msgspec.structs.replace(schedule_of(kind, KINDS[kind].steps, seed, scenario), mutant=mutant)


@contextlib.contextmanager
def mutated(kind: str, mutant: str) -> Iterator[None]:
    """Run with the mutant, or with the shipped code for ""."""
    with KINDS[kind].mutants[mutant]() if mutant else contextlib.nullcontext():
        yield


def perform(schedule: Schedule) -> int:
    """Run a schedule; return what it counts. Raises Violation; what a decider raises is one too: it is never to raise here."""
    kind = KINDS[schedule.world]
    with mutated(schedule.world, schedule.mutant):
        try:
            going = kind.make(schedule)
            going.go()
        except (Violation, KeyboardInterrupt):
            raise
        except Exception as error:
            raise Violation(f"raised {type(error).__name__}: {error}", traceback.format_exc()) from error
    return going.count


def judge(schedule: Schedule) -> str:
    """Run a schedule; return which invariant is broken, "" if none is."""
    try:
        perform(schedule)
    except Violation as violation:
        return violation.kind
    return ""


def first_violation(kind: str, mutant: str, seeds: int, scenario: str = "") -> tuple[Schedule, Violation] | None:
    """Return the first of so many seeds whose run breaks an invariant, and which; None if there is none."""
    for seed in range(seeds):
        made = schedule(kind, seed, scenario, mutant)
        try:
            perform(made)
        except Violation as violation:
            return made, violation
    return None
