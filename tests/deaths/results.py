"""What the runs came to, kept in results.json, and the page that is made of it: docs/deaths.md."""

import json
import os
import re
from pathlib import Path
from typing import Final

import msgspec

from tests.deaths.driver import STEPS
from tests.deaths.judge import ELSEWHERE_S, NOTICED_S, PROMISES

KEPT: Final = Path(__file__).with_name("results.json")
PAGE: Final = Path(__file__).resolve().parent.parent.parent / "docs" / "deaths.md"


class Run(msgspec.Struct):
    """One death. `times`: s; `broken`: promise -> what broke it; `busy`: percent of the host's cores while it was watched; `orphans`: how many senders ran
    on the machine; `whole_s`: from the first command of the person who put a new machine in its place until everything was as before."""

    number: int
    victim: str
    leader: bool
    locks: bool
    orphans: int
    wait_s: float
    busy: int
    times: dict[str, float]
    broken: dict[str, list[str]]
    told: list[str]
    whole_s: float = 0.0


class Book(msgspec.Struct):
    """All runs of one seed."""

    seed: int = 0
    runs: list[Run] = []

    def write(self) -> None:
        KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        PAGE.write_text(page(self))


def read() -> Book:
    return msgspec.json.decode(KEPT.read_bytes(), type=Book) if KEPT.exists() else Book()


HEAD: Final = """# Deaths of a machine

Made by `python -m tests.deaths`, of what is kept in tests/deaths/results.json. Do not edit it.

Three pseudo-machines (namespaces and loop-mounted disks; {cores} cores for all of them, the judge and whatever else the host does), a member of etcd on each
(`unios up --store etcd`). On each one programs start processes and wait for them, call a server (at most once, and idempotent), map over an executor, write into
the store and read back, and take turns at a lock; two processes send to a witness outside every 50 ms. At a drawn moment a drawn machine dies whole, the
first one included: all in it is killed at once, **and its disk is taken away**. What is judged lies outside of all machines. Then a new machine with an empty disk
takes its name (`unios leave --dead`, `unios join`), and when three members vote again the next run begins.

`python -m tests.deaths --runs 50` does all, in about 25 minutes, and needs root; `--seconds 280 --continue` a part of it, where the last one stopped.
`./test` plays two.

Where it was the founding machine, its disk had the authority's key (docs/security.md): the person who puts a new machine in its place puts the copy of that
key on one that lives. Without a copy the system goes on, but takes in nobody.

Not judged here: data that were synced to the file tree (there is none yet), the death of a service alone ([matrix.md](matrix.md)), and what a node costs that
does nothing.

"""


def page(book: Book) -> str:
    """Return the page."""
    runs = sorted(book.runs, key=lambda run: run.number)
    text = [HEAD.format(cores=os.cpu_count())]
    victims = ", ".join(f"{name} {sum(run.victim == name for run in runs)} times" for name in ("m1", "m2", "m3"))
    busy = [float(run.busy) for run in runs]
    text.append(f"Seed {book.seed}, {len(runs)} runs: {victims} ({sum(run.leader for run in runs)} of them with etcd's leader, ")
    text.append(
        f"{sum(run.locks for run in runs)} with the manager of the locks). While they were watched the cores were busy to {spread(busy, 0)} %"
    )
    text.append(" (p50 / p99 / max).\n\n## The promises\n\n| promise (design, section 9) | figure | kept in | broken in runs |\n|---|---|---|---|\n")
    for promise, (words, figure) in _WORDS.items():
        judged = [run for run in runs if promise != "elsewhere" or run.orphans or promise in run.broken]
        bad = [run.number for run in judged if promise in run.broken]
        text.append(f"| {words} | {figure} | {len(judged) - len(bad)} of {len(judged)} | {', '.join(map(str, bad)) or 'none'} |\n")
    text.append("\n## The times\n\nSeconds after the death, p50 / p99 / max; of several machines or processes of one run the last one counts.\n\n")
    text.append("| what | without the leader | with the leader | promised |\n|---|---|---|---|\n")
    for name, words, bounds in (
        ("noticed", "every machine says that the node is lost", NOTICED_S),
        ("elsewhere", "its processes have effects again", ELSEWHERE_S),
    ):
        text.append(f"| {words} | {of(runs, name, leader=False)} | {of(runs, name, leader=True)} | {bounds[0]}, {bounds[1]} |\n")
    text.append("\nThe longest that one step took on a machine that lived and met the death, likewise:\n\n| step | without | with |\n|---|---|---|\n")
    for name in STEPS:
        text.append(f"| {_STEPS[name]} | {of(runs, name, leader=False)} | {of(runs, name, leader=True)} |\n")
    whole = [run.whole_s for run in runs if run.whole_s]
    text.append(f"\nFrom `unios leave --dead` until the new machine had its place and three members voted: {spread(whole)} s.\n")
    text.append("\n## What broke\n\n" + ("".join(_broken(run) for run in runs) or "Nothing.\n"))
    told = sorted({sentence(line) for run in runs for line in run.told})
    text.append(
        "\n## What callers were told\n\nOf steps of which nobody promises that they are only delayed: a call that is made at most once, a write into the\n"
    )
    text.append("store that nobody repeats, a lock. " + (f"{sum(map(len, (run.told for run in runs)))} times in all:\n\n" if told else "Nothing.\n"))
    text += [f"- {line}\n" for line in told[:TOLD_MAX]]
    return "".join(text)


TOLD_MAX: Final = 20
_WORDS: Final = {
    "noticed": ("the loss is noticed, by all that live", f"<= {NOTICED_S[0]} s, with the leader <= {NOTICED_S[1]} s"),
    "elsewhere": ("its processes run elsewhere (where any of those that send ran there)", f"<= {ELSEWHERE_S[0]} s, <= {ELSEWHERE_S[1]} s"),
    "state": ("acknowledged control state is lost: keys, processes", "none"),
    "twice": ("effects of two incarnations are accepted; a call is done twice", "never"),
    "locks": ("two hold a lock at a time (section 8)", "never"),
    "delay": ("services are replaced; who asks again sees delay only", "always"),
}
_STEPS: Final = {
    "run": "start a process and wait for its end (0.2 s of it its own)",
    "once": "a call, at most once (0.1 s of it its own)",
    "add": "a call, idempotent",
    "map": "a map of an executor",
    "store": "a write into the store, read back",
    "lock": "take the lock and give it back",
}
assert tuple(_WORDS) == PROMISES


def of(runs: list[Run], name: str, *, leader: bool) -> str:
    return spread([run.times[name] for run in runs if run.leader is leader and name in run.times])


def spread(values: list[float], digits: int = 2) -> str:
    """Return p50, p99 and the largest."""
    if not values:
        return "-"
    ordered = sorted(values)
    ranks = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99))
    return " / ".join(f"{value:.{digits}f}" for value in (*ranks, ordered[-1]))


def _broken(run: Run) -> str:
    where = f"run {run.number} ({run.victim}{', leader' if run.leader else ''}{', locks' if run.locks else ''}, cores busy to {run.busy} %)"
    return "".join(
        f"- {where}, {promise}: {sentence(texts[0])}{f'; and {len(texts) - 1} more' if texts[1:] else ''}\n" for promise, texts in run.broken.items()
    )


def sentence(said: str) -> str:
    text = " ".join(said.split())
    text = re.sub(r"unios1\.\w+", "TOKEN", text)
    return text if len(text) <= 240 else text[:237] + "..."


def fields(run: Run) -> str:
    return json.dumps(msgspec.to_builtins(run))
