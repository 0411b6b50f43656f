"""`unios logs`: what a process has written, kept within a bound; with -f on and on, over kernels' deaths and nodes' losses."""

import time
from collections.abc import Iterable, Iterator

from unios.client import processes
from unios.client.offsets import offsets_since
from unios.client.output import Anew, follow, read
from unios.errors import Unavailable
from unios.shell import moments
from unios.shell.run import show
from unios.shell.session import Session, shown
from unios.shell.signals import pid_of
from unios.shell.words import Given, Misused, Option, Word
from unios.wire.operations import Chunk, ProcessView


def logs(session: Session, given: Given) -> int:
    if given.flag("out") and given.flag("err"):
        raise Misused("--stdout and --stderr each mean only that one: leave both out for both")
    wanted = {"out"} if given.flag("out") else {"err"} if given.flag("err") else {"out", "err"}
    pid = pid_of(given.arguments[0])
    since_ms = moments.since(given.text("since"), time.time_ns() // 1_000_000) if given.text("since") else 0
    places = {"out": 0, "err": 0}
    view = processes.view(session.connection, pid)
    incarnation = _incarnation(given, view)
    if not view.node and not incarnation and (view.state in processes.ENDED or not given.flag("follow")):
        if not session.json:
            session.note(f"there is no output of {pid}{'' if view.state in processes.ENDED else ' yet'}: {view.reason}")
        return 0
    if since_ms:
        places = offsets_since(session.connection, pid, since_ms)
    if "tail" in given.values:
        chunks = list(_kept(view, read(session.connection, pid, incarnation=incarnation, **places)))
        for chunk in chunks:
            places[chunk.stream] = chunk.offset + len(chunk.data)
        _show(session, tail([chunk for chunk in chunks if chunk.stream in wanted], given.number("tail")))
        if not given.flag("follow"):
            return 0
    said: Iterable[Chunk | Anew] = _kept(view, read(session.connection, pid, incarnation=incarnation, **places))
    if given.flag("follow"):
        said = follow(session.connection, pid, view=view, out=places["out"], err=places["err"])
    _show(session, (part for part in said if isinstance(part, Anew) or part.stream in wanted))
    return 0


def _incarnation(given: Given, view: ProcessView) -> int:
    """Return which one's output is wanted, 0 for the present one's. Misused if there was none such, or it is not to be had as asked."""
    wanted = given.number("incarnation")
    if "incarnation" not in given.values or wanted == view.incarnation:
        return 0
    if not 1 <= wanted < view.incarnation:
        raise Misused(f"--incarnation {wanted}: {view.pid} is at incarnation {view.incarnation}")
    if given.flag("follow") or given.text("since"):
        raise Misused("--incarnation of one that is over goes neither with -f nor with --since")
    return wanted


def _kept(view: ProcessView, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks; Unavailable says where they are kept."""
    try:
        yield from chunks
    except Unavailable as error:
        raise Unavailable(f"the output of {view.pid} is kept on {view.node or 'no node'}, which does not answer: {error}") from error


def tail(chunks: list[Chunk], lines: int) -> Iterator[Chunk]:
    """Yield the chunks that hold the last `lines` lines of each stream, the first of them cut; order is kept."""
    skip = {stream: _start(b"".join(chunk.data for chunk in chunks if chunk.stream == stream), lines) for stream in ("out", "err")}
    for chunk in chunks:
        cut = min(skip[chunk.stream], len(chunk.data))
        skip[chunk.stream] -= cut
        if cut < len(chunk.data):
            yield Chunk(chunk.stream, chunk.incarnation, chunk.offset + cut, chunk.data[cut:])


def _start(data: bytes, lines: int) -> int:
    """Return where the last `lines` lines begin; a last one without its newline counts too."""
    if not lines:
        return len(data)
    at = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return 0
    return at + 1


def _show(session: Session, said: Iterable[Chunk | Anew]) -> None:
    for part in said:
        if isinstance(part, Anew):
            session.note(str(part))
        elif session.json:
            session.print_json(
                {
                    "stream": part.stream,
                    "incarnation": part.incarnation,
                    "offset": part.offset,
                    "lost": part.lost,
                    "text": shown(part.data),
                }
            )
        else:
            show(session, part)


WORDS = {
    "logs": Word(
        logs,
        Option("follow", "-f", "--follow", text="Go on until the process has ended."),
        Option("out", "--stdout", text="Only what it wrote to stdout."),
        Option("err", "--stderr", text="Only what it wrote to stderr."),
        Option("since", "--since", metavar="TIME", text="Only what it wrote since then: 10m or 1h30m (ago), 14:30, 2026-11-24T14:30."),
        Option("incarnation", "--incarnation", metavar="N", number=True, text="What its Nth start has written [default: the last]."),
        Option("tail", "-n", "--tail", metavar="LINES", number=True, text="Only the last so many lines of each."),
        argument="PID",
        least=1,
        one=True,
        text="Show what a process has written: its stdout to stdout, its stderr to stderr.",
    )
}
