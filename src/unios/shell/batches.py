"""`unios run --array` and `--batch`: many processes at once, which queue."""

import os
import shlex

import msgspec

from unios.client import queue
from unios.counted import counted, is_or_are
from unios.shell import demands
from unios.shell.session import Session
from unios.shell.words import Given, Misused
from unios.wire.operations import Program
from unios.wire.queueing import Element


def run(session: Session, given: Given, wanted: Program) -> int:
    """Submit them, print their pids, an array's first only, and leave them to the queue."""
    many, array = elements(given), bool(given.text("array"))
    base = wanted if wanted.argv else msgspec.structs.replace(wanted, argv=many[0].argv)
    pids: list[int] = []
    try:
        for done in queue.submit_many(session.connection, base, many, array=array):
            pids += done.pids
    finally:
        if session.json:
            session.print_json({"pids": pids, "array": pids[0] if array and pids else 0})
        elif pids:
            session.print_table(str(pids[0]) if array else "\n".join(map(str, pids)))
    if not session.json and not given.flag("quiet"):
        session.note(f"{counted(len(pids), 'process', several='processes')} {is_or_are(len(pids))} queued; `unios queue` shows who waits")
    return 0


def elements(given: Given) -> list[Element]:
    """Return what --array or --batch asks for; Misused if they make no sense."""
    array, batch = given.text("array"), given.text("batch")
    if array and batch:
        raise Misused("--array runs one program many times, --batch runs many: give one of them")
    if given.flag("stdin"):
        raise Misused("many processes cannot share one stdin: leave out -i")
    if array:
        if not given.arguments:
            raise Misused("--array: no program was named")
        first, last, _limit = demands.array(given)
        return [Element(index=index) for index in range(first, last + 1)]
    prefix = tuple(os.fsencode(argument) for argument in given.arguments)
    lines = [(*prefix, *line) for line in _lines(batch)]
    if not lines:
        raise Misused(f"--batch {batch}: there is no command line in it")
    return [Element(line) for line in lines]


def _lines(path: str) -> list[tuple[bytes, ...]]:
    """Return the command lines of a file, split as a shell splits words; nothing is expanded. `-`: stdin."""
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            lines = file.read().decode("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise Misused(f"--batch {path}: {os.strerror(error.errno or 0)}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise Misused(f"--batch {path}, line {number}: {error}") from error
        if words:
            found.append(tuple(os.fsencode(word) for word in words))
    return found
