"""The manual: unios.1 made from the declared words, text of its own and the examples. Pure and deterministic: the same words make the same page.

Roff as man(7) has it. A word that is added is in the page by its declaration; an example by docs/man/examples.txt.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from unios.shell.words import COMMON, INDEX, Option, Word, find, groups

_HEAD: Final = """unios makes a handful of Linux machines behave as one computer: one process table, one name space, and processes that keep their pid when their
machine dies and go on elsewhere. Each machine runs one node (for trying out: several), and every command works the same from every node.

Words and options that are not in doubt may be written in any order before the arguments; after the program of `unios run` all is the program's."""
_STATES: Final = (
    ("pending", "recorded, not started: its turn or a place has not come, and `unios ps` says why"),
    ("running", "its program has been executed"),
    ("frozen", "its user stopped it where it stands"),
    ("exited", "its program has ended, with the exit code that is shown"),
    ("failed", "it could not be started anywhere"),
    ("lost", "it was lost with its node, and its policy does not start it again"),
)
_CODES: Final = (
    ("0", "done; of `run` and `wait`: the program ended with 0; of `status`: all is well"),
    ("1", "what was named is not there, or cannot be done; of `status`: something needs a person"),
    ("2", "what was typed makes no sense, or names a node that there is not, or of `run` anything that there is not; nothing was done"),
    ("75", "not now: nothing was done, and it may be tried again"),
    ("76", "nobody knows whether it was done"),
    ("77", "you have no right to it"),
    ("70, 74", "a defect of unios; records that are damaged"),
    ("125, 126, 127", "of `run`: unios failed; the program cannot be executed; no node has it"),
    ("128 + n", "of `run` and `wait`: signal n ended the program"),
    ("130, 141", "interrupted; whoever read the output is gone"),
)
_FILES: Final = (
    ("~/.unios", "the system's folder on this machine; UNIOS_HOME and --home name another, which is another system"),
    ("~/.unios/nodes/NAME/log", "what the parts of a node said"),
)
_VARIABLES: Final = (
    ("UNIOS_HOME", "the system's folder"),
    ("UNIOS_NODE", "the node to talk through, if it is of this machine; set for programs of the system, as are UNIOS_PID and UNIOS_INCARNATION"),
    ("NO_COLOR", "if it is set, nothing is coloured; colours are for terminals only anyhow"),
)


class Example(NamedTuple):
    """`text` stands before it, for the reader. `output`: lines, in which ... stands for anything."""

    text: str
    command: str
    output: tuple[str, ...]


def page(examples: list[Example], version: str) -> str:
    """Return the page as roff."""
    return "\n".join(_page(examples, version)) + "\n"


def _page(examples: list[Example], version: str) -> Iterator[str]:
    yield '.\\" Made by scripts/make_man.py of the declared words and docs/man/examples.txt: change those, not this.'
    yield f'.TH UNIOS 1 "" "unios {version}" "unios"'
    yield from (".SH NAME", "unios \\- a handful of Linux machines that behave as one computer")
    yield from (".SH SYNOPSIS", ".B unios", "[\\fIOPTION\\fR]... \\fIWORD\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...")
    yield ".SH DESCRIPTION"
    for at, part in enumerate(_HEAD.split("\n\n")):
        yield from ([".PP"] if at else []) + [_text(part.replace("\n", " "))]
    yield ".SH OPTIONS"
    for option in COMMON:
        yield from _option(option)
    for title, names in groups():
        yield f".SH {_text(title.upper())}"
        for name in names:
            word = find(name)
            if word is not None:
                yield from _word(name, word)
    yield from (".SH STATES OF A PROCESS", *_listed(_STATES))
    yield from (".SH EXIT STATUS", *_listed(_CODES))
    yield from (".SH ENVIRONMENT", *_listed(_VARIABLES))
    yield from (".SH FILES", *_listed(_FILES))
    yield from (".SH EXAMPLES", *_examples(examples))
    yield from (".SH SEE ALSO", _text("The folder docs/ of the source: processes.md, seeing.md, security.md, store.md, kernel.md."))


def _word(name: str, word: Word) -> Iterator[str]:
    argument = f" \\fI{_text(word.argument)}\\fR" if word.argument else ""
    yield f".SS unios {_text(name)}{' [OPTION]...' if word.options else ''}{argument}"
    yield _text(word.text or INDEX[name][1])
    for option in word.options:
        yield from _option(option)


def _option(option: Option) -> Iterator[str]:
    value = "|".join(option.choices) or option.metavar
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in option.names)
    shown = f" \\fI{_text(value)}\\fR" if value else ""
    yield from (".TP", f"{names}{shown}", _text(option.text + (" May be given again." if option.many else "")))


def _listed(pairs: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for name, text in pairs:
        yield from (".TP", f"\\fB{_text(name)}\\fR", _text(text))


def _examples(examples: list[Example]) -> Iterator[str]:
    for example in examples:
        if example.text:
            yield from (".PP", _text(example.text))
        first, *more = example.command.split("\n")
        lines = [f"$ {first}", *(f"> {line}" for line in more), *example.output]
        yield from (".PP", ".in +4n", ".EX", *(_text(line) for line in lines), ".EE", ".in")


def _text(text: str) -> str:
    """Return text as roff: nothing in it is obeyed, and hyphens can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def plainly(text: str) -> str:
    """Undo `_text`, and drop the changes of font."""
    for roff, plain in (("\\&", ""), ("\\(aq", "'"), ("\\(ga", "`"), ("\\(ha", "^"), ("\\(ti", "~"), ("\\-", "-")):
        text = text.replace(roff, plain)
    return re.sub(r"\\f[BIR]", "", text).replace("\\e", "\\")


def read_page(roff: str) -> list[Example]:
    """Return the examples of a page."""
    lines = roff.partition(".SH EXAMPLES\n")[2].partition("\n.SH ")[0].split("\n")
    found: list[Example] = []
    text, inside = "", False
    block: list[str] = []
    for line in lines:
        if line in (".EX", ".EE"):
            inside = line == ".EX"
            if not inside:
                found += read("\n".join([f"% {text}", *block] if text else block))
                text, block = "", []
        elif inside:
            block.append(plainly(line))
        elif not line.startswith("."):
            text = plainly(line)
    return found


def read(source: str) -> list[Example]:
    """Return the examples as docs/man/examples.txt writes them. ValueError says what is wrong with a line."""
    found: list[Example] = []
    text, fresh = "", True
    for number, line in enumerate(source.split("\n"), 1):
        if line.startswith("# ") or (not line and fresh):
            continue
        if line.startswith("% "):
            text, fresh = line[2:], True
        elif line.startswith("$ "):
            found.append(Example(text, line[2:], ()))
            text, fresh = "", False
        elif not line:
            fresh = True
        elif fresh:
            raise ValueError(f"line {number}: no command comes before {line!r}")
        elif line.startswith("> ") and not found[-1].output:
            found[-1] = found[-1]._replace(command=f"{found[-1].command}\n{line[2:]}")
        else:
            found[-1] = found[-1]._replace(output=(*found[-1].output, line))
    return found


def matches(expected: tuple[str, ...], said: str) -> bool:
    """Return whether output is as an example says it."""
    pattern = ".*".join(re.escape(part) for part in "\n".join(expected).split("..."))
    return re.fullmatch(pattern, said.rstrip("\n"), re.DOTALL) is not None
