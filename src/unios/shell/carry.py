"""`unios run --carry` and `unios results`: a folder goes along with a program, and what it made of it comes back.

What is asked for is checked before anything is sent. Progress is shown on terminals only, and only of what takes longer than a second.
"""

import os
import time
from typing import Any

import msgspec

from unios.client import processes
from unios.counted import counted
from unios.demands import CARRY, Carry
from unios.errors import CallerError
from unios.limits import CARRY_BYTES_DEFAULT, NAMED_PATHS_MAX
from unios.shell.session import Session, shown, write
from unios.shell.signals import pid_of
from unios.shell.words import Given, Misused, Option, Word
from unios.wire.operations import Program

UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
SHOWN_MAX = 20

OPTIONS = (
    Option("carry", "--carry", metavar="DIR[:NAME]", many=True, text="Take this folder along; it runs in a copy of it. NAME: as this folder in it."),
    Option("result", "--result", metavar="PATTERN", many=True, text="Bring back what matches and has changed, as in 'out/*.csv'."),
    Option("result_all", "--result-all", text="Bring back all that has changed or is new."),
    Option("exclude", "--exclude", metavar="PATTERN", many=True, text="Do not take along what matches."),
    Option("carry_max", "--carry-max", metavar="SIZE", text="The most bytes to take along, as in 10G [default: 2G]."),
    Option("carry_anyway", "--carry-anyway", text="Even if it is / or a home folder."),
)


class Meter:
    """A line on the terminal that says how far it is, from the second second on."""

    def __init__(self, session: Session, what: str) -> None:
        self._what = what
        self._shows = not session.json and os.isatty(2)
        self._begun = self._last = time.monotonic()
        self._files = self._bytes = self._sent = 0

    def read(self, files: int, size: int) -> None:
        self._files, self._bytes = self._files + files, self._bytes + size
        self._tell()

    def sent(self, size: int) -> None:
        self._sent += size
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if self._shows and now - self._begun > 1.0 and now - self._last > 0.2:
            self._last = now
            sent = f", {amount(self._sent)} over the wire" if self._sent else ""
            write(2, f"\r\x1b[Kunios: {self._what}: {counted(self._files, 'file')}, {amount(self._bytes)}{sent}".encode())

    def end(self) -> None:
        if self._last != self._begun:
            write(2, b"\r\x1b[K")


def amount(size: float) -> str:
    """Return a number of bytes for a person."""
    if size < 1024:
        return counted(round(size), "byte")
    size /= 1024
    for unit in ("KiB", "MiB"):
        if size < 1024:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def take(session: Session, given: Given, wanted: Program) -> Program:
    """Return the program with what it takes along, which is in the system then; without --carry only with the files that it names."""
    check(given)
    places = [_place(text, anyway=given.flag("carry_anyway")) for text in given.many("carry")]
    named = _named(wanted, [path for _name, path in places])
    if not places:
        return msgspec.structs.replace(wanted, carry=Carry(named=named)) if named else wanted
    from unios.client import carry

    meter = Meter(session, "carrying")
    packed = carry.pack(
        session.connection,
        [carry.Folder(*place) for place in places],
        exclude=tuple(map(os.fsencode, given.many("exclude"))),
        bytes_max=_size(given.text("carry_max")) if given.text("carry_max") else CARRY_BYTES_DEFAULT,
        user=wanted.user,
        prefer=wanted.node,
        read=meter.read,
        sent=meter.sent,
    )
    meter.end()
    if session.json:
        fields = {"files": packed.files, "bytes": packed.bytes, "sent": packed.sent, "nodes": sorted(packed.nodes), "warnings": packed.warnings}
        write(2, msgspec.json.encode({"carried": fields}) + b"\n")
    else:
        for warning in packed.warnings[:SHOWN_MAX]:
            session.note(warning)
        for word in wanted.argv[1:]:
            if any(_inside(word, path) is not None for _name, path in places if word.startswith(b"/")):
                session.note(f"{shown(word)} is inside of what is carried, which lies elsewhere there: name it relative to the folder")
    results = tuple(map(os.fsencode, given.many("result")))
    inside, cwd = _mapped(wanted.cwd, places)
    if not inside and given.text("cwd"):
        raise Misused(f"--cwd {given.text('cwd')} is not inside of what is carried")
    return msgspec.structs.replace(wanted, carry=Carry(packed.manifest, cwd, results, given.flag("result_all"), tuple(places), named))


def check(given: Given) -> None:
    """Raise Misused for options that need --carry."""
    if not given.many("carry"):
        for key, name in (("result", "--result"), ("result_all", "--result-all"), ("exclude", "--exclude"), ("carry_max", "--carry-max")):
            if given.values.get(key):
                raise Misused(f"{name} is about a folder that is taken along: give --carry DIR too")
    names = [text for text in given.many("carry") if not _split(text)[1]]
    if len(names) > 1:
        raise Misused(f"only one folder can be the working folder itself: write {names[1]}:NAME")


def _split(text: str) -> tuple[str, str]:
    """Return the folder and its name there."""
    if os.path.isdir(text):
        return text, ""
    path, _colon, name = text.rpartition(":")
    return (path, name) if path and os.path.isdir(path) else (text, "")


def _place(text: str, *, anyway: bool) -> tuple[bytes, bytes]:
    """Return (name there, absolute path here). Raises Misused."""
    path, name = _split(text)
    if name in (".", "..") or "/" in name:
        raise Misused(f"--carry {text}: after the colon comes a plain name")
    whole = os.path.realpath(path)
    if not os.path.isdir(whole):
        raise Misused(f"--carry {text}: there is no such folder")
    homes = {os.path.realpath(os.path.expanduser("~")), os.path.realpath(os.environ.get("HOME") or "/"), "/", "/home", "/root"}
    if whole in homes and not anyway:
        raise Misused(f"--carry {text}: that is all of {whole}; name the folder that is needed, or add --carry-anyway")
    return os.fsencode(name), os.fsencode(whole)


