"""Schedules: what is done to a simulated system, and when. Drawn from a scenario by a seed, or read from a file; each step can be left out by itself.

A schedule says nothing of chance inside the run (how long a message takes, which is lost): that is drawn from its seed while it runs.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

ANY: Final = "any"
"""As an argument: one of the nodes."""
F = TypeVar("F", bound=Callable[..., None])


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """Do `do` at `at_ms` of virtual time."""

    at_ms: float
    do: str
    arguments: dict[str, Any] = {}


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """`world`: what is simulated; `setup`: what it begins with; `mutant`: the protection that is switched off, "" for none."""

    world: str
    seed: int
    setup: dict[str, Any]
    steps: tuple[Step, ...]
    scenario: str = ""
    mutant: str = ""

    def text(self) -> str:
        """Return it as JSON, a step a line."""
        head = msgspec.json.encode(msgspec.structs.replace(self, steps=())).decode()
        lines = ",\n  ".join(msgspec.json.encode(step).decode() for step in self.steps)
        return head.replace('"steps":[]', f'"steps":[\n  {lines}]')


def parse(text: str | bytes) -> Schedule:
    """Return the schedule in a file's text. Raises msgspec.MsgspecError."""
    try:
        return msgspec.json.decode(text, type=Schedule)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


class Steps:
    """The steps that one world knows: functions of the run and what the step's arguments are called. `pick` is drawn from [0, 1)."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {}

    def __call__(self, function: F) -> F:
        """Make a function known under its name, with "-" for "_"."""
        code = function.__code__
        names = code.co_varnames[1 : code.co_argcount]
        defaults = function.__defaults__ or ()
        given = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        self.known[function.__name__.strip("_").replace("_", "-")] = (function, {name: given.get(name, ANY) for name in names})
        return function

    def do(self, run: Any, step: Step) -> None:
        self.known[step.do][0](run, **step.arguments)

    def draw(self, rng: random.Random, do: str, declared: Mapping[str, Any], nodes: list[str]) -> dict[str, Any]:
        """Return the arguments of a step: of what is declared that which it takes, else its defaults."""
        made: dict[str, Any] = {}
        for name, default in self.known[do][1].items():
            value = rng.random() if name == "pick" else drawn(rng, declared.get(name, default))
            made[name] = rng.choice(nodes) if value == ANY else value
        return made


def drawn(rng: random.Random, declared: Any) -> Any:
    """Return what is declared: of a list one item, drawn in its turn; of {from, to} a number between them; anything else is itself."""
    if isinstance(declared, list):
        return drawn(rng, rng.choice(declared))
    if isinstance(declared, dict):
        low, high = declared["from"], declared["to"]
        return rng.randint(low, high) if isinstance(low, int) and isinstance(high, int) else round(rng.uniform(low, high), 1)
    return declared
