"""Policies: which of the nodes that have room a process gets, by the policy that it or the system names; and why, in a sentence.

The shipped policies are functions in this process. Every other name is a foreign one, of the entry point group `unios.placement`; it is asked in a
process of its own (services/foreign.py), with a deadline. One that fails is not asked again: the default stands in until the policy is set anew. Nor is one
that killed its service again and again (services/policy_deaths.py).
"""

from collections.abc import Callable, Iterable

from unios.core import placement
from unios.core.capacity import Books
from unios.core.placement import Candidate
from unios.core.processes import ProcessRecord
from unios.core.rules import PolicyRule
from unios.counted import counted
from unios.limits import FAILED_MAX, FOREIGN_MAX
from unios.services.foreign import Foreign
from unios.services.policy_deaths import PolicyDeaths

OnFailure = Callable[[str, str], None]
"""The policy's name, and what it did."""


class Policies:
    """Those of one service. `on_failure` is told once of each foreign policy that failed. `deaths` are its own from then on."""

    def __init__(self, books: Books, on_failure: OnFailure = lambda _name, _why: None, deaths: PolicyDeaths | None = None) -> None:
        self._books, self._deaths = books, deaths or PolicyDeaths(None, "", lambda: 0)
        self._on_failure = on_failure
        self._rule = PolicyRule(placement.DEFAULT)
        self._foreign: dict[str, Foreign] = {}
        self._failed: dict[str, None] = {}
        """In the order in which they failed."""
        self._recent: dict[str, int] = {}
        self._choices = 0

    def set(self, rule: PolicyRule | None) -> None:
        """That is the system's policy from now on."""
        self._rule = rule or PolicyRule(placement.DEFAULT)
        self._failed.pop(self._rule.name, None)
        if self._rule.replaced:
            self._failed[self._rule.name] = None
        for name in [name for name in self._foreign if name != self._rule.name or name in self._failed]:
            self._end(name)
        self._deaths.set(self._rule.name, self._rule.set_ms)
        if self._rule.name not in placement.POLICIES and self._rule.name not in self._failed:
            self._start(self._rule.name)

    def choose(self, record: ProcessRecord, names: Iterable[str]) -> tuple[str, str]:
        """Return the node of `names` that a process gets, and why; ("", "") if there is none. Never raises."""
        found = placement.candidates(self._books, names, record, self._recent)
        if not found:
            return "", ""
        ordered, why = self.order(record, found)
        node = next(candidate for candidate in found if candidate.name == ordered[0])
        self._choices += 1
        self._recent[node.name] = self._choices
        return node.name, f"{why}; {_stands(node)}"

    def order(self, record: ProcessRecord, found: list[Candidate]) -> tuple[list[str], str]:
        """Return the names of the candidates, the best first, and by what."""
        name = record.placing.policy or self._rule.name
        policy = placement.POLICIES.get(name) or self._foreign_policy(name)
        if policy is None:
            names, _wrong = placement.order(placement.POLICIES[placement.DEFAULT], found)
            return names, _by(record, f"{placement.DEFAULT}, since {name} cannot be had")
        names, wrong = placement.order(policy, found)
        if wrong and name not in placement.POLICIES:
            self._fail(name, wrong.partition("passed over: ")[2] or wrong)
        return names, _by(record, f"{placement.DEFAULT}, since {wrong}" if wrong else name)

    def _foreign_policy(self, name: str) -> placement.Policy | None:
        if name in self._failed or not (name in self._foreign or self._makes_room(name)):
            return None
        foreign = self._foreign.get(name) or self._start(name)
        if foreign is None or not foreign.is_ready():
            return None

        def ask(found: list[Candidate]) -> list[str]:
            with self._deaths.asked(name):
                return foreign.ask(found)

        return ask

    def _makes_room(self, name: str) -> bool:
        """Return whether one more may have a process: anybody may name any policy. At the bound one that has ended gives way; the system's own always may."""
        if name == self._rule.name or len(self._foreign) < FOREIGN_MAX:
            return True
        for other, foreign in list(self._foreign.items()):
            if foreign.has_ended():
                self._fail(other, "its process has ended")
                return True
        return False

    def _start(self, name: str) -> Foreign | None:
        """Give it a process; None if it has killed too many services."""
        guilt = self._deaths.guilt(name)
        if guilt:
            self._fail(name, guilt)
            return None
        if name not in self._foreign:
            self._deaths.begins(name, self._rule.set_ms if name == self._rule.name else 0)
            self._foreign[name] = Foreign(name, lambda why: self._fail(name, why), lambda: self._deaths.loaded(name))
        return self._foreign[name]

    def _end(self, name: str) -> None:
        foreign = self._foreign.pop(name, None)
        if foreign is not None:
            foreign.close()
            self._deaths.ends(name)

    def _fail(self, name: str, why: str) -> None:
        self._end(name)
        if name not in self._failed:
            self._failed[name] = None
            if len(self._failed) > FAILED_MAX:
                del self._failed[next(iter(self._failed))]
            self._on_failure(name, why)

    def close(self) -> None:
        """End the processes of foreign policies."""
        for name in list(self._foreign):
            self._end(name)
        self._deaths.close()


def _by(record: ProcessRecord, policy: str) -> str:
    if record.pinned:
        return "its user said so (--on)"
    wishes = [word for word, names in (("near", record.placing.near), ("apart from", record.placing.apart)) if names]
    return f"policy {policy}" + (f", {' and '.join(wishes)} what it named" if wishes else "")


def _stands(node: Candidate) -> str:
    cores = f"{node.cpu_milli / 1_000:g} of {counted(node.cores, 'core')} {'was' if node.cores == 1 else 'were'} set aside on {node.name}"
    near = f", {node.attracts} that attract it are there" if node.attracts else ""
    apart = f", {node.repels} that repel it are there" if node.repels else ""
    return f"{cores}, which ran {node.running}{near}{apart}"
