"""Reads a plain command line without click, whose import alone would cost as much as `unios ps`.

Takes only what is beyond doubt: options written out exactly as declared, each value in its place. Anything else (--help,
abbreviations, clusters, mistakes) is declined with None, and click reads it from the start. Whatever is taken, click would read the
same: a test holds it.
"""

from typing import Any

from unios.shell.words import COMMON, Given, Option, Word


def read(options: tuple[Option, ...], typed: list[str], values: dict[str, Any], *, rest: bool) -> list[str] | None:
    """Put options into `values`; return the arguments, None if in doubt. `rest`: the first argument ends the options."""
    byname = {name: option for option in options for name in option.names}
    arguments: list[str] = []
    at = 0
    while at < len(typed):
        token = typed[at]
        at += 1
        if token == "--":
            return arguments + typed[at:]
        if not token.startswith("-"):
            if rest:
                return typed[at - 1 :]
            arguments.append(token)
            continue
        name, equals, value = token.partition("=")
        option = byname.get(name)
        if option is None or (equals and (option.is_flag or not name.startswith("--"))):
            return None
        if not option.is_flag and not equals:
            if at == len(typed) or typed[at].startswith("-"):
                return None
            value = typed[at]
            at += 1
        if not _put(option, value, values):
            return None
    return arguments


def _put(option: Option, value: str, values: dict[str, Any]) -> bool:
    if option.is_flag:
        values[option.key] = True
    elif option.choices:
        if value not in option.choices:
            return False
        values[option.key] = value
    elif option.number:
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            return False
        values[option.key] = int(value)
    elif option.many:
        values[option.key] = (*values.get(option.key, ()), value)
    else:
        values[option.key] = value
    return True


def given(word: Word, typed: list[str], values: dict[str, Any]) -> Given | None:
    """Return what was typed after `word`, on top of the common options in `values`; None if in doubt."""
    if word.prepare is not None:
        typed = word.prepare(typed)
    values = dict(values)
    arguments = read((*word.options, *COMMON), typed, values, rest=word.rest)
    if arguments is None or len(arguments) < word.least:
        return None
    if (word.one and len(arguments) > 1) or (not word.argument and arguments):
        return None
    return Given(values, tuple(arguments))


def split(typed: list[str], values: dict[str, Any]) -> list[str] | None:
    """Read the common options before the word into `values`; return the word and what follows, None if in doubt."""
    if "--" in typed[: len(typed) - len(from_word(typed))]:
        return None
    return read(COMMON, typed, values, rest=True)


def from_word(typed: list[str]) -> list[str]:
    """Return everything from the first token that is no option."""
    return next((typed[at:] for at, token in enumerate(typed) if not token.startswith("-")), [])
