"""The words that a person types, declared: options, arguments, and the function that does it.

One declaration serves two readers: fast.py, which takes the plain cases without importing click, and clicks.py, which makes the
click command for help, mistakes and everything else. INDEX names the module of each word, so that only that one is imported.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unios.errors import Misused as Misused

if TYPE_CHECKING:
    from unios.shell.session import Session


class Option:
    """`names`: as typed. Without `metavar` it is a flag; `number`: its value is a whole number; `many`: may be given again."""

    def __init__(
        self,
        key: str,
        *names: str,
        text: str,
        metavar: str = "",
        number: bool = False,
        many: bool = False,
        choices: tuple[str, ...] = (),
    ) -> None:
        self.key = key
        self.names = names
        self.text = text
        self.metavar = metavar
        self.number = number
        self.many = many
        self.choices = choices

    @property
    def is_flag(self) -> bool:
        return not self.metavar and not self.choices


class Given:
    """What was typed after a word, by the keys of its options."""

    def __init__(self, values: dict[str, Any], arguments: tuple[str, ...] = ()) -> None:
        self.values = values
        self.arguments = arguments

    def flag(self, key: str) -> bool:
        return bool(self.values.get(key))

    def text(self, key: str) -> str:
        """Return the value, "" if it was not given."""
        return self.values.get(key) or ""

    def number(self, key: str, default: int = 0) -> int:
        value = self.values.get(key)
        return default if value is None else int(value)

    def many(self, key: str) -> tuple[str, ...]:
        return tuple(self.values.get(key) or ())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and (self.arguments, self._set()) == (other.arguments, other._set())

    __hash__ = None  # type: ignore[assignment]

    def _set(self) -> dict[str, Any]:
        return {key: value for key, value in self.values.items() if is_given(value)}


def is_given(value: object) -> bool:
    """Return whether an option was typed, from its value: 0 and "" are values."""
    return value is not None and value is not False and value not in ((), [])


class Word:
    """`argument`: the metavar of what follows, "" for nothing; `least` of them; `one`: at most one.

    `rest`: the first argument ends the options, what follows is another program's. `prepare` rewrites what was typed beforehand.
    `no_json`: why it has nothing to say in JSON, "" if it has.
    """

    def __init__(
        self,
        does: "Callable[[Session, Given], int]",
        *options: Option,
        text: str,
        argument: str = "",
        least: int = 0,
        one: bool = False,
        rest: bool = False,
        prepare: Callable[[list[str]], list[str]] | None = None,
        no_json: str = "",
    ) -> None:
        self.does = does
        self.options = options
        self.text = text
        self.argument = argument
        self.least = least
        self.one = one
        self.rest = rest
        self.prepare = prepare
        self.no_json = no_json


def check(word: Word, given: Given) -> None:
    """Raise Misused for what was typed and is empty: most often a variable of a script that is not set."""
    for option in (*word.options, *COMMON):
        value = given.values.get(option.key)
        if value == "" or (option.many and "" in given.many(option.key)):
            raise Misused(f"{option.names[-1]} is empty: give it a value ({option.metavar or '|'.join(option.choices)}), or leave it out")
    if word.no_json and given.flag("json"):
        raise Misused(f"--json: {word.no_json}")
    name = word.argument.translate({ord(mark): None for mark in "[]."}).partition(" ")[0].lower()
    if "" in (given.arguments[:1] if word.rest else given.arguments):
        raise Misused(f"the {name} is empty")


COMMON = (
    Option("home", "--home", metavar="DIR", text="The system's folder on this machine [default: $UNIOS_HOME or ~/.unios]."),
    Option("node", "--node", metavar="NAME", text="Talk through this node."),
    Option("json", "--json", text="Say it in JSON."),
)
"""Taken by every word, and before it."""

INDEX: dict[str, tuple[str, str]] = {
    "up": ("boot", "Start the nodes of this machine; the first time, make a system."),
    "join": ("boot", "Let another machine in, or with a TOKEN join its system."),
    "leave": ("boot", "Take a node out of the system for good."),
    "down": ("boot", "Stop the nodes of this machine."),
    "upgrade": ("upgrade", "Have the nodes of this machine run another version while what runs goes on."),
    "status": ("status", "Say whether all is well, and if not what to type."),
    "nodes": ("nodes", "List the nodes."),
    "run": ("run", "Run a program somewhere in the system."),
    "ps": ("ps", "List the processes."),
    "queue": ("queue", "Show who waits to run, and why."),
    "hold": ("queue", "Let what waits wait on."),
    "release": ("queue", "Let what is held go on."),
    "cancel": ("queue", "End what waits before it has begun."),
    "policy": ("queue", "List the placement policies, or choose one."),
    "quota": ("queue", "Show or bound what users may have at a time."),
    "kill": ("signals", "Send a signal to processes."),
    "top": ("top", "Show nodes and processes live, and act on them with keys."),
    "wait": ("signals", "Wait until processes have ended."),
    "freeze": ("signals", "Stop processes where they stand."),
    "thaw": ("signals", "Let frozen processes go on."),
    "renice": ("renice", "Give processes more or less of the processor."),
    "logs": ("logs", "Show what a process has written."),
    "attach": ("attach", "Be at the terminal of a process, from any node."),
    "exec": ("exec", "Open a program, or a shell, inside a process."),
    "forward": ("forwarding", "Make a TCP port of a process reachable here."),
    "results": ("carry", "Bring back what a process made of the folder that it took along."),
    "events": ("events", "Show what happened in the system."),
    "usage": ("usage", "Show what each user's processes have used."),
    "devices": ("devices", "List the devices of all nodes."),
    "mount": ("mounts", "Mount the tree of files on a folder."),
    "umount": ("mounts", "Unmount it."),
    "enable": ("enable", "Start this machine's nodes after each reboot (systemd)."),
    "disable": ("enable", "Undo `enable`."),
    "store": ("store", "Show how the system's store stands; back it up, restore it."),
    "doctor": ("doctor", "Say what this machine lacks, what that costs and how to mend it."),
    "completion": ("completion", "Print the script that makes a shell complete what is typed."),
    "man": ("man", "Show the manual page."),
    "help": ("man", "Show what words there are, or what one takes."),
}
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Processes", ("run", "ps", "wait", "kill", "freeze", "thaw", "renice", "logs", "attach", "exec", "forward", "results")),
    ("Files", ("mount", "umount")),
    ("Queue and resources", ("queue", "hold", "release", "cancel", "policy", "quota", "usage", "devices")),
    ("Seeing", ("status", "top", "events", "doctor")),
    ("System", ("up", "join", "leave", "down", "upgrade", "enable", "disable", "nodes", "store")),
    ("Help", ("help", "man", "completion")),
)
"""In what order help lists the words. One that is in no group is listed at the end."""
HIDDEN: dict[str, str] = {"__complete": "completion"}
"""Words that programs type and no list shows, and their modules."""


def groups() -> list[tuple[str, list[str]]]:
    """Return the words that there are, by groups in the order of help."""
    found = [(title, [name for name in names if name in INDEX]) for title, names in GROUPS]
    known = {name for _title, names in GROUPS for name in names}
    return [(title, names) for title, names in (*found, ("More", [name for name in INDEX if name not in known])) if names]


def find(name: str) -> Word | None:
    """Return the word of that name, importing its module; None if there is none."""
    module = INDEX[name][0] if name in INDEX else HIDDEN.get(name)
    if module is None:
        return None
    from importlib import import_module

    words: dict[str, Word] = import_module(f"unios.shell.{module}").WORDS
    return words[name]
