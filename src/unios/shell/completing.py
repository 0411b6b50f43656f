"""Completing: what may follow on a command line that is being typed, from the declared words. Pure: what only a system knows is named by its kind.

The same declarations as for fast.py and clicks.py serve, so that a new word is completed without a line here. What a value is is told by its
metavar: PID, NODE, POLICY, SIGNAL, USER, DIR, FILE.
"""

import re
from typing import Final, NamedTuple

from unios.shell.words import COMMON, INDEX, Option, Word, find

_NODE_KEYS: Final = {"node", "on", "node_of", "dead", "expel"}
"""Options whose value is a node though their metavar does not say it."""
_KINDS: Final = {
    "PID": "pids",
    "NODE": "nodes",
    "POLICY": "policies",
    "SIGNAL": "signals",
    "USER": "users",
    "DIR": "dirs",
    "FILE": "files",
    "PROGRAM": "commands",
    "WORD": "words",
}
_NAME: Final = re.compile(r"[A-Z]+")


class Possible(NamedTuple):
    """`kind`: what else may stand there that is to be looked up: pids, nodes, policies, signals, users, dirs, files, commands; or "".

    `texts`: (what to put, what it is).
    """

    kind: str = ""
    texts: tuple[tuple[str, str], ...] = ()


def possible(typed: list[str], at: int) -> Possible:
    """Return what may stand at place `at` of the command line `typed` (typed[0] is unios itself), before it is cut to what has been begun."""
    before, current = typed[1:at], typed[at] if at < len(typed) else ""
    name, inside = _word(before)
    if name is None:
        waiting = _waiting(before, COMMON)
        if waiting is not None:
            return _value(waiting)
        options = _options(COMMON) if current.startswith("-") else ()
        return Possible(texts=(*options, *(() if current.startswith("-") else tuple((word, text) for word, (_module, text) in INDEX.items()))))
    word = find(name)
    if word is None:
        return Possible()
    return _in_word(word, inside, current)


def _in_word(word: Word, inside: list[str], current: str) -> Possible:
    options = (*word.options, *COMMON)
    arguments, ended = _arguments(inside, options, rest=word.rest)
    if not ended:
        waiting = _waiting(inside, options)
        if waiting is not None:
            return _value(waiting)
        attached = next(
            (one for one in options for name in one.names if not one.is_flag and current.startswith(f"{name}=") and name.startswith("--")), None
        )
        if attached is not None:
            found = _value(attached)
            start = current.partition("=")[0]
            return Possible(found.kind, tuple((f"{start}={text}", what) for text, what in found.texts))
        if current.startswith("-"):
            return Possible(texts=_options(options))
    return _argument(word, arguments)


def _argument(word: Word, arguments: int) -> Possible:
    if not word.argument or (word.one and arguments):
        return Possible()
    alternatives = re.findall(r"[a-z]+(?:\|[a-z]+)+", word.argument)
    if alternatives:
        return Possible(texts=tuple((one, "") for one in alternatives[0].split("|")))
    names = _NAME.findall(word.argument)
    if word.rest:
        return Possible("files" if arguments else _KINDS.get(names[0], "files"))
    kind = next((_KINDS[name] for name in names if name in _KINDS), "")
    if kind == "words":
        return Possible(texts=tuple((one, text) for one, (_module, text) in INDEX.items()))
    return Possible(kind)


def _word(before: list[str]) -> tuple[str | None, list[str]]:
    """Return the word and what follows it, past the options before it."""
    at = 0
    while at < len(before):
        token = before[at]
        if not token.startswith("-"):
            return token, before[at + 1 :]
        option = next((one for one in COMMON if token in one.names), None)
        at += 1 if option is None or option.is_flag else 2
    return None, []


def _arguments(inside: list[str], options: tuple[Option, ...], *, rest: bool) -> tuple[int, bool]:
    """Return how many arguments there are, and whether options have ended."""
    at = count = 0
    while at < len(inside):
        token = inside[at]
        if token == "--":
            return count + len(inside) - at - 1, True
        if token.startswith("-") and len(token) > 1:
            option = next((one for one in options if token in one.names), None)
            at += 1 if option is None or option.is_flag else 2
            continue
        count += 1
        at += 1
        if rest:
            return count + len(inside) - at, True
    return count, False


def _waiting(before: list[str], options: tuple[Option, ...]) -> Option | None:
    """Return the option whose value comes next."""
    last = before[-1] if before else ""
    return next((one for one in options if last in one.names and not one.is_flag), None)


def _value(option: Option) -> Possible:
    if option.choices:
        return Possible(texts=tuple((choice, "") for choice in option.choices))
    if option.key in _NODE_KEYS:
        return Possible("nodes")
    names = _NAME.findall(option.metavar)
    return Possible(_KINDS.get(names[0], "") if names else "")


def _options(options: tuple[Option, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, option.text) for option in options for name in option.names)
