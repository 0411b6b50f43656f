"""Placement: on which node a process is tried, the best first. A policy is a function of that shape, chosen by name.

Whatever a policy answers is checked: an answer that is no permutation of the eligible nodes is put right, and said.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from unios.core.nodes import may_speak_for


class Candidate(NamedTuple):
    """A node that is ready. `running` counts live processes assigned to it."""

    name: str
    running: int
    cores: int
    users: tuple[str, ...]


Policy = Callable[[list[Candidate]], list[str]]


def least_loaded(candidates: list[Candidate]) -> list[str]:
    """Return the names by processes per core, then by processes, then by name."""
    ranked = sorted(candidates, key=lambda node: (node.running / max(1, node.cores), node.running, len(node.name), node.name))
    return [node.name for node in ranked]


POLICIES: Final[dict[str, Policy]] = {"least-loaded": least_loaded}
DEFAULT: Final = "least-loaded"


def eligible(candidates: Iterable[Candidate], user: str, pinned: str, tried: Iterable[str] = ()) -> list[Candidate]:
    """Return the candidates that may run a process of `user`, without those that were tried already."""
    out = set(tried)
    return [node for node in candidates if node.name not in out and (not pinned or node.name == pinned) and may_speak_for(node.users, user)]


def order(policy: Policy, candidates: list[Candidate]) -> tuple[list[str], str]:
    """Return the names in the policy's order, and what was wrong with its answer ("" for nothing). Never raises."""
    names = {node.name for node in candidates}
    try:
        answer = policy(list(candidates))
        if sorted(answer) == sorted(names):
            return list(answer), ""
        wrong = "it did not name each eligible node once"
    except Exception as error:  # noqa: BLE001 a policy may be anybody's; it must not stop a process from being placed
        wrong = f"it raised {type(error).__name__}: {error}"
    return least_loaded(candidates), f"the placement policy was passed over: {wrong}"
