"""`unios man`: the manual page, by man(1) where it is, else as plain text. `unios help`: the short form, of all words or of one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from unios.errors import NotFound
from unios.shell.manual import plainly
from unios.shell.session import Session
from unios.shell.table import is_terminal
from unios.shell.words import COMMON, INDEX, Given, Misused, Word, find

_PLACES: Final = (Path(__file__).parents[1] / "unios.1", Path(__file__).parents[3] / "docs/man/unios.1")
"""In a wheel, and in the source."""


def man(session: Session, given: Given) -> int:
    path = next((place for place in _PLACES if place.exists()), None)
    if path is None:
        raise NotFound("the manual page is not installed; `unios help` says the most important")
    if session.json:
        session.print_json({"path": str(path)})
        return 0
    if shutil.which("man") and is_terminal():
        return subprocess.run(["man", "-l", os.fspath(path)], check=False).returncode
    session.print_table("\n".join(_rendered(path.read_text())))
    return 0


def _rendered(roff: str) -> Iterator[str]:
    """Yield the page as text: headings, and below them lines as they come."""
    for line in roff.split("\n"):
        command, _space, rest = line.partition(" ")
        if command == ".SH":
            yield from ("", plainly(rest).upper())
        elif command == ".SS":
            yield from ("", f"  {plainly(rest)}")
        elif command in (".TP", ".PP"):
            yield ""
        elif command == ".B":
            yield f"    {plainly(rest)}"
        elif not line.startswith("."):
            yield f"    {plainly(line)}"


def help_(session: Session, given: Given) -> int:
    from unios.shell import clicks

    word = given.arguments[0] if given.arguments else ""
    if word and word not in INDEX:
        raise Misused(f"there is no word {word!r}: `unios help` lists them")
    if session.json:
        session.print_json(described(word) if word else [{"word": name, "text": text} for name, (_module, text) in INDEX.items()])
    else:
        clicks.read([word, "--help"] if word else ["--help"])
    return 0


def described(name: str) -> dict[str, object]:
    """Return what a word takes, as JSON shows it."""
    word = find(name)
    assert word is not None
    options = [
        {"names": option.names, "value": option.metavar or "|".join(option.choices), "many": option.many, "text": option.text}
        for option in (*word.options, *COMMON)
    ]
    return {"word": name, "argument": word.argument, "text": word.text, "options": options}


WORDS = {
    "man": Word(man, text="Show the manual page: all words, options, exit codes and examples."),
    "help": Word(help_, argument="[WORD]", one=True, text="Show what words there are, or what one takes."),
}
