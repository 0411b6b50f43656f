"""Judges one death, of what was told outside of all machines: which promises of the design (section 9) stand, and how long things took.

Decides only. `lines` are those of tests/deaths/driver.py, by machine; those of the machine that died end with it. What is judged:

| promise | broken by |
|---|---|
| noticed | a machine that lives says only after `noticed_s` that the node is lost |
| elsewhere | a process that ran there has its first effect outside, as its next incarnation, only after `elsewhere_s` |
| state | a key or a process that was acknowledged is not there, or is another |
| twice | an effect of an incarnation after one of a newer one: outside (the witness), or as an answer to a call; a call done twice |
| locks | two held it at a time and neither was told that he had lost it; a token that is not greater than all before |
| delay | whoever may ask again hears anything but the answer, or nothing for GIVEN_UP_S; anybody hears an error that does not say what happened |
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tests.deaths.driver import STEPS
from tests.matrix.workloads import REPORTED

PROMISES: Final = ("noticed", "elsewhere", "state", "twice", "locks", "delay")
NOTICED_S: Final = (1.5, 3.0)
"""Without and with etcd's leader on the machine that died."""
ELSEWHERE_S: Final = (3.0, 5.0)
GIVEN_UP_S: Final = 30.0
AGAIN: Final = frozenset({"run", "add", "map"})
"""Steps whose callers ask again by themselves: they see delay only."""
ENDED: Final = ("exited", "failed", "lost")
Line = Mapping[str, Any]
Effect = tuple[float, int, int]
"""(when, pid, incarnation) at the witness."""


@dataclass(frozen=True)
class Death:
    """Machine `machine` died at `at`, with node `node`; `leader`: it held etcd's. `orphans`: pid -> incarnation of the senders that ran there."""

    at: float
    machine: str
    node: str
    leader: bool
    orphans: Mapping[int, int]


class Kept(NamedTuple):
    """What there is afterwards. `processes`: pid -> state, exit code, reason, incarnation, node."""

    keys: Mapping[str, str]
    processes: Mapping[str, Sequence[Any]]


