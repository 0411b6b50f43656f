"""Exhaustion: what to say of a tree in which Linux has killed for want of memory. Decides only; light, since every init imports it.

| the program itself was killed | kills in its groups | what is said |
|---|---|---|
| yes | some | out of memory, with what it had used and what it had asked for |
| yes | none, but elsewhere on the machine | that it may have been that: without a group nobody can know |
| no | some | that processes of its tree were killed, with the same figures |
| yes or no | none | nothing |
"""

from typing import NamedTuple


class Evidence(NamedTuple):
    """`kills`, `peak_bytes`: by the tree's groups, -1 if nobody counts them. `machine_kills`: on the whole machine while the tree was there."""

    killed: bool
    kills: int
    peak_bytes: int
    limit_bytes: int
    machine_kills: int


def sentence(seen: Evidence) -> str:
    """Return what to say, "" for nothing."""
    if seen.kills > 0 and seen.killed:
        return f"out of memory: {_figures(seen)} (killed by Linux)"
    if seen.kills > 0:
        many = "a process" if seen.kills == 1 else f"{seen.kills} processes"
        return f"out of memory: Linux killed {many} of its tree, not its program; {_figures(seen)}"
    if seen.kills < 0 and seen.killed and seen.machine_kills > 0:
        return "perhaps out of memory: it was killed while Linux ended processes for want of memory; nobody counts its own here"
    return ""


def _figures(seen: Evidence) -> str:
    used = f"it had used {size(seen.peak_bytes)}" if seen.peak_bytes > 0 else "nobody counted what it used"
    if seen.limit_bytes:
        return f"{used} of the {size(seen.limit_bytes)} that it asked for"
    return f"{used}, and the machine had no more"


def size(number: int) -> str:
    """Return a number of bytes as people write it."""
    value, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if value >= 100 or value == int(value) else f"{value:.1f} {units[0]}"
