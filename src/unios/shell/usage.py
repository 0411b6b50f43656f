"""`unios usage`: what each user's processes have used and use, of the whole system."""

from collections import Counter

from unios.client import nodes, processes
from unios.errors import NotFound, UniosError
from unios.shell.session import Session
from unios.shell.table import table
from unios.shell.words import Given, Word
from unios.wire.operations import NodeUsage, UserUsage

HEAD = ("USER", "LIVE", "ENDED", "CPU", "MEMORY", "LARGEST")


def usage(session: Session, given: Given) -> int:
    ended = {one.user: one for one in processes.usage(session.connection)}
    live, cpu, memory = Counter[str](), Counter[str](), Counter[str]()
    for seen in of_nodes(session):
        for process in seen.processes:
            live[process.user] += 1
            cpu[process.user] += process.cpu_ms
            memory[process.user] += process.memory_bytes
    wanted = given.arguments[0] if given.arguments else ""
    names = [name for name in sorted({*ended, *live}) if wanted in ("", name)]
    if wanted and not names:
        raise NotFound(f"no process of {wanted} is known")
    rows = []
    for name in names:
        past = ended.get(name, UserUsage(name))
        rows.append((name, live[name], past.processes, past.cpu_ms + cpu[name], memory[name], past.memory_peak_bytes))
    if session.json:
        fields = ("user", "live", "ended", "cpu_ms", "memory_bytes", "memory_peak_bytes")
        session.print_json([dict(zip(fields, row, strict=True)) for row in rows])
    else:
        session.print_table(table(HEAD, [(*row[:3], seconds(row[3]), size(row[4]), size(row[5])) for row in rows]))
    return 0


def of_nodes(session: Session) -> list[NodeUsage]:
    """Return what uses what now; a node that does not answer is said and left out."""
    found = []
    for view in nodes.list_nodes(session.connection):
        if view.state == "ready":
            try:
                found.append(nodes.usage(session.connection, view.name))
            except UniosError as error:
                session.note(f"without what runs on {view.name} now: {error}")
    return found


def seconds(ms: int) -> str:
    """Return processor time as people write it: 0.3s, 12s, 3m20s, 2h05m."""
    whole = ms // 1_000
    if whole < 60:
        return f"{ms / 1_000:.1f}s" if whole < 10 else f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3_600 else f"{whole // 3_600}h{whole // 60 % 60:02d}m"


def size(number: int) -> str:
    """Return a number of bytes as people write it, "-" for none."""
    value, units = float(number), ["B", "K", "M", "G", "T"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f}{units[0]}" if 0 < value < 10 and units[0] != "B" else f"{value:.0f}{units[0]}" if number else "-"


WORDS = {
    "usage": Word(
        usage,
        argument="[USER]",
        one=True,
        text="Show what each user's processes have used: processor time of all that ever ran, memory now and of the largest one.",
    )
}