def _inside(path: bytes, folder: bytes) -> bytes | None:
    """Return the path relative to the folder, None if it is not inside of it."""
    whole = os.path.realpath(path)
    if whole == folder:
        return b""
    return whole[len(folder) + 1 :] if whole.startswith(folder.rstrip(b"/") + b"/") else None


def _mapped(cwd: bytes, places: list[tuple[bytes, bytes]]) -> tuple[bool, bytes]:
    """Return whether cwd is inside of what is carried, and where it starts there."""
    for name, path in places:
        inside = _inside(cwd, path)
        if inside is not None:
            return True, b"/".join(part for part in (name, inside) if part)
    return False, b""


def _named(wanted: Program, carried: list[bytes]) -> tuple[bytes, ...]:
    """Return the files outside of what is carried that the arguments name and that are here."""
    found: list[bytes] = []
    for word in wanted.argv[1:]:
        if len(found) < NAMED_PATHS_MAX and 0 < len(word) < 4_096 and b"\0" not in word:
            path = os.path.join(wanted.cwd, word)
            if os.path.lexists(path) and (b"/" in word or os.path.isfile(path)) and not any(_inside(path, one) is not None for one in carried):
                found.append(os.path.normpath(path))
    return tuple(found)


def _size(text: str) -> int:
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "")
    if unit not in UNITS or not (number.isascii() and number.isdigit() and len(number) < 10):
        raise Misused(f"--carry-max {text}: write a number of bytes, or one with K, M, G or T")
    return int(number) * UNITS[unit]


# bringing back


def give(session: Session, wanted: Program, pid: int) -> None:
    """Bring the results of a program that has ended back to where it was carried from, and say what came. Raises why they do not."""
    if wanted.carry.results or wanted.carry.every:
        _bring(session, pid, list(wanted.carry.folders))


def give_if_ended(session: Session, wanted: Program, pid: int) -> None:
    """The same, where the program may go on: it was only detached from."""
    if wanted.carry.manifest and processes.view(session.connection, pid).state in processes.ENDED:
        give(session, wanted, pid)


def _bring(session: Session, pid: int, places: list[tuple[bytes, bytes]], *, loud: bool = False) -> None:
    from unios.client import results
    from unios.client.carry import Folder

    found = results.ask(session.connection, pid)
    if found.reason and loud and not session.json:
        session.note(found.reason)
    if not found.results:
        if "could not be collected" in found.reason:
            raise CallerError(found.reason)
        if session.json:
            _tell_json(session, results.Brought([], [], [], 0, 0), loud=loud)
        elif os.isatty(2) or loud:
            session.note("nothing of what was asked for has changed")
        return
    meter = Meter(session, "bringing back")
    brought = results.bring(session.connection, pid, [Folder(*place) for place in places], found, lambda size: meter.read(1, size))
    meter.end()
    if session.json:
        _tell_json(session, brought, loud=loud)
        return
    for path, instead in brought.beside[:SHOWN_MAX]:
        session.note(f"{shown(path)} was changed here meanwhile: the result is in {shown(instead)}")
    for path in brought.homeless[:SHOWN_MAX]:
        session.note(f"{shown(path)} is in none of the carried folders: get it with `unios results {pid} DIR`")
    if os.isatty(2) or loud:
        session.note(f"{counted(len(brought.written), 'result')}, {amount(brought.bytes)}")


def _tell_json(session: Session, brought: Any, *, loud: bool) -> None:
    """Say it on stdout for `results`; on stderr beside a program's own output."""
    fields = {
        "written": [shown(path) for path in brought.written],
        "beside": [{"path": shown(path), "result": shown(instead)} for path, instead in brought.beside],
        "homeless": [shown(path) for path in brought.homeless],
        "same": brought.same,
        "bytes": brought.bytes,
    }
    if loud:
        session.print_json(fields)
    else:
        write(2, msgspec.json.encode({"results": fields}) + b"\n")


def results_word(session: Session, given: Given) -> int:
    """Bring back what a process has made, into DIR or to where it was carried from."""
    if not 1 <= len(given.arguments) <= 2:
        raise Misused("more than one folder was named: write `unios results PID [DIR]`")
    pid = pid_of(given.arguments[0])
    from unios.client import results

    found = results.ask(session.connection, pid)
    if found.carry == CARRY:
        raise CallerError(f"process {pid} took no folder along")
    if not found.carry.results and not found.carry.every:
        raise CallerError(f"process {pid} was to bring nothing back: it was run without --result and --result-all")
    if found.state not in processes.ENDED:
        raise CallerError(f"process {pid} has not ended: results are collected at its end (`unios wait {pid}`)")
    places = list(found.carry.folders)
    if len(given.arguments) == 2:
        folder = os.path.abspath(os.fsencode(given.arguments[1]))
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise Misused(f"{shown(folder)} is no folder that results can go to: {os.strerror(error.errno or 0)}") from error
        places = [(b"", folder)]
    for _name, path in places:
        if not os.path.isdir(path):
            raise CallerError(f"{shown(path)} is not here: say where the results go, unios results {pid} DIR")
    _bring(session, pid, places, loud=True)
    return 0


WORDS = {
    "results": Word(
        results_word,
        argument="PID [DIR]",
        least=1,
        text="Bring back what a process made of the folder that it took along, into DIR or to where the folder came from.",
    )
}
