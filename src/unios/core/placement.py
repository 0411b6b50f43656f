"""Placement: on which node a process is tried, the best first. A policy is a function of that shape, chosen by name.

Whatever a policy answers is checked: an answer that is no permutation of the eligible nodes is put right, and said. What a process wishes for itself
(a pin, forbidden nodes, `near` and `apart`) holds under every policy: pin and prohibition decide who is eligible; who repels it least, and then who
attracts it most, goes before what the policy says.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from unios.core.capacity import Books, Held
from unios.core.nodes import may_speak_for
from unios.core.processes import ProcessRecord


class Candidate(NamedTuple):
    """A node that is ready. `running` counts live processes assigned to it."""

    name: str
    running: int
    cores: int
    users: tuple[str, ...]
    machine: str = ""
    cpu_milli: int = 0
    """What is set aside there, in thousandths of a core."""
    memory_bytes: int = 0
    """The same of memory."""
    on_machine: int = 0
    """Live processes on all nodes of its machine."""
    recent: int = 0
    """Counts up with each choice of this observer: the highest was chosen last."""
    attracts: int = 0
    repels: int = 0


class PolicyFailed(Exception):
    """A policy could not be asked, or its answer is none: its text says why."""


Policy = Callable[[list[Candidate]], list[str]]


def least_loaded(candidates: list[Candidate]) -> list[str]:
    """Return the names by what is set aside per core, then by processes per core, then by processes, then by name."""
    return _names(candidates, lambda node: (node.cpu_milli / max(1, node.cores), node.running / max(1, node.cores), node.running))


def pack(candidates: list[Candidate]) -> list[str]:
    """Return the fullest first, so that whole nodes stay free for what needs many cores (best fit)."""
    return _names(candidates, lambda node: (node.cores * 1_000 - node.cpu_milli, -node.running))


def spread(candidates: list[Candidate]) -> list[str]:
    """Return the nodes of the machine with the fewest processes first: the loss of one machine shall cost few."""
    return _names(candidates, lambda node: (node.on_machine, node.running / max(1, node.cores)))


def most_recent_first(candidates: list[Candidate]) -> list[str]:
    """Return the node that was chosen last first: its caches are warm, the others may rest."""
    return _names(candidates, lambda node: (-node.recent, node.running / max(1, node.cores)))


def _names(candidates: list[Candidate], key: Callable[[Candidate], tuple[float, ...]]) -> list[str]:
    return [node.name for node in sorted(candidates, key=lambda node: (key(node), len(node.name), node.name))]


POLICIES: Final[dict[str, Policy]] = {
    "least-loaded": least_loaded,
    "pack": pack,
    "spread": spread,
    "most-recent-first": most_recent_first,
}
DEFAULT: Final = "least-loaded"


def eligible(candidates: Iterable[Candidate], user: str, pinned: str, tried: Iterable[str] = ()) -> list[Candidate]:
    """Return the candidates that may run a process of `user`, without those that were tried already."""
    out = set(tried)
    return [node for node in candidates if node.name not in out and (not pinned or node.name == pinned) and may_speak_for(node.users, user)]


def candidates(books: Books, names: Iterable[str], record: ProcessRecord, recent: dict[str, int]) -> list[Candidate]:
    """Return these nodes as candidates for a process."""
    chosen = list(names)
    machines: dict[str, int] = {}
    found = []
    for name in chosen:
        node = books.node(name)
        if node is None:
            continue
        if node.machine not in machines:
            machines[node.machine] = sum(
                books.running(other) for other in books.names() if (known := books.node(other)) and known.machine == node.machine
            )
        set_aside = books.set_aside(name)
        found.append(
            Candidate(
                name,
                books.running(name),
                node.cores,
                node.users,
                node.machine,
                set_aside.cpu_milli,
                set_aside.memory_bytes,
                machines[node.machine],
                recent.get(name, 0),
                _count(books, name, record.placing.near),
                _count(books, name, record.placing.apart),
            )
        )
    return found


def _count(books: Books, name: str, wanted: tuple[str, ...]) -> int:
    if not wanted:
        return 0

    def matches(pid: int, held: Held) -> bool:
        return str(pid) in wanted or (bool(held.label) and held.label in wanted)

    return books.count(name, matches)


def order(policy: Policy, candidates: list[Candidate]) -> tuple[list[str], str]:
    """Return the names in the policy's order, and what was wrong with its answer ("" for nothing). Never raises."""
    names = {node.name for node in candidates}
    try:
        answer, wrong = list(policy(list(candidates))), "it did not name each eligible node once"
        if sorted(answer) == sorted(names):
            wrong = ""
    except PolicyFailed as error:
        wrong = str(error)
    except Exception as error:  # noqa: BLE001 a policy may be anybody's; it must not stop a process from being placed
        wrong = f"it raised {type(error).__name__}: {error}"
    if wrong:
        answer, wrong = least_loaded(candidates), f"the placement policy was passed over: {wrong}"
    if any(node.attracts or node.repels for node in candidates):
        wishes = {node.name: (node.repels, -node.attracts) for node in candidates}
        answer = sorted(answer, key=wishes.__getitem__)
    return answer, wrong
