"""Mistakes: what is said of a command line that makes no sense. One sentence, with what was typed, what would make sense, and where that is told.

click finds them; what it says is for who knows click. Imported only on need.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

import click

from unios.shell.fast import from_word
from unios.shell.words import COMMON, INDEX, Word, find

_NEAR: Final = 0.65
_MEANT: Final = {
    "submit": "run",
    "start": "run",
    "list": "ps",
    "ls": "ps",
    "jobs": "ps",
    "stop": "kill",
    "info": "status",
    "ssh": "exec",
    "tail": "logs",
    "init": "up",
    "add": "join",
    "remove": "leave",
    "version": "--version",
}
"""What other systems call it."""
_OF_ONE_NODE: Final = ("leave", "down", "doctor")


def unknown_word(typed: str) -> str:
    near = [_MEANT[typed]] if typed in _MEANT else get_close_matches(typed, INDEX, 3, _NEAR)
    meant = f" (did you mean {' or '.join(f'`unios {name}`' for name in near)}?)" if near else ""
    return f"there is no word {typed!r}{meant}"


def too_many(name: str, word: Word, extra: Sequence[str]) -> str:
    """Return what to say of arguments that a word has no use for."""
    first = extra[0]
    takes = f"takes {word.argument} and no more" if word.argument else "takes no arguments"
    if name == "up" and first.isdigit():
        hint = f": so many nodes are made by `unios up --nodes {first}`"
    elif name in _OF_ONE_NODE and not first.startswith("-"):
        hint = f": one node is named by `unios {name} --node {first}`"
    else:
        hint = ""
    return f"{first!r} is too much, since `unios {name}` {takes}{hint}"


def too_few(name: str, word: Word) -> str:
    return f"something is missing: write `unios {name} {word.argument}`"


def no_number(value: object) -> str:
    return f"takes a whole number from 0 on, not {value!r}"


def sentence(error: click.ClickException, typed: list[str]) -> str:
    """Return what to say of what click found."""
    after = from_word(typed)
    name = after[0] if after and after[0] in INDEX else ""
    return f"{_what(error, name).rstrip('.')}; see `{f'unios {name}' if name else 'unios'} --help`"


def _what(error: Any, name: str) -> str:
    if isinstance(error, click.NoSuchOption):
        near = sorted(error.possibilities or ())
        return f"there is no option {error.option_name}" + (f" (did you mean {' or '.join(near)}?)" if near else "")
    if isinstance(error, click.BadOptionUsage):
        option = _option(name, error.option_name)
        if option and "requires" in error.message:
            return f"{error.option_name} is without its value: write {error.option_name} {option}"
        return f"{error.option_name} takes no value" if "not take" in error.message else str(error.message)
    if isinstance(error, click.BadParameter) and error.param is not None and not isinstance(error, click.MissingParameter):
        return f"{error.param.opts[-1]} {error.message}" if error.message.startswith("takes") else f"{error.param.opts[-1]}: {error.message}"
    if error.message == "Missing command.":
        return "no word was typed: `unios help` lists them"
    return str(error.format_message())


def _option(name: str, option: str) -> str:
    """Return the metavar of an option, as typed."""
    word = find(name) if name else None
    for one in (*(word.options if word is not None else ()), *COMMON):
        if option in one.names:
            return one.metavar or "|".join(one.choices)
    return ""