@dataclass
class Verdict:
    """`times`: seconds after the death, or that a step took which met it. `told`: what callers were told that is not delay, and may be."""

    times: dict[str, float] = field(default_factory=dict)
    broken: dict[str, list[str]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def breaks(self, promise: str, text: str) -> None:
        self.broken.setdefault(promise, []).append(text)


def judge(death: Death, lines: Mapping[str, Sequence[Line]], effects: Sequence[Effect], kept: Kept) -> Verdict:
    """Return what became of each promise."""
    verdict = Verdict()
    alive = {machine: told for machine, told in lines.items() if machine != death.machine}
    everything = sorted(((machine, line) for machine, told in lines.items() for line in told), key=lambda pair: pair[1]["at"])
    _in_time(verdict, "noticed", noticed(death, alive), len(alive), NOTICED_S[death.leader])
    _in_time(verdict, "elsewhere", elsewhere(death, effects), len(death.orphans), ELSEWHERE_S[death.leader])
    _state(verdict, (line for _machine, line in everything), kept)
    for text in [*stale(effects), *stale_answers([line for _machine, line in everything if line["kind"] == "answer"])]:
        verdict.breaks("twice", text)
    for text in locks(death, everything):
        verdict.breaks("locks", text)
    _delay(verdict, death, alive)
    return verdict


def noticed(death: Death, alive: Mapping[str, Sequence[Line]]) -> list[float]:
    """Return after how long each machine that lives said that the node is lost."""
    first = [
        next((line["at"] for line in told if line["kind"] == "nodes" and line["at"] > death.at and death.node not in line["there"]), None)
        for told in alive.values()
    ]
    return [at - death.at for at in first if at is not None]


def elsewhere(death: Death, effects: Sequence[Effect]) -> list[float]:
    """Return after how long each orphan had an effect again."""
    first: dict[int, float] = {}
    for at, pid, incarnation in effects:
        if at > death.at and incarnation > death.orphans.get(pid, incarnation):
            first.setdefault(pid, at - death.at)
    return list(first.values())


def recovered(death: Death, alive: Mapping[str, Sequence[Line]]) -> set[tuple[str, str]]:
    """Return the steps, by machine, that have succeeded since: what began after the death."""
    return {
        (machine, line["name"])
        for machine, told in alive.items()
        for line in told
        if line["kind"] == "step" and line["how"] == "ok" and line["began"] > death.at
    }


def _in_time(verdict: Verdict, promise: str, found: Sequence[float], wanted: int, bound_s: float) -> None:
    if found:
        verdict.times[promise] = max(found)
    if len(found) < wanted:
        verdict.breaks(promise, f"{wanted - len(found)} of {wanted} not within {GIVEN_UP_S:.0f} s")
    elif found and max(found) > bound_s:
        verdict.breaks(promise, f"after {max(found):.2f} s and not {bound_s} s")


def _state(verdict: Verdict, lines: Iterable[Line], kept: Kept) -> None:
    for line in lines:
        if line["kind"] == "wrote" and kept.keys.get(line["key"]) != line["value"]:
            verdict.breaks("state", f"{line['key']} was acknowledged as {line['value']} and is {kept.keys.get(line['key'])}")
        if line["kind"] != "accepted":
            continue
        state, code, reason, *_rest = kept.processes.get(str(line["pid"]), ("not there", None, ""))
        if state not in ENDED or (state == "exited" and code != line["code"]):
            verdict.breaks("state", f"process {line['pid']} was acknowledged, has to end with {line['code']}, and is {state} with {code}: {reason}")
        elif state != "exited":
            verdict.breaks("elsewhere", f"process {line['pid']} was acknowledged and {state}: {reason}")


def stale(effects: Iterable[Effect]) -> list[str]:
    newest: dict[int, int] = {}
    found = []
    for _at, pid, incarnation in effects:
        if incarnation < newest.get(pid, 0):
            found.append(f"the witness got an effect of {pid}.{incarnation} after one of {pid}.{newest[pid]}")
        newest[pid] = max(incarnation, newest.get(pid, 0))
    return found


def stale_answers(answers: Sequence[Line]) -> list[str]:
    """A call that began after another was answered is not answered by an older incarnation. `answers` are sorted by when they came."""
    found = [f"call {line['mark']} was done {line['times']} times" for line in answers if line["times"] != 1]
    for number, line in enumerate(answers):
        before = max((other["incarnation"] for other in answers[:number] if other["at"] < line["began"]), default=0)
        if line["incarnation"] < before:
            found.append(f"call {line['mark']} was answered by incarnation {line['incarnation']} after one by {before}")
    return found


def locks(death: Death, lines: Sequence[tuple[str, Line]]) -> list[str]:
    """Return what the lock must not have done. `lines` are sorted by time; who died with the lock in hand has let go of it then."""
    found: list[str] = []
    held: dict[str, tuple[int, ...]] = {}
    newest: tuple[int, ...] = ()
    given: dict[str, tuple[int, ...]] = {}
    """By machine that holds it: the token under which it was given away meanwhile. Whoever is told so in time breaks nothing."""
    for machine, line in lines:
        if line["at"] > death.at:
            held.pop(death.machine, None)
        if line["kind"] not in ("held", "freed"):
            continue
        token = tuple(line["token"])
        if line["kind"] == "freed":
            if line["how"] == "ok" and machine in given:
                found.append(f"{machine} held it still under {token} when it was given away under {given[machine]}")
            held.pop(machine, None)
            continue
        if token <= newest:
            found.append(f"{machine} got token {token} after {newest}")
        newest = max(token, newest)
        given |= dict.fromkeys(held, token)
        given.pop(machine, None)
        held[machine] = token
    return found


def _delay(verdict: Verdict, death: Death, alive: Mapping[str, Sequence[Line]]) -> None:
    done = recovered(death, alive)
    for machine, told in alive.items():
        for line in told:
            if line["kind"] == "step":
                _judge_step(verdict, death, machine, line)
        for name in STEPS:
            if (machine, name) not in done:
                verdict.breaks("delay", f"{machine}: no {name} has succeeded for {GIVEN_UP_S:.0f} s")


def _judge_step(verdict: Verdict, death: Death, machine: str, line: Line) -> None:
    name, how = line["name"], line["how"]
    if line["at"] > death.at:
        verdict.times[name] = max(verdict.times.get(name, 0.0), line["at"] - line["began"])
    if how == "ok":
        return
    text = f"{machine}: {name}: {how}: {line['text']}"
    if how in REPORTED and line["text"].strip() and name not in AGAIN:
        verdict.told.append(text)
    else:
        verdict.breaks("delay", text)
